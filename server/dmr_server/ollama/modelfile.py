"""Modelfiles: a recipe for a model as lines of commands, read into the fields of a body of /api/create."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from dmr.errors import InvalidRequest, Unsupported

MAX_LENGTH = 4 << 20  # characters

_COMMANDS = (
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
)
_NAMED = ("parameter", "message")  # a word follows before the value
_SPACE = re.compile(r"(?:\s|#[^\n]*(?:\n|$))*")  # between commands, with comments
_COMMAND = re.compile(r"([A-Za-z]+)[ \t]+")
_WORD = re.compile(r"(\S+)[ \t]+")
_LONG = re.compile(r'"""(.*?)"""[ \t]*(?:\n|$)', re.DOTALL)
_QUOTED = re.compile(r'"([^\n]*)"[ \t]*(?:\n|$)')
_PLAIN = re.compile(r"([^\n]*)(?:\n|$)")
_DIGEST = re.compile(r"@?(sha256[:-][0-9a-fA-F]{64})")
_PATH = re.compile(r"(?:[/~\\]|\.{1,2}[/\\]|[A-Za-z]:\\).*|.*\.(?:gguf|bin|safetensors)", re.DOTALL | re.IGNORECASE)
_LISTS = ("stop", "dry_sequence_breakers", "samplers")


class Command(NamedTuple):
    name: str
    word: str
    value: str
    is_quoted: bool


def read_modelfile(text: str) -> dict[str, Any]:
    """What a body would say instead: from, files, template, system, parameters, messages, license, ...

    Raises:
        InvalidRequest: it is no Modelfile.
        Unsupported: it names a file of the server's disk, or an adapter.
    """
    if len(text) > MAX_LENGTH:
        raise _invalid(f"it has more than {MAX_LENGTH} characters")
    fields: dict[str, Any] = {}
    for command in _commands(text.replace("\r\n", "\n")):
        _add(fields, command)
    if "from" not in fields and "files" not in fields:
        raise _invalid("no FROM line")
    return fields


def _commands(text: str) -> Iterator[Command]:
    place = 0
    while True:
        place = _end(_SPACE, text, place)
        if place == len(text):
            return
        head = _COMMAND.match(text, place)
        name = head[1].lower() if head else ""
        if head is None or name not in _COMMANDS:
            line = text[place:].partition("\n")[0]
            raise _invalid(f"{line[:40]!r} does not begin with one of {', '.join(_COMMANDS).upper()}")
        place, word = head.end(), ""
        if name in _NAMED:
            named = _WORD.match(text, place)
            if named is None:
                raise _invalid(f"{name.upper()} needs a name and a value")
            place, word = named.end(), named[1]
        if text.startswith('"""', place) and _LONG.match(text, place) is None:
            raise _invalid(f'the text of {name.upper()} is not closed with """')
        value = _LONG.match(text, place) or _QUOTED.match(text, place) or _PLAIN.match(text, place)
        assert value is not None  # a plain one may be empty
        is_quoted = value.re is not _PLAIN
        yield Command(name, word, value[1] if is_quoted else value[1].strip(), is_quoted)
        place = value.end()


def _end(pattern: re.Pattern[str], text: str, place: int) -> int:
    found = pattern.match(text, place)
    return place if found is None else found.end()


def _add(fields: dict[str, Any], command: Command) -> None:
    name, value = command.name, command.value
    if name == "from":
        _add_source(fields, value)
    elif name == "license":
        fields.setdefault("license", []).append(value)
    elif name == "message":
        fields.setdefault("messages", []).append({"role": command.word, "content": value})
    elif name == "adapter":
        fields.setdefault("adapters", {})[value] = value
    elif name == "parameter":
        parameters = fields.setdefault("parameters", {})
        if command.word in _LISTS:
            parameters.setdefault(command.word, []).append(_text(command))
        else:
            parameters[command.word] = _text(command) if command.is_quoted else _scalar(value)
    else:  # as in Ollama, the last one counts
        fields[name] = value


def _add_source(fields: dict[str, Any], value: str) -> None:
    if digest := _DIGEST.fullmatch(value):
        files = fields.setdefault("files", {})
        files[f"model-{len(files)}.gguf"] = digest[1]
    elif _PATH.fullmatch(value):
        raise Unsupported(
            f"FROM {value[:100]!r} is a file; upload it to /api/blobs and give its digest: FROM @sha256:...",
            param="modelfile",
        )
    else:
        fields["from"] = value


def _text(command: Command) -> str:
    r"""A quoted value may have escapes, as `show` writes them: "\n"."""
    if command.is_quoted:
        try:
            return msgspec.json.decode(f'"{command.value}"', type=str)
        except msgspec.DecodeError:
            pass
    return command.value


def _scalar(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"The Modelfile cannot be read: {why}.", param="modelfile")
