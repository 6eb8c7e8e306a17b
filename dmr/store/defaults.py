"""What a model brings along for requests that do not say it themselves: how it lies in the store, and back.

Each of system, template, parameters and messages is a layer of its own, in the form in which Ollama writes it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Union

import msgspec

from dmr.errors import StoreError
from dmr.store.manifest import MESSAGES_TYPE, PARAMETERS_TYPE, SYSTEM_TYPE, TEMPLATE_TYPE
from dmr.types import Message, ModelDefaults, Role, SamplingParams, TextPart, ToolCall

MOST = 2**31 - 1

# Ours to those of the file; the rest are the same.
_FILE_NAMES: Mapping[str, str] = {
    "max_tokens": "num_predict",
    "context_size": "num_ctx",
    "shift": "num_keep",
    "order": "samplers",
}
_OUR_NAMES: Mapping[str, str] = {theirs: ours for ours, theirs in _FILE_NAMES.items()}
_KINDS: Mapping[str, Any] = {
    **{field.name: field.type for field in msgspec.structs.fields(SamplingParams)},
    "stop": tuple[str, ...],
    "max_tokens": int,
    "context_size": int,
    "shift": int,
}

_log = logging.getLogger(__name__)


class _Function(msgspec.Struct, frozen=True):
    name: str
    arguments: Union[dict[str, Any], str] = {}


class _Call(msgspec.Struct, frozen=True, omit_defaults=True):
    function: _Function
    id: str = ""


class _Turn(msgspec.Struct, frozen=True, omit_defaults=True):
    role: Role
    content: str = ""
    thinking: str = ""
    tool_calls: tuple[_Call, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


def encode_defaults(defaults: ModelDefaults) -> Iterator[tuple[str, bytes]]:
    """The layers as (media type, bytes); none for what is empty. Equal defaults give equal bytes."""
    if defaults.template:
        yield TEMPLATE_TYPE, defaults.template.encode()
    if defaults.system:
        yield SYSTEM_TYPE, defaults.system.encode()
    if defaults.parameters:
        yield PARAMETERS_TYPE, msgspec.json.encode(_to_file(defaults.parameters), order="sorted")
    if defaults.messages:
        yield MESSAGES_TYPE, msgspec.json.encode([_to_turn(message) for message in defaults.messages])


def decode_defaults(layers: Mapping[str, bytes]) -> ModelDefaults:
    """The way back, from media type to bytes. Parameters that are not understood are left out with a log warning.

    Raises:
        StoreError: a layer is not what its type says.
    """
    try:
        return ModelDefaults(
            system=layers.get(SYSTEM_TYPE, b"").decode(),
            template=layers.get(TEMPLATE_TYPE, b"").decode(),
            messages=_from_turns(layers.get(MESSAGES_TYPE, b"[]")),
            parameters=_from_file(msgspec.json.decode(layers.get(PARAMETERS_TYPE, b"{}"), type=dict[str, Any])),
        )
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreError(f"A layer of the model's defaults cannot be understood: {error}.") from error


def _to_file(parameters: Mapping[str, Any]) -> dict[str, Any]:
    found = {_FILE_NAMES.get(name, name): value for name, value in parameters.items()}
    if "logit_bias" in found:
        found["logit_bias"] = {str(token): bias for token, bias in found["logit_bias"]}
    return found


def _from_file(stored: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {}
    for theirs, value in stored.items():
        name = _OUR_NAMES.get(theirs, theirs)
        if name not in _KINDS:
            _log.info("a model's parameter %r has no effect here", theirs[:40])
            continue
        try:
            ours = _in_our_terms(name, value)
            if ours is not None:
                parameters[name] = msgspec.convert(ours, _KINDS[name])
        except (msgspec.ValidationError, ValueError) as error:
            _log.warning("a model's parameter %r is left out: %s", theirs[:40], error)
    return parameters


def _in_our_terms(name: str, value: Any) -> Any:
    """A value of the file as ours; None for one that says no more than its absence."""
    if name == "stop" and isinstance(value, str):
        return [value]
    if name == "logit_bias" and isinstance(value, dict):
        return [(int(token), bias) for token, bias in value.items()]
    if isinstance(value, float) and _KINDS[name] in (int, Union[int, None]) and value.is_integer():
        value = int(value)  # Go writes whole numbers so
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if name == "shift":
        return MOST if value < 0 else min(value, MOST)
    if (name == "max_tokens" and value < 0) or (name == "seed" and value == -1):
        return None
    return max(0, value) if name == "top_k" else value


def _to_turn(message: Message) -> _Turn:
    calls = tuple(_Call(_Function(call.name, _arguments(call.arguments)), call.id) for call in message.tool_calls)
    name, call_id = message.name or "", message.tool_call_id or ""
    return _Turn(message.role, message.text, message.reasoning, calls, name, call_id)


def _arguments(text: str) -> dict[str, Any] | str:
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, Any])
    except msgspec.MsgspecError:
        return text


def _from_turns(raw: bytes) -> tuple[Message, ...]:
    return tuple(
        Message(
            role=turn.role,
            parts=(TextPart(turn.content),) if turn.content else (),
            reasoning=turn.thinking,
            tool_calls=tuple(_from_call(call) for call in turn.tool_calls),
            tool_call_id=turn.tool_call_id or None,
            name=turn.tool_name or None,
        )
        for turn in msgspec.json.decode(raw, type=tuple[_Turn, ...])
    )


def _from_call(call: _Call) -> ToolCall:
    arguments = call.function.arguments
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return ToolCall(call.id, call.function.name, text)
