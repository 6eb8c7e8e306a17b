"""`options`: how to sample, how long to go on, and what Ollama asks of a loader.

A request's option goes before the model's own default, which goes before Ollama's default.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from dmr.errors import InvalidRequest
from dmr.types import SamplingParams
from dmr_server.fields import INT32_MAX, MAX_STOPS, SAMPLING_FIELDS, checked, read_sampling

log = logging.getLogger("dmr.server")

DEFAULTS = SamplingParams(top_p=0.9, min_p=0.0)  # the rest of Ollama's defaults are llama.cpp's
DEFAULT_NUM_KEEP = 4  # tokens at the front that stay when the context is shifted
MIN_CONTEXT = 4  # tokens
MAX_STOP_LENGTH = 4096  # characters

INTEGER, FLOAT, BOOLEAN = "integer", "float32", "boolean"


class Kind(NamedTuple):
    """Type and bounds of an option."""

    name: str
    least: float = -math.inf
    most: float = math.inf


# Bounds are what the sampler can take; whatever is below 0 means "off" where Ollama takes it so.
SAMPLING: Mapping[str, Kind] = {
    "seed": Kind(INTEGER, -(2**63), 2**63 - 1),
    "top_k": Kind(INTEGER, -INT32_MAX, INT32_MAX),
    "top_p": Kind(FLOAT, 0, 1),
    "min_p": Kind(FLOAT, 0, 1),
    "typical_p": Kind(FLOAT, 0, 1),
    "repeat_last_n": Kind(INTEGER, -1, INT32_MAX),
    "temperature": Kind(FLOAT, 0, 1000),
    "repeat_penalty": Kind(FLOAT, 0.001, 1000),
    "presence_penalty": Kind(FLOAT, -100, 100),
    "frequency_penalty": Kind(FLOAT, -100, 100),
}
LENGTHS: Mapping[str, Kind] = {
    "num_predict": Kind(INTEGER),
    "num_keep": Kind(INTEGER),
    "num_ctx": Kind(INTEGER),
}
# How the model is loaded is the server's matter: these are checked and have no effect.
LOAD_TIME: Mapping[str, Kind] = {
    "num_gpu": Kind(INTEGER),
    "main_gpu": Kind(INTEGER),
    "num_batch": Kind(INTEGER),
    "num_thread": Kind(INTEGER),
    "draft_num_predict": Kind(INTEGER),
    "use_mmap": Kind(BOOLEAN),
}
# llama.cpp's sampler has more than Ollama lets through.
_EXTRA = {*SAMPLING_FIELDS, "logit_bias", "samplers"} - set(SAMPLING)
_KNOWN = {*SAMPLING, *LENGTHS, *LOAD_TIME, *_EXTRA, "stop"}


class Options(NamedTuple):
    """`given` names what the request has set itself, by the names of `GenerateRequest.given`."""

    sampling: SamplingParams
    given: frozenset[str]
    max_tokens: int | None  # None = as many as there is room for
    stop: tuple[str, ...]
    context_size: int | None
    num_keep: int


def read_options(value: Any) -> Options:
    """Understand `options` (None = none); unknown ones are logged and left. Raises InvalidRequest."""
    asked = checked({} if value is None else value, dict[str, Any], "options")
    options = {name: each for name, each in asked.items() if each is not None}
    if unknown := sorted(set(options) - _KNOWN):
        log.warning("unknown options are ignored: %s", ", ".join(repr(name[:40]) for name in unknown[:10]))
    kinds = {**SAMPLING, **LENGTHS, **LOAD_TIME}
    values = {name: _read(name, options[name], kind) for name, kind in kinds.items() if name in options}
    sampling, given = _read_sampling(options, values)
    lengths = {"num_predict": "max_tokens", "num_keep": "shift", "num_ctx": "context_size", "stop": "stop"}
    return Options(
        sampling=sampling,
        given=given | {ours for theirs, ours in lengths.items() if theirs in options},
        max_tokens=_max_tokens(values.get("num_predict")),
        stop=_read_stop(options.get("stop")),
        context_size=_context_size(values.get("num_ctx")),
        num_keep=_num_keep(values.get("num_keep", DEFAULT_NUM_KEEP)),
    )


def _read_sampling(options: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[SamplingParams, frozenset[str]]:
    extra = {name: options[name] for name in _EXTRA if name in options}
    sampling, given = read_sampling(extra, DEFAULTS)
    known: dict[str, Any] = {name: values[name] for name in SAMPLING if name in values}
    if known.get("seed") == -1:  # a fresh one, whatever the model's default is
        known["seed"] = None
    if "top_k" in known:
        known["top_k"] = max(0, known["top_k"])
    return msgspec.structs.replace(sampling, **known), given | frozenset(known)


def _read(name: str, value: Any, kind: Kind) -> Any:
    if kind.name == BOOLEAN:
        if not isinstance(value, bool):
            raise _wrong_type(name, kind.name)
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _wrong_type(name, kind.name)
    value = int(value) if kind.name == INTEGER else float(value)
    if not kind.least <= value <= kind.most:
        raise InvalidRequest(
            f'option "{name}" must be between {kind.least:g} and {kind.most:g}', param=f"options.{name}"
        )
    return value


def _wrong_type(name: str, kind: str) -> InvalidRequest:
    return InvalidRequest(f'option "{name}" must be of type {kind}', param=f"options.{name}")


def _max_tokens(num_predict: int | None) -> int | None:
    return None if num_predict is None or num_predict < 0 else min(num_predict, INT32_MAX)


def _context_size(num_ctx: int | None) -> int | None:
    return None if num_ctx is None or num_ctx <= 0 else min(max(MIN_CONTEXT, num_ctx), INT32_MAX)


def _num_keep(num_keep: int) -> int:
    """Below 0 the whole prompt stays; more than the context is as much as it can be."""
    return INT32_MAX if num_keep < 0 else min(num_keep, INT32_MAX)


def _read_stop(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest('option "stop" must be of an array of strings', param="options.stop")
    if len(texts) > MAX_STOPS or any(len(text) > MAX_STOP_LENGTH for text in texts):
        raise InvalidRequest(
            f'option "stop" may hold {MAX_STOPS} texts of {MAX_STOP_LENGTH} characters', param="options.stop"
        )
    return tuple(text for text in texts if text)
