"""A setting's value, from a variable's text or a settings file's value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dmr.config.aliases import Alias, parse_aliases
from dmr.config.variables import FileName, Variable
from dmr.errors import InvalidRequest


class Said(NamedTuple):
    """What somebody has set, as messages quote it."""

    text: str  # "MODEL_RUNNER_PORT='http'"
    param: str

    def refused(self, why: str) -> InvalidRequest:
        return InvalidRequest(f"{self.text} {why}.", param=self.param)


def from_text(variable: Variable, text: str, said: Said) -> Any:
    """The value of a variable that is set. Raises InvalidRequest."""
    return _checked(variable, _READERS[variable.kind](text, said), said)


def from_toml(variable: Variable, value: object, said: Said) -> Any:
    """The value of a settings file's key. Raises InvalidRequest: it is not of the setting's kind."""
    kind = variable.kind
    if kind is float and type(value) is int:
        return _checked(variable, float(value), said)
    if kind is tuple and isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            raise said.refused("is not a list of texts")
        return _checked(variable, tuple(value), said)
    if kind in (Path, FileName) and isinstance(value, str):
        # From where the server is started says nothing about where the file's writer meant.
        if not value.startswith(("/", "~/")):
            raise said.refused("is not a path that begins with '/' or '~/'")
        return _READERS[kind](value, said)
    wanted = _TOML_KINDS[kind]
    if type(value) is not wanted.kind:
        raise said.refused(f"is not {wanted.name}")
    return _checked(variable, value, said)


def _checked(variable: Variable, value: Any, said: Said) -> Any:
    if variable.form is not None:
        wrong = next((item for item in value if not variable.form.fullmatch(item)), None)
        if wrong is not None:
            raise said.refused(f"has '{wrong}', which is not like {variable.like}")
    if variable.choices and value.lower() not in variable.choices:
        raise said.refused(f"is none of {', '.join(variable.choices)}")
    if variable.kind in (int, float) and not (variable.least <= value <= variable.most and math.isfinite(value)):
        raise said.refused(f"is out of range{_described(variable.least, variable.most)}")
    return value


def _described(least: float, most: float) -> str:
    low = f" from {least:g}" if math.isfinite(least) else ""
    return low + (f" to {most:.0f}" if math.isfinite(most) else "")


def _read_whole(text: str, said: Said) -> int:
    try:
        return int(text)
    except ValueError:
        raise said.refused("is not a whole number") from None


def _read_number(text: str, said: Said) -> float:
    try:
        return float(text)
    except ValueError:
        raise said.refused("is not a number") from None


def _read_switch(text: str, said: Said) -> bool:
    """Go's words for true and false, as upstream takes them."""
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise said.refused("is neither true nor false")


def _read_aliases(text: str, said: Said) -> tuple[Alias, ...]:
    table: dict[str, str] = {}
    for item in _read_list(text, said):
        pattern, equals, target = item.partition("=")
        if not equals:
            raise said.refused("is not a list like claude-*=ai/qwen3,gpt-*=ai/qwen3")
        if pattern.strip() in table:
            raise said.refused(f"has '{pattern.strip()}' twice")
        table[pattern.strip()] = target.strip()
    try:
        return parse_aliases(table)
    except InvalidRequest as error:
        raise InvalidRequest(f"{said.text}: {error.message}", param=said.param) from None


def _read_list(text: str, said: Said) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


_READERS: Mapping[type, Callable[[str, Said], Any]] = {
    str: lambda text, said: text,
    int: _read_whole,
    float: _read_number,
    bool: _read_switch,
    tuple: _read_list,
    Path: lambda text, said: Path(text).expanduser(),
    FileName: lambda text, said: str(Path(text).expanduser()),
    Alias: _read_aliases,
}


class _TomlKind(NamedTuple):
    kind: type
    name: str


_TOML_KINDS: Mapping[type, _TomlKind] = {
    str: _TomlKind(str, "a text in quotes"),
    int: _TomlKind(int, "a whole number"),
    float: _TomlKind(float, "a number"),
    bool: _TomlKind(bool, "true or false"),
    tuple: _TomlKind(list, "a list of texts"),
    Path: _TomlKind(str, "a path in quotes"),
    FileName: _TomlKind(str, "a path in quotes"),
}
