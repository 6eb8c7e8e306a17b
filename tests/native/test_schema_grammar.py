"""JSON Schema to grammar: answers match the schema, and what cannot be enforced is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from native.objects import generate_text, make_sampler

from dmr import _core

PROMPT = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array", "items": {}}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
            "required": ["value"],
        }
    },
}

SCHEMAS: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "anything": ({}, lambda v: True),
    "object": ({"type": "object"}, lambda v: isinstance(v, dict)),
    "string": ({"type": "string", "maxLength": 5}, lambda v: isinstance(v, str) and len(v) <= 5),
    "integer": ({"type": "integer", "minimum": 3, "maximum": 12}, lambda v: 3 <= v <= 12),
    "number": ({"type": "number"}, lambda v: isinstance(v, (int, float))),
    "boolean": ({"type": "boolean"}, lambda v: isinstance(v, bool)),
    "null": ({"type": "null"}, lambda v: v is None),
    "one of two types": ({"type": ["string", "null"]}, lambda v: v is None or isinstance(v, str)),
    "enumeration": ({"enum": ["red", 7, None, {"a": 1}, ":("]}, lambda v: v in ["red", 7, None, {"a": 1}, ":("]),
    "constant": ({"const": {"ü": ["🌞", 1]}}, lambda v: v == {"ü": ["🌞", 1]}),
    "array": (
        {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
        lambda v: 2 <= len(v) <= 3,
    ),
    "tuple": ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}, lambda v: len(v) == 2),
    "person": (PERSON, lambda v: set(v) - {"tags"} == {"name", "age"}),
    "alternatives": ({"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, lambda v: isinstance(v, int)),
    "recursion": (TREE, lambda v: isinstance(v["value"], int)),
    "pattern": ({"type": "string", "pattern": "^(ab|c){2}[0-9]$"}, lambda v: v[-1].isdigit()),
    "date": ({"type": "string", "format": "date"}, lambda v: len(v) == 10 and v[4] == v[7] == "-"),
    "many properties": (
        {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(256)}, "required": ["p0"]},
        lambda v: v["p0"] is None,
    ),
    "parentheses": ({"enum": ["((((("] * 100 + ["{5,2}"]}, lambda v: v in ["(((((", "{5,2}"]),
}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_answers_match_the_schema(script_model: _core.Model, name: str, seed: int) -> None:
    schema, fits = SCHEMAS[name]
    grammar = _core.grammar_from_schema(json.dumps(schema))
    text, ended = generate_text(script_model, PROMPT, make_sampler(script_model, grammar=grammar, seed=seed))
    assert ended
    assert fits(json.loads(text)), text


@pytest.mark.parametrize("text", ["", "{", "nothing", '{"a": }', '"\\ud800"', "[" * 100_000, '{"a":' * 100_000])
def test_text_that_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match="JSON Schema"):
        _core.grammar_from_schema(text)


REFUSED = [
    5,
    "x",
    None,
    [],
    True,
    {"type": "nothing"},
    {"type": 5},
    {"type": []},
    {"enum": []},
    {"anyOf": []},
    {"anyOf": 5},
    {"properties": [1]},
    {"type": "object", "additionalProperties": 5},
    {"$ref": "#/$defs/absent"},
    {"$ref": "https://example.com/schema"},
    {"$ref": "#"},
    {"$ref": 5},
    {"type": "array", "items": {}, "minItems": -1},
    {"type": "array", "items": {}, "minItems": "x"},
    {"type": "string", "pattern": "^(($"},
    {"type": "string", "pattern": "^[a$"},
    {"type": "object", "properties": {f"p{i}": {} for i in range(257)}},
    {"enum": ["x" * 300_000]},
]


@pytest.mark.parametrize("schema", REFUSED, ids=lambda schema: json.dumps(schema)[:40])
def test_schemas_that_cannot_be_enforced(schema: Any) -> None:
    with pytest.raises(_core.GrammarError):
        _core.grammar_from_schema(json.dumps(schema))


def doubled(depth: int) -> dict[str, Any]:
    """Each level refers to the next twice: as text it is short, as a tree it has 2^depth leaves."""
    levels = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(depth)}
    return {"$ref": "#/$defs/d0", "$defs": {**levels, f"d{depth}": {"type": "null"}}}


LOOP = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "integer"}, "minItems": 5, "maxItems": 2},
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"type": "string", "minLength": 5000},
        LOOP,
        doubled(40),
    ],
    ids=["items", "letters", "many letters", "loop", "doubled"],
)
def test_schemas_whose_grammar_cannot_be_used(script_model: _core.Model, schema: Any) -> None:
    with pytest.raises(_core.GrammarError):
        make_sampler(script_model, grammar=_core.grammar_from_schema(json.dumps(schema)))


def test_nesting_is_bounded() -> None:
    def nested(depth: int) -> str:
        return '{"type":"array","items":' * depth + "{}" + "}" * depth

    assert _core.grammar_from_schema(nested(40))
    with pytest.raises(_core.GrammarError, match="deeply"):
        _core.grammar_from_schema(nested(60))
