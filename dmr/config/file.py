"""The settings file: TOML, a table for each part of the settings."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dmr.config.aliases import Alias, parse_aliases
from dmr.config.upstreams import UpstreamEngine, check_upstream
from dmr.config.values import Said, from_toml
from dmr.config.variables import VARIABLES, Variable
from dmr.errors import InvalidRequest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PATH_VARIABLE = "DMR_CONFIG"
MAX_BYTES = 1 << 20
_ALIASES, _ENGINES = "aliases", "engines"
_KEYS: Mapping[str, Mapping[str, Variable]] = {
    section: {row.key: row for row in VARIABLES.values() if row.section == section and row.kind is not Alias}
    for section in dict.fromkeys(row.section for row in VARIABLES.values())
}


class SettingsFile(NamedTuple):
    """A file that was read. `values` are by field of `Settings`; `lines` have "aliases.NAME" and the like too."""

    path: Path
    text: str
    values: Mapping[str, Any]
    lines: Mapping[str, int]  # as far as they could be found

    def told(self, field: str) -> str:
        """Where a setting is: "config.toml:12"."""
        return f"{self.path}:{self.lines[field]}" if field in self.lines else str(self.path)


def settings_path(environ: Mapping[str, str]) -> Path | None:
    """Where the file is looked for, whether it is there or not; None if nobody says where the user's files are."""
    if named := environ.get(PATH_VARIABLE, "").strip():
        return Path(named).expanduser()
    if (folder := environ.get("XDG_CONFIG_HOME", "").strip()) and Path(folder).is_absolute():
        return Path(folder, "dmr", "config.toml")
    home = environ.get("HOME", "").strip()
    return Path(home, ".config", "dmr", "config.toml") if home else None


def read_file(environ: Mapping[str, str]) -> SettingsFile | None:
    """The settings file, if there is one.

    Raises:
        InvalidRequest: it cannot be read, or something in it is wrong; the message names file, line and key. A file
            that `DMR_CONFIG` names must be there.
    """
    path = settings_path(environ)
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        if environ.get(PATH_VARIABLE, "").strip():
            raise InvalidRequest(f"There is no settings file {path}.", param=PATH_VARIABLE) from None
        return None
    except OSError as error:
        raise InvalidRequest(
            f"The settings file {path} cannot be read: {error.strerror}.", param=PATH_VARIABLE
        ) from None
    if len(content) > MAX_BYTES:
        raise InvalidRequest(f"The settings file {path} is larger than {MAX_BYTES} bytes.", param=PATH_VARIABLE)
    return _Reading(path, content).file()


class _Reading:
    """One file's content, on its way to values."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        try:
            self._text = content.decode("utf-8-sig")
            self._tables = tomllib.loads(self._text)
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise InvalidRequest(f"{path}:{line}: this is not UTF-8.", param=PATH_VARIABLE) from None
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InvalidRequest(f"{path} is not TOML: {error}.", param=PATH_VARIABLE) from None
        self._lines = _lines_of(self._text)
        self._values: dict[str, Any] = {}

    def file(self) -> SettingsFile:
        for section, table in self._tables.items():
            if section not in (*_KEYS, _ALIASES, _ENGINES):
                raise self._said((section,)).refused(
                    f"is no table of the settings{_guess(section, [*_KEYS, _ALIASES, _ENGINES])}"
                )
            if not isinstance(table, dict):
                raise self._said((section,)).refused(f"is a table: write [{section}] above its keys")
            if section == _ALIASES:
                self._values["aliases"] = self._aliases(table)
            elif section == _ENGINES:
                self._values["upstreams"] = self._engines(table)
            else:
                self._settings(section, table)
        return SettingsFile(self._path, self._text, self._values, self._lines_of_fields())

    def _settings(self, section: str, table: Mapping[str, object]) -> None:
        for key, value in table.items():
            row = _KEYS[section].get(key)
            if row is None:
                raise self._said((section, key)).refused(f"is no setting{_guess(key, _KEYS[section])}")
            if value != "":  # as with variables, an empty text is none
                self._values[row.field] = from_toml(row, value, self._said((section, key), value))

    def _aliases(self, table: Mapping[str, object]) -> tuple[Alias, ...]:
        for pattern, target in table.items():
            if not isinstance(target, str):
                raise self._said((_ALIASES, pattern), target).refused("is not the name of a model in quotes")
        try:
            return parse_aliases({pattern: str(target) for pattern, target in table.items()})
        except InvalidRequest as error:
            raise self._moved(error, (_ALIASES, str(error.param))) from None

    def _engines(self, table: Mapping[str, object]) -> tuple[UpstreamEngine, ...]:
        return tuple(self._engine(name, keys) for name, keys in table.items())

    def _engine(self, name: str, keys: object) -> UpstreamEngine:
        place = (_ENGINES, name)
        if not isinstance(keys, dict):
            raise self._said(place, keys).refused(f"is a table: write [{_ENGINES}.{name}] above its keys")
        for key in keys:
            if key not in UpstreamEngine.__struct_fields__ or key == "name":
                known = [field for field in UpstreamEngine.__struct_fields__ if field != "name"]
                raise self._said((*place, key)).refused(f"is no setting of an engine{_guess(key, known)}")
        try:
            engine = msgspec.convert({"name": name, **keys}, UpstreamEngine)
            check_upstream(engine)
        except msgspec.ValidationError as error:
            raise self._moved(InvalidRequest(f"[{'.'.join(place)}]: {error}."), place) from None
        except InvalidRequest as error:
            key = str(error.param).rpartition(".")[2]
            raise self._moved(error, (*place, key) if key in keys else place) from None
        return engine

    def _said(self, place: tuple[str, ...], *value: object) -> Said:
        *tables, key = place
        table = f"[{'.'.join(tables)}] " if tables else ""
        shown = f" = {_shown(value[0])}" if value else ""
        return Said(f"{self._where(place)}: {table}{key}{shown}", ".".join(place))

    def _moved(self, error: InvalidRequest, place: tuple[str, ...]) -> InvalidRequest:
        """An error that knows nothing of the file, with its place there."""
        return InvalidRequest(f"{self._where(place)}: {error.message}", param=".".join(place))

    def _where(self, place: tuple[str, ...]) -> str:
        line = self._lines.get(place)
        return f"{self._path}:{line}" if line else str(self._path)

    def _lines_of_fields(self) -> dict[str, int]:
        lines = {".".join(place): line for place, line in self._lines.items()}
        fields = {row.field: f"{row.section}.{row.key}" for row in VARIABLES.values()}
        return {**lines, **{field: lines[place] for field, place in fields.items() if place in lines}}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _guess(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; perhaps '{near[0]}' is meant" if near else f"; there are {', '.join(known)}"


def _lines_of(text: str) -> dict[tuple[str, ...], int]:
    """The line of each key and table, for messages. Lines inside of long texts may be taken for keys."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        if line.lstrip().startswith("["):
            if place := _place_of(line.partition("]")[0].lstrip(" \t[").strip() + " = 0"):
                table = place
                for depth in range(1, len(table) + 1):
                    lines.setdefault(table[:depth], number)
        elif "=" in line and (place := _place_of(line.partition("=")[0] + "= 0")):
            lines.setdefault((*table, *place), number)
    return lines


def _place_of(assignment: str) -> tuple[str, ...]:
    """The keys that `a."b.c" = 0` goes down; none if it is no assignment."""
    try:
        tree: object = tomllib.loads(assignment)
    except tomllib.TOMLDecodeError:
        return ()
    place: list[str] = []
    while isinstance(tree, dict) and tree:
        key, tree = next(iter(tree.items()))
        place.append(key)
    return tuple(place)
