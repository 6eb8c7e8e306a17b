"""Flags into settings of an engine, and into what a request says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dmr.config import EngineSettings
from dmr.runtime_flags.kinds import INT_MAX
from dmr.runtime_flags.parsing import FlagValues
from dmr.types import ChatInput, GenerateRequest, ResponseFormat

PARTS = ("weights", "attention", "rope", "draft", "projector")  # structs of `EngineSettings`
_SPECULATIONS: Mapping[frozenset[str], str] = {
    frozenset({"none"}): "off",
    frozenset({"draft-simple"}): "draft",
    frozenset({"ngram-simple"}): "ngram",
    frozenset({"draft-simple", "ngram-simple"}): "auto",
}


def engine_settings(base: EngineSettings, values: FlagValues) -> EngineSettings:
    """`base`, with what the flags say of engines. Raises KeyError: a combination of `--spec-type` nobody checked."""
    fields = values.part("engine")
    limit = fields.pop("batch_limit", None)
    if limit is not None:
        fields["max_batch_tokens"] = min(limit, fields.get("max_batch_tokens", base.max_batch_tokens))
    if "speculation" in fields:
        fields["speculation"] = speculation_of(fields["speculation"])
    for part in PARTS:
        changes = values.part(part)
        if changes:
            fields[part] = msgspec.structs.replace(getattr(base, part), **changes)
    return msgspec.structs.replace(base, **fields)


def speculation_of(kinds: tuple[str, ...]) -> str:
    """`--spec-type` as `EngineSettings.speculation`. Raises KeyError."""
    return _SPECULATIONS[frozenset(kinds)]


def with_runtime_flags(request: GenerateRequest, values: FlagValues) -> GenerateRequest:
    """The request, with what the flags say where the client has said nothing. What they say counts as given."""
    sampling = {name: value for name, value in values.part("sampling").items() if name not in request.given}
    changes: dict[str, Any] = {}
    if sampling:
        changes["sampling"] = msgspec.structs.replace(request.sampling, **sampling)
    wishes = values.part("request")
    given = set(request.given) | sampling.keys()
    if "max_tokens" in wishes and "max_tokens" not in request.given:
        changes["max_tokens"] = wishes["max_tokens"] if wishes["max_tokens"] >= 0 else None
        given.add("max_tokens")
    if ("keep" in wishes or "context_shift" in wishes) and "shift" not in request.given:
        changes["shift"] = _shift(request.shift, wishes)
        given.add("shift")
    if "format" in wishes and request.response_format is None and not _offers_tools(request):
        kind, text = wishes["format"]
        changes["response_format"] = ResponseFormat(**{kind: text})
    if isinstance(request.input, ChatInput):
        changes["input"] = _with_wishes(request.input, wishes)
    return msgspec.structs.replace(request, **changes, given=frozenset(given))


def _shift(shift: int | None, wishes: Mapping[str, Any]) -> int | None:
    """How many tokens stay when the context is shifted; None = it is not."""
    is_wished = wishes.get("context_shift", shift is not None)
    keep = wishes.get("keep", shift or 0)
    return (INT_MAX if keep < 0 else keep) if is_wished else None


def _offers_tools(request: GenerateRequest) -> bool:
    return isinstance(request.input, ChatInput) and bool(request.input.tools)


def _with_wishes(chat: ChatInput, wishes: Mapping[str, Any]) -> ChatInput:
    return msgspec.structs.replace(
        chat,
        template=chat.template or wishes.get("template", ""),
        template_kwargs={**wishes.get("template_kwargs", {}), **chat.template_kwargs},
        continue_final=chat.continue_final and wishes.get("continue_final", True),
    )
