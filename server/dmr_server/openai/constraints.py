"""What the answer must look like: `response_format`, `grammar`, and what other servers call the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Union

import msgspec
from msgspec import Meta

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import ResponseFormat
from dmr_server.fields import checked

MAX_GRAMMAR = 64 * 1024  # characters
MAX_GRAMMAR_DEPTH = 64  # llama.cpp's grammar parser recurses into parentheses

Choices = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=1024)]


class StructuredOutputs(msgspec.Struct, frozen=True):
    """vLLM's object; all of its fields that say what the answer must look like."""

    json: Union[str, dict[str, Any], bool, None] = None
    regex: Union[str, None] = None
    choice: Union[Choices, None] = None
    grammar: Union[str, None] = None
    json_object: Union[bool, None] = None
    structural_tag: Union[str, dict[str, Any], None] = None


def read_response_format(body: Mapping[str, Any]) -> ResponseFormat | None:
    """The constraint that a (normalised) request asks for, if it asks for one.

    Raises:
        InvalidRequest: it is malformed, or there are two.
        Unsupported: it cannot be enforced.
    """
    found = [
        (name, constraint)
        for name, read in _READERS.items()
        if name in body and (constraint := read(body[name], name)) is not None
    ]
    if len(found) > 1:
        first, second = found[0][0], found[1][0]
        raise InvalidRequest(f"'{second}' and '{first}' exclude each other.", param=second)
    return found[0][1] if found else None


def _from_response_format(value: Any, path: str) -> ResponseFormat | None:
    wanted = checked(value, dict[str, Any], path)
    kind = wanted.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat(json_schema=_schema(wanted.get("schema"), {"type": "object"}, f"{path}.schema"))
    if kind == "json_schema":
        return _from_named_schema(wanted.get("json_schema"), f"{path}.json_schema")
    raise InvalidRequest(
        f"Invalid value for '{path}.type': expected 'text', 'json_object' or 'json_schema'.", param=f"{path}.type"
    )


def _from_named_schema(value: Any, path: str) -> ResponseFormat:
    if value is None:
        raise InvalidRequest(f"Missing required parameter: '{path}'.", param=path)
    named = checked(value, dict[str, Any], path)
    checked(named.get("name") or "", str, f"{path}.name")
    strict = checked(named.get("strict") or False, bool, f"{path}.strict")
    return ResponseFormat(json_schema=_schema(named.get("schema"), {}, f"{path}.schema"), strict=strict)


def _schema(value: Any, default: dict[str, Any], path: str) -> str:
    schema = default if value is None else checked(value, dict[str, Any], path)
    return msgspec.json.encode(schema).decode()


def _from_schema(value: Any, path: str) -> ResponseFormat | None:
    """A bare JSON Schema, as an object or as text."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"Invalid value for '{path}': not JSON: {error}.", param=path) from None
    return ResponseFormat(json_schema=_schema(value, {}, path))


def _from_choices(value: Any, path: str) -> ResponseFormat | None:
    """One of these texts, word for word."""
    choices = checked(value, Choices, path)
    return _from_grammar("root ::= " + " | ".join(map(_literal, choices)), path)


def _literal(text: str) -> str:
    return '"' + "".join(_ESCAPED.get(character, character) for character in text) + '"'


_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _from_structured_outputs(value: Any, path: str) -> ResponseFormat | None:
    wanted = checked(value, StructuredOutputs, path)
    for name in ("regex", "structural_tag"):
        if getattr(wanted, name) is not None:
            _refuse(getattr(wanted, name), f"{path}.{name}")
    if isinstance(wanted.json, bool):
        raise InvalidRequest(f"Invalid value for '{path}.json': expected object.", param=f"{path}.json")
    found = [
        _from_schema(wanted.json, f"{path}.json") if wanted.json is not None else None,
        _from_choices(wanted.choice, f"{path}.choice") if wanted.choice is not None else None,
        _from_grammar(wanted.grammar, f"{path}.grammar") if wanted.grammar is not None else None,
        ResponseFormat(json_schema='{"type":"object"}') if wanted.json_object else None,
    ]
    constraints = [constraint for constraint in found if constraint is not None]
    if len(constraints) > 1:
        raise InvalidRequest(f"'{path}' holds more than one constraint.", param=path)
    return constraints[0] if constraints else None


def _refuse(value: Any, path: str) -> None:
    if value:
        raise Unsupported(f"'{path}' is not supported: use 'grammar' or a JSON schema.", param=path)


def _from_grammar(value: Any, path: str) -> ResponseFormat | None:
    grammar = checked(value, str, path)
    if not grammar.strip():
        return None
    if len(grammar) > MAX_GRAMMAR:
        raise InvalidRequest(f"'{path}' is longer than {MAX_GRAMMAR} characters.", param=path)
    if _deepest(grammar) > MAX_GRAMMAR_DEPTH:
        raise InvalidRequest(f"'{path}' nests deeper than {MAX_GRAMMAR_DEPTH} parentheses.", param=path)
    return ResponseFormat(grammar=grammar)


def _deepest(grammar: str) -> int:
    # Quoted parentheses count too: the limit is far above what grammars need.
    depth = deepest = 0
    for character in grammar:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest


_READERS = {
    "response_format": _from_response_format,
    "json_schema": _from_schema,
    "grammar": _from_grammar,
    "guided_json": _from_schema,
    "guided_choice": _from_choices,
    "guided_grammar": _from_grammar,
    "guided_regex": _refuse,
    "structured_outputs": _from_structured_outputs,
}
