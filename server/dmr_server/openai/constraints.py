"""`response_format` and `grammar`: what the answer must look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dmr.errors import InvalidRequest
from dmr.types import ResponseFormat
from dmr_server.fields import checked

MAX_GRAMMAR = 64 * 1024  # characters
MAX_GRAMMAR_DEPTH = 64  # llama.cpp's grammar parser recurses into parentheses


def read_response_format(body: Mapping[str, Any]) -> ResponseFormat | None:
    """The constraint that a request asks for, if it asks for one; raises InvalidRequest."""
    constraint = _from_response_format(body.get("response_format"))
    if "grammar" not in body:
        return constraint
    if constraint is not None:
        raise InvalidRequest("'grammar' and 'response_format' exclude each other.", param="grammar")
    return _from_grammar(checked(body["grammar"], str, "grammar"))


def _from_response_format(value: Any) -> ResponseFormat | None:
    if value is None:
        return None
    wanted = checked(value, dict[str, Any], "response_format")
    kind = wanted.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return ResponseFormat(json_schema=_schema(wanted.get("schema"), {"type": "object"}, "response_format.schema"))
    if kind == "json_schema":
        return _from_json_schema(wanted.get("json_schema"))
    raise InvalidRequest(
        "Invalid value for 'response_format.type': expected 'text', 'json_object' or 'json_schema'.",
        param="response_format.type",
    )


def _from_json_schema(value: Any) -> ResponseFormat:
    path = "response_format.json_schema"
    if value is None:
        raise InvalidRequest(f"Missing required parameter: '{path}'.", param=path)
    named = checked(value, dict[str, Any], path)
    checked(named.get("name") or "", str, f"{path}.name")
    return ResponseFormat(json_schema=_schema(named.get("schema"), {}, f"{path}.schema"))


def _schema(value: Any, default: dict[str, Any], path: str) -> str:
    schema = default if value is None else checked(value, dict[str, Any], path)
    return msgspec.json.encode(schema).decode()


def _from_grammar(grammar: str) -> ResponseFormat | None:
    if not grammar.strip():
        return None
    if len(grammar) > MAX_GRAMMAR:
        raise InvalidRequest(f"'grammar' is longer than {MAX_GRAMMAR} characters.", param="grammar")
    if _deepest(grammar) > MAX_GRAMMAR_DEPTH:
        raise InvalidRequest(f"'grammar' nests deeper than {MAX_GRAMMAR_DEPTH} parentheses.", param="grammar")
    return ResponseFormat(grammar=grammar)


def _deepest(grammar: str) -> int:
    # Quoted parentheses count too: the limit is far above what grammars need.
    depth = deepest = 0
    for character in grammar:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest
