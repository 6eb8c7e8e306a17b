"""A model's own defaults, for what a request does not say itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from dmr.types import ChatInput, GenerateRequest, Message, ModelDefaults, Role, SamplingParams, TextPart

_SAMPLING = frozenset(SamplingParams.__struct_fields__)
_OTHERS = frozenset({"stop", "max_tokens", "context_size", "shift"})

logger = logging.getLogger("dmr.service")


def with_defaults(request: GenerateRequest, defaults: ModelDefaults) -> GenerateRequest:
    """The request as the model's maker wants it, where the client has said nothing else."""
    if defaults == ModelDefaults():
        return request
    changes = _parameters(request, defaults.parameters)
    if isinstance(request.input, ChatInput):
        changes["input"] = _with_turns(request.input, defaults, bool(request.prefix_tokens))
    return msgspec.structs.replace(request, **changes)


def default_context(defaults: ModelDefaults, asked: int | None) -> int | None:
    """The context to load the model with."""
    return asked if asked is not None else defaults.parameters.get("context_size")


def _parameters(request: GenerateRequest, parameters: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := parameters.keys() - _SAMPLING - _OTHERS:
        logger.info("parameters of the model that have no effect here: %s", ", ".join(sorted(unknown)))
    free = {name: value for name, value in parameters.items() if name not in request.given}
    changes: dict[str, Any] = {name: free[name] for name in ("stop", "max_tokens") if name in free}
    if "stop" in changes:
        changes["stop"] = tuple(changes["stop"])
    changes["context_size"] = default_context(ModelDefaults(parameters=free), request.context_size)
    if request.shift is not None and "shift" in free:  # it tells how much stays, not that anything goes
        changes["shift"] = free["shift"]
    sampling = {name: value for name, value in free.items() if name in _SAMPLING}
    changes["sampling"] = msgspec.structs.replace(request.sampling, **sampling)
    return changes


def _with_turns(chat: ChatInput, defaults: ModelDefaults, goes_on: bool) -> ChatInput:
    """`goes_on`: earlier tokens come first, which have begun with the default messages already."""
    turns = chat.messages
    num_system = next((i for i, turn in enumerate(turns) if turn.role is not Role.SYSTEM), len(turns))
    system = turns[:num_system]
    if defaults.system and not any(turn.role is Role.SYSTEM for turn in turns):
        system = (Message(Role.SYSTEM, (TextPart(defaults.system),)),)
    examples = () if goes_on else defaults.messages
    return msgspec.structs.replace(
        chat, messages=(*system, *examples, *turns[num_system:]), template=chat.template or defaults.template
    )
