"""What generate and chat requests have in common."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from dmr.errors import InvalidRequest, ModelNotFound
from dmr.types import ResponseFormat
from dmr_server.fields import checked
from dmr_server.ollama.options import Options, read_options
from dmr_server.ollama.wire import FOREVER

MAX_TOP_LOGPROBS = 20
_LEVELS = ("low", "medium", "high", "max")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_NUMBER = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})?")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
MAX_DURATION_LENGTH = 64  # characters


class Need(NamedTuple):
    """Something that the model must be able to do, and what the client is told when it is not."""

    capability: str
    refusal: str


class CommonFields(NamedTuple):
    """The checked fields of both endpoints. `think` is None when the request says nothing about it."""

    model: str
    stream: bool
    options: Options
    keep_alive: float | None
    think: bool | str | None
    format: ResponseFormat | None
    num_logprobs: int | None
    truncate: bool
    shift: int | None
    given: frozenset[str]
    render_only: bool

    @property
    def reasoning_effort(self) -> str | None:
        return self.think if isinstance(self.think, str) else None

    def needs(self, verb: str) -> tuple[Need, ...]:
        """What any request to this endpoint needs of its model."""
        needs = [Need("completion", f'"{self.model}" does not support {verb}')]
        if self.think:
            needs.append(Need("thinking", f'"{self.model}" does not support thinking'))
        return tuple(needs)


def read_common(body: Mapping[str, Any]) -> CommonFields:
    """Check the fields that both endpoints have; raises InvalidRequest."""
    num_logprobs = _read_logprobs(body)  # told first, even for models that do not exist
    options = read_options(body.get("options"))
    shift = flag(body, "shift", True)
    think = _read_think(body.get("think"))
    given = {name for name, is_given in (("shift", "shift" in body), ("thinking", think is not None)) if is_given}
    return CommonFields(
        model=model_of(body),
        stream=flag(body, "stream", True),
        options=options,
        keep_alive=read_keep_alive(body.get("keep_alive")),
        think=think,
        format=_read_format(body.get("format")),
        num_logprobs=num_logprobs,
        truncate=flag(body, "truncate", True),
        shift=options.num_keep if shift else None,
        given=options.given | given,
        render_only=flag(body, "_debug_render_only", False),
    )


def model_of(body: Mapping[str, Any]) -> str:
    """The model that a body names, as `name` or `model`; "" if none. Raises InvalidRequest."""
    name = body.get("name")
    return checked(body.get("model", "") if name is None else name, str, "model")


def required_model(body: Mapping[str, Any]) -> str:
    """The same for endpoints where a body without one is told so."""
    model = model_of(body)
    if not model:
        raise InvalidRequest("model is required", param="model")
    return model


def found_model(body: Mapping[str, Any]) -> str:
    """The same for endpoints where no model is an unknown one."""
    model = model_of(body)
    if not model:
        raise ModelNotFound("")
    return model


def flag(body: Mapping[str, Any], name: str, default: bool) -> bool:
    return checked(body.get(name, default), bool, name)


def text_of(body: Mapping[str, Any], name: str) -> str:
    return checked(body.get(name, ""), str, name)


def read_keep_alive(value: Any) -> float | None:
    """Seconds, negative = for ever, None = the server's own time. Numbers are seconds, text is Go's ("1h30m")."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InvalidRequest(f"Unsupported type: '{type(value).__name__}'", param="keep_alive")
    seconds = _duration(value) if isinstance(value, str) else float(value)
    return -1.0 if seconds < 0 or seconds > FOREVER else seconds


def _duration(text: str) -> float:
    negative = text.startswith("-")
    digits = text[1:] if text[:1] in ("-", "+") else text
    if len(text) > MAX_DURATION_LENGTH:
        raise InvalidRequest(f"invalid duration: longer than {MAX_DURATION_LENGTH} characters", param="keep_alive")
    if _NUMBER.fullmatch(digits):
        seconds = float(digits)
    else:
        pieces = _DURATION.findall(digits)
        if not pieces or "".join(number + unit for number, unit in pieces) != digits:
            raise InvalidRequest(f'time: invalid duration "{text}"', param="keep_alive")
        seconds = math.fsum(float(number) * _SECONDS[unit] for number, unit in pieces)
    return -seconds if negative else seconds


def _read_think(value: Any) -> bool | str | None:
    if value is None or isinstance(value, bool) or value in _LEVELS:
        return value  # type: ignore[no-any-return]
    if value == "":
        return None
    shown = value[:40] if isinstance(value, str) else msgspec.json.encode(value).decode()[:40]
    raise InvalidRequest(
        f'invalid think value: "{shown}" (must be "high", "medium", "low", "max", true, or false)', param="think"
    )


def _read_format(value: Any) -> ResponseFormat | None:
    if value is None or value == "":
        return None
    if value == "json":
        return ResponseFormat(json_schema='{"type":"object"}')
    if isinstance(value, dict):
        return ResponseFormat(json_schema=msgspec.json.encode(value).decode())
    shown = msgspec.json.encode(value).decode()[:40]
    raise InvalidRequest(f'invalid format: {shown}; expected "json" or a valid JSON Schema object', param="format")


def _read_logprobs(body: Mapping[str, Any]) -> int | None:
    wanted = checked(body.get("top_logprobs", 0), int, "top_logprobs")
    if not 0 <= wanted <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}", param="top_logprobs")
    return wanted if flag(body, "logprobs", False) else None
