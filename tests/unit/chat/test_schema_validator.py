from __future__ import annotations

import json
import time
from typing import Any

import pytest

from dmr.chat.schema import Schema, read_schema
from dmr.chat.schema_document import same
from dmr.errors import InvalidRequest

TREE = {"$defs": {"t": {"type": "object", "properties": {"n": {"$ref": "#/$defs/t"}}, "maxProperties": 1}}}

# Schema, values that match, values that do not.
CASES: list[tuple[Any, list[Any], list[Any]]] = [
    ({}, [1, None, "x", [], {}], []),
    ({"type": "integer"}, [1, 1.0, -5], [1.5, True, "1", None]),
    ({"type": "number"}, [1, 1.5], [False, "1"]),
    ({"type": ["string", "null"]}, ["", None], [1, []]),
    ({"type": "boolean"}, [True], [0, 1]),
    ({"enum": [1, "a", [1]]}, [1, 1.0, "a", [1]], [True, "b", [2]]),
    ({"const": {"a": [1, 2]}}, [{"a": [1, 2]}], [{"a": [2, 1]}, {"a": [1, 2], "b": 1}]),
    ({"const": None}, [None], [0, False]),
    ({"minimum": 2, "exclusiveMaximum": 5}, [2, 4.9, "text"], [1, 5]),
    ({"minimum": 2, "exclusiveMinimum": True}, [3], [2, 1]),  # draft 4
    ({"multipleOf": 0.01}, [0.07, 1.13, 5], [0.075]),
    ({"multipleOf": 3}, [0, -3, 9], [4]),
    ({"minLength": 2, "maxLength": 3}, ["ab", "🌞🌞🌞", 5], ["a", "abcd"]),
    ({"pattern": "^a+$"}, ["aa", 7], ["ab"]),
    ({"format": "email"}, ["a.b@c-d.org", 5], ["a@", "a b@c.d", "@c"]),
    ({"format": "date"}, ["2024-02-29"], ["2023-02-29", "2024-2-1", "today"]),
    ({"format": "time"}, ["23:59:59Z", "01:02:03.5+01:00"], ["24:00:00Z", "12:00"]),
    ({"format": "date-time"}, ["2024-02-29T12:00:00Z"], ["2024-02-29 12:00:00Z", "2024-02-29"]),
    ({"format": "duration"}, ["P1D", "PT5M", "P2W"], ["P", "PT", "1D"]),
    ({"format": "uuid"}, ["12345678-1234-1234-1234-1234567890ab"], ["12345678"]),
    ({"format": "ipv4"}, ["127.0.0.1"], ["256.1.1.1", "1.2.3"]),
    ({"format": "ipv6"}, ["::1"], ["::g", "fe80::1%eth0"]),
    ({"format": "hostname"}, ["example.org"], ["-a.org", "a_b"]),
    ({"format": "uri"}, ["https://a.org/x?y=%20"], ["no uri", "/x", "a:%zz"]),
    ({"format": "json-pointer"}, ["", "/a/~0b"], ["a", "/~2"]),
    ({"format": "int64"}, ["anything"], []),
    ({"required": ["a"]}, [{"a": 1}, 5], [{}]),
    ({"properties": {"a": {"type": "integer"}, "b": False}}, [{"a": 1}, {}], [{"a": "x"}, {"b": 1}]),
    ({"properties": {"a": {}}, "additionalProperties": False}, [{"a": 1}], [{"b": 1}]),
    ({"additionalProperties": {"type": "integer"}}, [{"x": 1}], [{"x": "1"}]),
    (
        {"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
        [{"xy": 1}],
        [{"xy": ""}, {"y": 1}],
    ),
    ({"propertyNames": {"maxLength": 2}}, [{"ab": 1}], [{"abc": 1}]),
    ({"minProperties": 1, "maxProperties": 2}, [{"a": 1}], [{}, {"a": 1, "b": 2, "c": 3}]),
    ({"dependentRequired": {"a": ["b"]}}, [{"a": 1, "b": 1}, {"b": 1}], [{"a": 1}]),
    ({"dependentSchemas": {"a": {"required": ["b"]}}}, [{"a": 1, "b": 1}], [{"a": 1}]),
    ({"dependencies": {"a": ["b"], "c": {"maxProperties": 1}}}, [{"c": 1}], [{"a": 1}, {"c": 1, "d": 1}]),
    ({"unevaluatedProperties": False, "properties": {"a": {}}}, [{"a": 1}], [{"b": 1}]),
    ({"items": {"type": "integer"}}, [[1, 2], [], "x"], [[1, "2"]]),
    ({"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, [[1, "a"], []], [["a"], [1, 2]]),
    ({"prefixItems": [{}], "items": False}, [[1]], [[1, 2]]),
    ({"items": [{"type": "integer"}], "additionalItems": False}, [[1]], [[1, 2], ["a"]]),
    ({"minItems": 1, "maxItems": 2}, [[1]], [[], [1, 2, 3]]),
    ({"uniqueItems": True}, [[1, "1", True]], [[1, 1.0], [{"a": 1}, {"a": 1}]]),
    ({"contains": {"type": "integer"}}, [["a", 1]], [["a"], []]),
    ({"contains": {"type": "integer"}, "minContains": 2, "maxContains": 2}, [[1, 2]], [[1], [1, 2, 3]]),
    ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, [3], [2, 3.5]),
    ({"anyOf": [{"type": "integer"}, {"minLength": 2}]}, [1, "ab"], ["a"]),
    ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, [1, 3.5], [3, 2.5]),
    ({"not": {"type": "string"}}, [1], ["a"]),
    ({"if": {"type": "integer"}, "then": {"minimum": 3}, "else": {"type": "string"}}, [3, "a"], [1, None]),
    ({"$ref": "#/$defs/t", **TREE}, [{"n": {"n": {}}}], [{"n": {"m": 1, "n": {}}}, {"n": 5}]),
    ({"type": "array", "items": {"$ref": "#"}}, [[[], [[]]]], [[1]]),
    ({"$ref": "#/a~1b/x%20y", "a/b": {"x y": {"type": "null"}}}, [None], [1]),
    ({"$ref": "#here", "$defs": {"x": {"$anchor": "here", "type": "null"}}}, [None], [1]),
    ({"type": "array", "items": None, "maxItems": None}, [[1]], [{}]),  # some clients write what they lack
]


@pytest.mark.parametrize(("schema", "good", "bad"), CASES, ids=lambda part: json.dumps(part)[:50])
def test_values_match_or_do_not(schema: Any, good: list[Any], bad: list[Any]) -> None:
    found = Schema(json.dumps(schema))
    for value in good:
        assert found.violations(json.dumps(value)) == [], value
    for value in bad:
        assert found.violations(json.dumps(value)), value


def test_violations_tell_where_and_what() -> None:
    item = {"type": "object", "properties": {"n": {"minimum": 1}}, "required": ["n", "m"]}
    schema = Schema(json.dumps({"type": "object", "properties": {"list": {"items": item}, "odd name": {"const": 1}}}))
    assert schema.violations('{"list": [{"n": 1, "m": 2}, {"n": 0}], "odd name": 2}') == [
        "$.list[1]: the required property 'm' is missing",
        "$.list[1].n: must be at least 1",
        '$["odd name"]: must be 1',
    ]


def test_what_is_not_checked_is_said() -> None:
    for schema in ({"pattern": r"(?=a)"}, {"unevaluatedItems": False}, {"patternProperties": {"(?=a)": {}}}):
        value = {"pattern": '"a"', "unevaluatedItems": "[]", "patternProperties": '{"a":1}'}[next(iter(schema))]
        (told,) = Schema(json.dumps(schema)).violations(value)
        assert "not checked" in told


def test_work_is_bounded() -> None:
    # Each doubles the one before when the converter is to be told all of it.
    doubling: Any = {"d0": {"type": "object", "properties": {"a": {}}}}
    for i in range(40):
        parts = [{"allOf": [{"$ref": f"#/$defs/d{i}"}, {"properties": {f"p{i}{j}": {}}}]} for j in range(2)]
        doubling[f"d{i + 1}"] = {"anyOf": parts}
    wide = {"type": "array", "items": {"anyOf": [{"const": i} for i in range(300)]}}
    began = time.monotonic()
    with pytest.raises(InvalidRequest, match="too large"):
        read_schema(json.dumps({"$ref": "#/$defs/d40", "$defs": doubling}), "tools")
    with pytest.raises(InvalidRequest, match="nested deeper"):
        read_schema('{"not":' * 300 + "{}" + "}" * 300, "tools")
    (*_, told) = Schema(json.dumps(wide)).violations(json.dumps([299] * 5000))
    assert "not checked to its end" in told
    deep = Schema(json.dumps({"type": "array", "items": {"$ref": "#"}}))
    assert deep.violations("[" * 400 + "]" * 400)
    assert len(Schema('{"items":{"type":"null"}}').violations(json.dumps([1] * 1000))) == 20
    assert time.monotonic() - began < 10


def test_all_searches_and_comparisons_have_one_limit() -> None:
    began = time.monotonic()
    slow = "(a*)*" * 40 + "[^a]"
    strings = Schema(json.dumps({"items": {"anyOf": [{"pattern": slow}, True]}}))
    (told,) = strings.violations(json.dumps(["a" * 900] * 100))
    assert "not checked to its end" in told
    names = Schema(json.dumps({"patternProperties": {slow + str(i): {} for i in range(100)}}))
    (told,) = names.violations(json.dumps({"a" * 900: 1}))
    assert "not checked to its end" in told
    values = Schema(json.dumps({"items": {"enum": [[i] for i in range(5000)]}}))
    (told,) = values.violations(json.dumps([[4999]] * 5000))
    assert "not checked to its end" in told
    # What a schema lists is held against it too, before there is an answer.
    listed = Schema(json.dumps({"enum": [f"{'a' * 900}{i}" for i in range(1000)], "pattern": slow}))
    assert [finding.keyword for finding in listed.unenforceable] == ["pattern"]
    assert time.monotonic() - began < 10
    mails = Schema(json.dumps({"items": {"pattern": r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$"}}))
    assert mails.violations(json.dumps(["someone@example.org"] * 1000)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        5, "x", None, [], {"type": 5}, {"type": []}, {"type": "wish"}, {"enum": []}, {"anyOf": []}, {"allOf": {}},
        {"properties": []}, {"properties": {"a": 5}}, {"required": "a"}, {"minLength": -1}, {"minLength": "a"},
        {"minimum": "a"}, {"multipleOf": 0}, {"pattern": 5}, {"items": 5}, {"$ref": 5}, {"$ref": "#/nowhere"},
        {"$ref": "other.json"}, {"$ref": "#none"}, {"not": {"not": {"type": "wish"}}}, {"uniqueItems": 1}, False,
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    ],
    ids=lambda wrong: json.dumps(wrong)[:40],
)  # fmt: skip
def test_documents_that_are_no_schemas(wrong: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_schema(json.dumps(wrong), "tools")
    assert caught.value.param == "tools"


def test_the_place_of_a_mistake_is_told() -> None:
    with pytest.raises(InvalidRequest, match="#/properties/a/minLength must be a whole number"):
        read_schema('{"properties":{"a":{"minLength":"x"}}}', "tools")


def test_equality_is_that_of_json() -> None:
    assert same(1, 1.0)
    assert same([{"a": None}], [{"a": None}])
    for one, other in [(1, True), (0, False), ("1", 1), ([1], [True]), ({"a": 1}, {"b": 1}), (None, 0), ([], {})]:
        assert not same(one, other)
