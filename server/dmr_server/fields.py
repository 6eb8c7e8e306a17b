"""Fields that many dialects share, their ranges, and how a wrong one is named.

Ranges are those of OpenAI's OpenAPI document; for fields of llama.cpp they are what its sampler can take.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from dmr.errors import InvalidRequest
from dmr.types import SamplingParams, Tool

INT32_MAX = 2**31 - 1
DEFAULT_SAMPLING = SamplingParams()
MAX_STOPS = 64  # OpenAI takes 4, local clients send more
_MAX_EXACT = 2**53  # floats up to here are whole numbers without loss

Count = Annotated[int, Meta(ge=0, le=INT32_MAX)]
Unit = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0, le=1000)]  # bounded so that it stays finite as a 32-bit float
LookBack = Annotated[int, Meta(ge=-1, le=INT32_MAX)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
StopString = Annotated[str, Meta(min_length=1, max_length=4096)]

SAMPLING_FIELDS: Mapping[str, Any] = {
    "temperature": Annotated[float, Meta(ge=0, le=2)],
    "dynatemp_range": Annotated[float, Meta(ge=0, le=2)],
    "dynatemp_exponent": Amount,
    "top_k": LookBack,
    "top_p": Unit,
    "min_p": Unit,
    "typical_p": Unit,
    "top_n_sigma": Annotated[float, Meta(ge=-1, le=1000)],
    "xtc_probability": Unit,
    "xtc_threshold": Unit,
    "repeat_last_n": LookBack,
    "repeat_penalty": Annotated[float, Meta(gt=0, le=1000)],
    "presence_penalty": Penalty,
    "frequency_penalty": Penalty,
    "dry_multiplier": Amount,
    "dry_base": Annotated[float, Meta(ge=1, le=1000)],
    "dry_allowed_length": Count,
    "dry_penalty_last_n": LookBack,
    "dry_sequence_breakers": Annotated[tuple[StopString, ...], Meta(max_length=MAX_STOPS)],
    "mirostat": Annotated[int, Meta(ge=0, le=2)],
    "mirostat_tau": Amount,
    "mirostat_eta": Unit,
    "adaptive_target": Annotated[float, Meta(ge=-1, le=1)],
    "adaptive_decay": Annotated[float, Meta(ge=0, le=0.99)],
    "min_keep": Count,
    "seed": Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)],
    "ignore_eos": bool,
}


def read_sampling(
    body: Mapping[str, Any], defaults: SamplingParams = DEFAULT_SAMPLING
) -> tuple[SamplingParams, frozenset[str]]:
    """The sampling fields that are there, over `defaults`, and which they were; raises InvalidRequest."""
    given = {name: checked(body[name], kind, name) for name, kind in SAMPLING_FIELDS.items() if name in body}
    if "repetition_penalty" in body:
        name = "repetition_penalty"
        given.setdefault("repeat_penalty", checked(body[name], SAMPLING_FIELDS["repeat_penalty"], name))
    if given.get("seed") == -1:  # llama.cpp's word for "a fresh one"
        del given["seed"]
    if given.get("top_k") == -1:  # vLLM's word for "off"
        given["top_k"] = 0
    if "samplers" in body:
        given["order"] = checked(body["samplers"], tuple[Annotated[str, Meta(max_length=32)], ...], "samplers")
    if "logit_bias" in body:
        given["logit_bias"] = _logit_bias(body["logit_bias"])
    return msgspec.structs.replace(defaults, **given), frozenset(given)


def _logit_bias(value: Any) -> tuple[tuple[int, float], ...]:
    biases = checked(value, dict[str, Annotated[float, Meta(ge=-100, le=100)]], "logit_bias")
    for token in biases:
        if not token.isascii() or not token.isdigit() or len(token) > 10 or int(token) > INT32_MAX:
            raise InvalidRequest(f"'{token[:40]}' in 'logit_bias' is not a token id.", param="logit_bias")
    return tuple((int(token), bias) for token, bias in biases.items())


def normalised(body: Mapping[str, Any]) -> dict[str, Any]:
    """Without nulls, which mean "absent", and with 3.0 as 3: some clients know floats only."""
    return {name: _whole_if_whole(value) for name, value in body.items() if value is not None}


def _whole_if_whole(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() and abs(value) <= _MAX_EXACT else value


T = TypeVar("T")
_WITH_PATH = re.compile(r"(.*?)(?: - at `(?:key in )?\$(.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")


def checked(value: Any, kind: type[T], param: str = "") -> T:
    """`value` as a `kind`; raises InvalidRequest that names the field by its path below `param`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        found = _WITH_PATH.fullmatch(str(error))
        assert found is not None
        problem, path = found.group(1), (param + (found.group(2) or "")).lstrip(".")
        if missing := _MISSING.fullmatch(problem):
            path = f"{path}.{missing.group(1)}".lstrip(".")
            raise InvalidRequest(f"Missing required parameter: '{path}'.", param=path) from None
        path = path.replace("[...]", "")
        problem = problem[:1].lower() + problem[1:].replace("`", "")
        raise InvalidRequest(f"Invalid value for '{path}': {problem}.", param=path) from None


MAX_TOOLS = 1024


def check_tools(tools: Collection[Tool], param: str) -> None:
    """Raises InvalidRequest for too many tools, unusable names and names that are there twice."""
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"Invalid value for '{param}': expected at most {MAX_TOOLS}.", param=param)
    seen: set[str] = set()
    for tool in tools:
        if not tool.name or len(tool.name) > 256 or not tool.name.isprintable():
            raise InvalidRequest(f"Invalid value for '{param}': a tool needs a printable name.", param=param)
        # Models write names as they are, also inside of JSON strings and in front of spaces.
        if tool.name != tool.name.strip() or '"' in tool.name or "\\" in tool.name:
            problem = "a tool's name has no quotation marks, no backslashes and no spaces at its ends"
            raise InvalidRequest(f"Invalid value for '{param}': {problem}.", param=param)
        if tool.name in seen:
            raise InvalidRequest(f"Invalid value for '{param}': '{tool.name}' is there twice.", param=param)
        seen.add(tool.name)


def check_names(names: Collection[str], tools: Collection[Tool], param: str) -> None:
    """Raises InvalidRequest for a name that no tool has."""
    known = {tool.name for tool in tools}
    for name in names:
        if name not in known:
            raise InvalidRequest(f"'{param}' names '{name}', which is not among the tools.", param=param)
