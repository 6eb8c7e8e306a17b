"""What of a schema the grammar enforces, and what it is told instead of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmr.chat.schema import Schema, unenforceable

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "value": {"type": "integer"}}}
CHOICE_A = {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]}
CHOICE_B = {"type": "object", "properties": {"kind": {"const": "b"}, "n": {}}, "required": ["kind"]}

# These the converter understands as they are, and enforces.
WHOLE: list[Any] = [
    {},
    {"type": "object"},
    {"type": "string", "description": "notes", "default": "x", "examples": ["y"], "title": "T"},
    {
        "type": "object",
        "properties": {"title": {"type": "string"}, "a": {"type": ["integer", "null"]}},
        "required": ["a"],
    },
    {"type": "object", "properties": {}, "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
    {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 9},
    {"type": "array", "prefixItems": [{"type": "integer"}, {}], "minItems": 2, "maxItems": 2},
    {"type": "string", "minLength": 1, "maxLength": 2000},
    {"type": "string", "pattern": "^[a-z]+[0-9]{2}$"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "int64"},  # a note
    {"type": "string", "enum": ["a", "b"]},
    {"const": 5},
    {"type": "integer", "minimum": 0, "maximum": 10},
    {"type": "integer", "exclusiveMinimum": 0},
    {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
    {"oneOf": [CHOICE_A, CHOICE_B]},
    {"$ref": "#/$defs/node", "$defs": {"node": NODE}, "$schema": "https://json-schema.org/draft/2020-12/schema"},
]


@pytest.mark.parametrize("schema", WHOLE, ids=lambda schema: json.dumps(schema)[:50])
def test_what_is_enforced_goes_as_it_came(schema: Any) -> None:
    text = json.dumps(schema)
    found = Schema(text)
    assert found.unenforceable == ()
    assert found.for_grammar == text


# These it would misread, but can be told in other words.
REWORDED: list[tuple[Any, Any]] = [
    (True, {}),
    ({"type": "object", "properties": {"a": True}}, {"type": "object", "properties": {"a": {}}}),
    ({"allOf": [{"type": "string"}]}, {"type": "string"}),
    (
        {"type": "object", "properties": {"a": {}}, "allOf": [{"properties": {"b": {}}, "required": ["b"]}]},
        {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"]},
    ),
    (
        {"type": "object", "properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {
            "anyOf": [
                {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"]},
                {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"]},
            ]
        },
    ),
    (
        {"type": "object", "required": ["a"]},
        {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": True},
    ),
    ({"type": "array", "prefixItems": [{}], "items": False}, {"type": "array", "prefixItems": [{}]}),
    (
        {"type": "array", "prefixItems": [{}, {}, {}], "maxItems": 2},
        {"type": "array", "prefixItems": [{}, {}], "maxItems": 2},
    ),
    ({"type": "string", "enum": ["a", 5]}, {"enum": ["a"]}),
    ({"type": "integer", "minimum": 1.5, "exclusiveMinimum": 3}, {"type": "integer", "minimum": 4}),
    ({"type": "integer", "maximum": -3}, {"type": "integer", "minimum": -9999999999999999, "maximum": -3}),
    ({"type": "integer", "maximum": 1e300}, {"type": "integer"}),
    ({"type": "string", "pattern": r"^\d$"}, {"type": "string", "pattern": "^([0-9])$"}),
    ({"required": ["a"], "properties": {"a": {}}}, {"type": "object", "required": ["a"], "properties": {"a": {}}}),
    (
        {"$ref": "#/definitions/a b", "definitions": {"a b": {"type": "null"}}},
        {"$ref": "#/$defs/reference0", "$defs": {"reference0": {"type": "null"}}},
    ),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}, "maxLength": 3}, {"type": "string", "maxLength": 3}),
]


@pytest.mark.parametrize(("schema", "expected"), REWORDED, ids=lambda part: json.dumps(part)[:50])
def test_what_would_be_misread_is_put_otherwise(schema: Any, expected: Any) -> None:
    found = Schema(json.dumps(schema))
    assert found.unenforceable == ()
    assert json.loads(found.for_grammar) == expected


def test_a_schema_that_contains_itself_stays_finite() -> None:
    found = Schema('{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}')
    assert found.unenforceable == ()
    assert "#/$defs/reference0" in found.for_grammar
    looped = {"$ref": "#/$defs/n", "$defs": {"n": {"allOf": [{"$ref": "#/$defs/n"}, {"type": "object"}]}}}
    Schema(json.dumps(looped))
    looped = {"$ref": "#/$defs/n", "$defs": {"n": {"$ref": "#/$defs/n", "type": "object"}}}
    Schema(json.dumps(looped))


# These no grammar of llama.cpp says.
BEYOND: list[tuple[Any, list[tuple[str, str]]]] = [
    ({"type": "number", "minimum": 0, "multipleOf": 2}, [("#", "minimum"), ("#", "multipleOf")]),
    ({"type": "integer", "multipleOf": 5}, [("#", "multipleOf")]),
    ({"type": "integer", "minimum": 5, "maximum": 3}, [("#", "minimum"), ("#", "maximum")]),
    ({"type": "string", "format": "email"}, [("#", "format")]),
    ({"type": "string", "format": "date", "maxLength": 3}, [("#", "maxLength")]),
    ({"type": "string", "pattern": "^a$", "minLength": 3}, [("#", "minLength")]),
    ({"type": "string", "pattern": "(?=a)"}, [("#", "pattern")]),
    ({"type": "string", "minLength": 5000}, [("#", "minLength")]),
    ({"type": "array", "items": {"type": "string", "maxLength": 9999}}, [("#/items", "maxLength")]),
    ({"type": "array", "uniqueItems": True, "contains": {}}, [("#", "uniqueItems"), ("#", "contains")]),
    ({"type": "array", "minItems": 5000}, [("#", "minItems")]),
    ({"type": "array", "prefixItems": [{}], "minItems": 2}, [("#", "minItems")]),
    ({"type": "object", "minProperties": 1}, [("#", "minProperties")]),
    ({"type": "object", "patternProperties": {"a": {}}}, [("#", "patternProperties")]),
    ({"type": "object", "propertyNames": {"maxLength": 2}}, [("#", "propertyNames")]),
    ({"properties": {"a": {"not": {}}}}, [("#/properties/a", "not")]),
    ({"type": "object", "if": {}, "then": {}}, [("#", "if")]),
    ({"oneOf": [{"type": "string"}, {"type": "string"}]}, [("#", "oneOf")]),
    ({"allOf": [{"pattern": "a"}, {"pattern": "b"}], "type": "string"}, [("#", "allOf")]),
    ({"minimum": 3}, [("#", "minimum")]),
    ({"enum": ["a"], "type": "integer"}, [("#", "enum")]),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "number", "maximum": 3}}}, [("#/$defs/a", "maximum")]),
    ({"anyOf": [{"type": "number", "minimum": 3}]}, [("#/anyOf/0", "minimum")]),
    (
        {"type": "object", "properties": {"a": {}}, "required": ["b"], "additionalProperties": False},
        [("#", "required")],
    ),
    ({"type": ["number", "string"], "minimum": 3}, [("#", "minimum")]),
    ({"type": "array", "items": {}, "unevaluatedItems": False}, []),
]


@pytest.mark.parametrize(("schema", "expected"), BEYOND, ids=lambda part: json.dumps(part)[:50])
def test_what_is_beyond_is_named_with_its_place(schema: Any, expected: list[tuple[str, str]]) -> None:
    assert unenforceable(json.dumps(schema)) == expected


# In the manner of coding agents' tools.
AGENT = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "path": {"type": "string", "description": "Where.", "minLength": 1},
        "limit": {"type": "number", "exclusiveMinimum": 0, "maximum": 600000, "default": 100},
        "mode": {"type": "string", "enum": ["content", "count"], "default": "count"},
        "url": {"type": "string", "format": "uri"},
        "todos": {
            "type": "array",
            "maxItems": 5000,
            "items": {"type": "object", "properties": {"id": {"type": "string", "pattern": "^[^\\s]+$"}}},
        },
        "text": {"type": "string", "maxLength": 100000},
    },
    "required": ["path"],
    "additionalProperties": False,
}


def test_an_agents_tools_work_and_are_checked() -> None:
    found = Schema(json.dumps(AGENT))
    assert set(found.unenforceable) == {
        ("#/properties/limit", "exclusiveMinimum"),
        ("#/properties/limit", "maximum"),
        ("#/properties/url", "format"),
        ("#/properties/todos", "maxItems"),
        ("#/properties/text", "maxLength"),
    }
    assert found.violations('{"path": "a", "limit": 5, "mode": "count"}') == []
    assert found.violations('{"path": "", "limit": 0, "x": 1, "todos": [{"id": "a b"}]}') == [
        "$.path: must have 1 characters at least",
        "$.limit: must be more than 0",
        "$.todos[0].id: does not match the pattern '^[^\\\\s]+$'",
        "$: the property 'x' is not allowed",
    ]
