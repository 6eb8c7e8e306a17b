"""Lists of flags: split, checked, read, merged."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dmr.errors import InvalidRequest, Unsupported
from dmr.runtime_flags.flag import Flag, Refused, Sets, Told
from dmr.runtime_flags.table import FLAGS
from dmr.types.configuration import BACKEND

MAX_FLAGS = 256  # tokens of one list
MAX_TOKEN = 65536  # characters of one
_NEGATIVE = re.compile(r"-\.?[0-9]")
PARAM = "runtime-flags"


class GivenFlag(NamedTuple):
    """One flag of a list, as it was written."""

    flag: Flag
    name: str
    text: str | None  # of its value
    tokens: tuple[str, ...]


class FlagValues(NamedTuple):
    """What a list of flags sets, by target."""

    values: Mapping[str, Any] = {}

    def part(self, name: str) -> dict[str, Any]:
        """The fields of one part."""
        start = f"{name}."
        return {target.removeprefix(start): value for target, value in self.values.items() if target.startswith(start)}


def split_flags(text: str) -> tuple[str, ...]:
    """A line of flags as a shell would split it. Raises InvalidRequest."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InvalidRequest(f"invalid runtime flags: {error}", param="raw-runtime-flags") from None


def given_flags(tokens: Sequence[str]) -> list[GivenFlag]:
    """Raises InvalidRequest: a flag that is not allowed, a path, or a value that is missing or stands alone."""
    _check_tokens(tokens)
    found: list[GivenFlag] = []
    i = 0
    while i < len(tokens):
        name, equals, text = tokens[i].partition("=")
        if name not in FLAGS:
            raise InvalidRequest(f"invalid runtime flag {_quoted(tokens[i])}: no flag stands before it", param=PARAM)
        flag, end = FLAGS[name], i + 1
        if flag.takes_value and not equals and end < len(tokens) and _is_value(tokens[end]):
            text, equals, end = tokens[end], "=", end + 1
        if equals and not flag.takes_value:
            raise InvalidRequest(f"runtime flag {_quoted(name)} takes no value", param=PARAM)
        found.append(GivenFlag(flag, name, text if equals else None, tuple(tokens[i:end])))
        i = end
    return found


def read_flags(tokens: tuple[str, ...]) -> FlagValues:
    """What the flags set; of two that say the same, the later counts.

    Raises:
        InvalidRequest: as `given_flags`, or a value is not of its kind, or two do not go together.
        Unsupported: a flag that is refused here, with the reason.
    """
    return _read_flags(tuple(tokens))


@functools.lru_cache(maxsize=256)
def _read_flags(tokens: tuple[str, ...]) -> FlagValues:
    values: dict[str, Any] = {}
    for given in given_flags(tokens):
        effect = given.flag.effect
        if isinstance(effect, Refused):
            raise Unsupported(f"runtime flag {_quoted(given.name)} is not supported: {effect.reason}", param=PARAM)
        if isinstance(effect, Told):
            _check_told(given, effect)
        else:
            values.pop(effect.target, None)
            value = _value(given, effect)
            if value is not None:
                values[effect.target] = value
    _check_together(values)
    return FlagValues(values)


def merged_flags(old: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    """`old`, but what `new` says stands as there. The new ones come last. Raises as `given_flags`."""
    fresh: dict[str, GivenFlag] = {}
    for given in given_flags(new):
        fresh.pop(given.flag.key, None)
        fresh[given.flag.key] = given
    kept = [given for given in given_flags(old) if given.flag.key not in fresh]
    return tuple(token for given in [*kept, *fresh.values()] for token in given.tokens)


def flags_without(tokens: Sequence[str], parts: Sequence[str]) -> tuple[str, ...]:
    """Without those that set something of these parts."""
    kept = (given for given in given_flags(tokens) if given.flag.key.partition(".")[0] not in parts)
    return tuple(token for given in kept for token in given.tokens)


def _check_tokens(tokens: Sequence[str]) -> None:
    """What Docker Model Runner checks, in its order and words; a negative number behind a flag is a value here."""
    if len(tokens) > MAX_FLAGS or any(len(token) > MAX_TOKEN for token in tokens):
        raise InvalidRequest("invalid runtime flags: there are too many, or one is too long", param=PARAM)
    for i, token in enumerate(tokens):
        name = token.partition("=")[0]
        is_value = i > 0 and _NEGATIVE.match(token) and _takes_value(tokens[i - 1])
        if token.startswith("-") and not is_value and name not in FLAGS:
            raise InvalidRequest(
                f"runtime flag {_quoted(name)} is not allowed for backend {_quoted(BACKEND)}", param=PARAM
            )
    for token in tokens:
        if "/" in token or "\\" in token:
            text = f"invalid runtime flag {_quoted(token)}: paths are not allowed (contains '/' or '\\\\')"
            raise InvalidRequest(text, param=PARAM)
        _, equals, text = token.partition("=")
        if token.startswith("-") and equals and text.startswith("-") and not _NEGATIVE.match(text):
            text = f"invalid flag {_quoted(token)}: value cannot start with '-' unless followed by a digit"
            raise InvalidRequest(text, param=PARAM)


def _takes_value(token: str) -> bool:
    return token in FLAGS and FLAGS[token].takes_value


def _is_value(token: str) -> bool:
    return not token.startswith("-") or bool(_NEGATIVE.match(token))


def _value(given: GivenFlag, effect: Sets) -> Any:
    kind = effect.kind
    if given.text is None and kind.takes_value and not kind.is_optional:
        raise InvalidRequest(f"runtime flag {_quoted(given.name)} needs a value: {kind}", param=PARAM)
    try:
        return kind.parse(given.text or "")
    except ValueError:
        told = f"runtime flag {_quoted(given.name)}: {_quoted((given.text or '')[:80])} is not {kind}"
        raise InvalidRequest(told, param=PARAM) from None


def _check_told(given: GivenFlag, effect: Told) -> None:
    if effect.only and given.text not in effect.only:
        told = f"runtime flag {_quoted(given.name)} is supported with {' or '.join(effect.only)} only: {effect.note}"
        raise Unsupported(told, param=PARAM)


def _check_together(values: Mapping[str, Any]) -> None:
    cells = [values.get(f"attention.{name}", "f16") for name in ("key_type", "value_type")]
    if values.get("attention.flash_attention") == "off" and not set(cells) <= _PLAIN:
        raise InvalidRequest("quantized types of KV cells need flash attention: --flash-attn on or auto", param=PARAM)
    if values.get("weights.use_direct_io") and values.get("weights.use_mlock"):
        raise InvalidRequest("--direct-io and --mlock exclude each other", param=PARAM)
    fewest, most = values.get("projector.min_tokens", -1), values.get("projector.max_tokens", -1)
    if 0 < most < fewest:
        raise InvalidRequest("--image-min-tokens is more than --image-max-tokens", param=PARAM)
    order = values.get("sampling.order", ())
    if "infill" in order and not 0 < _top_k_before_infill(order, values) <= _MOST_CANDIDATES:
        text = f"--samplers: infill needs top_k before it, and --top-k of {_MOST_CANDIDATES} at most"
        raise InvalidRequest(text, param=PARAM)


_PLAIN = {"f32", "f16", "bf16"}
_MOST_CANDIDATES = 256


def _top_k_before_infill(order: Sequence[str], values: Mapping[str, Any]) -> int:
    return values.get("sampling.top_k", 40) if "top_k" in order[: order.index("infill")] else 0


def _quoted(text: str) -> str:
    """As Go's %q writes it, for text of one line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
