"""A JSON Schema as a document: references in it, and how several schemas are one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

Schema = Mapping[str, Any]

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
OBJECT_WORDS = frozenset(
    [
        *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
        *("minProperties", "maxProperties", "unevaluatedProperties"),
        *("dependentRequired", "dependentSchemas", "dependencies"),
    ]
)
ARRAY_WORDS = frozenset(
    [
        *("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems", "unevaluatedItems"),
        *("contains", "minContains", "maxContains"),
    ]
)
TEXT_WORDS = frozenset(["pattern", "format", "minLength", "maxLength"])
NUMBER_WORDS = frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"])
_GENERAL_WORDS = frozenset(
    [
        *("$ref", "$dynamicRef", "$recursiveRef", "type", "enum", "const"),
        *("allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
    ]
)
# Keywords that say something about the value. All others are notes for readers.
ASSERTIONS = _GENERAL_WORDS | OBJECT_WORDS | ARRAY_WORDS | TEXT_WORDS | NUMBER_WORDS


class SchemaError(ValueError):
    """The document is no schema that can be understood."""


class Document:
    """A root, and what refers into it. Schemas come out as `clean` makes them."""

    def __init__(self, root: Any, clean: Callable[[Any], Any]) -> None:
        """Raises SchemaError."""
        self.root = clean(root)
        self._given = root
        self._clean = clean
        self._found: dict[str, Any] = {}

    def resolve(self, reference: Any) -> Any:
        """What "#", "#/a/pointer" or "#anchor" names. Raises SchemaError."""
        if not isinstance(reference, str):
            raise SchemaError("a $ref is no text")
        if reference not in self._found:
            self._found[reference] = self._clean(self._look_up(reference))
        return self._found[reference]

    def resolve_whole(self, schema: Any) -> Any:
        """The same for a schema that is nothing but a reference, as often as it leads to another one."""
        for _ in range(100):
            if not (isinstance(schema, dict) and schema.keys() & ASSERTIONS == {"$ref"}):
                return schema
            schema = self.resolve(schema["$ref"])
        raise SchemaError("a $ref leads back to itself")

    def _look_up(self, reference: str) -> Any:
        mark, _, fragment = reference.partition("#")
        if mark and mark != (self._given.get("$id") if isinstance(self._given, dict) else None):
            raise SchemaError(f"the $ref '{reference[:100]}' leads out of the document")
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            return self._anchor(fragment)
        found = self._given
        for part in fragment.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(found):
                found = found[int(key[:9])]
            else:
                raise SchemaError(f"the $ref '{reference[:100]}' leads nowhere")
        return found

    def _anchor(self, name: str) -> Any:
        todo = [self._given]
        while todo:
            value = todo.pop()
            if isinstance(value, dict):
                if value.get("$anchor") == name:
                    return value
                todo += value.values()
            elif isinstance(value, list):
                todo += value
        raise SchemaError(f"the $ref '#{name[:100]}' leads nowhere")


def assertions(schema: Schema) -> dict[str, Any]:
    """The schema without what does not matter."""
    return {key: value for key, value in schema.items() if key in ASSERTIONS}


def same(one: Any, other: Any) -> bool:
    """Equal as JSON values: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) and isinstance(one, (int, float)) == isinstance(other, (int, float))


def num_elements(value: Any) -> int:
    """Of lists and objects, with all those inside of them."""
    number, todo = 0, [value]
    while todo:
        each = todo.pop()
        if isinstance(each, (list, dict)):
            number += len(each)
            todo += each.values() if isinstance(each, dict) else each
    return number


def types_of(schema: Schema) -> frozenset[str] | None:
    """None = any."""
    found = schema.get("type")
    if found is None:
        return None
    names = found if isinstance(found, list) else [found]
    for name in names:
        if not isinstance(name, str) or name not in TYPES:
            raise SchemaError(f"the type {msgspec.json.encode(name).decode()[:40]} does not exist")
    if not names:
        raise SchemaError("a list of types is empty")
    return frozenset(names)


def merged(one: Schema, other: Schema) -> dict[str, Any] | None:
    """A schema for values that match both; None where that cannot be said in one."""
    result = assertions(one)
    closed = [part for part in (one, other) if part.get("additionalProperties", True) not in (True, {})]
    for part in closed:
        rest = other if part is one else one
        foreign = rest.get("properties", {}).keys() - part.get("properties", {}).keys()
        if foreign or "patternProperties" in rest or "patternProperties" in part:
            return None  # it closes only what it lists itself
    for key, value in assertions(other).items():
        if key not in result or same(result[key], value):
            result[key] = value
            continue
        merge = _MERGES.get(key)
        both = merge(result[key], value) if merge else None
        if both is None:
            return None
        result[key] = both
    return result


def _merged_types(one: Any, other: Any) -> Any:
    mine, theirs = types_of({"type": one}), types_of({"type": other})
    assert mine is not None
    assert theirs is not None
    both = {
        name
        for name in mine | theirs
        if all(name in each or (name == "integer" and "number" in each) for each in (mine, theirs))
    }
    names = [name for name in TYPES if name in both and not (name == "integer" and "number" in both)]
    return (names[0] if len(names) == 1 else names) if names else None


def _merged_maps(one: Any, other: Any) -> Any:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return None
    both = dict(one)
    for name, schema in other.items():
        both[name] = {"allOf": [both[name], schema]} if name in both and not same(both[name], schema) else schema
    return both


def _merged_lists(one: Any, other: Any) -> Any:
    if not isinstance(one, list) or not isinstance(other, list):
        return None
    return [*one, *(each for each in other if not any(same(each, mine) for mine in one))]


def _common(one: Any, other: Any) -> Any:
    if not isinstance(one, list) or not isinstance(other, list):
        return None
    return [each for each in one if any(same(each, theirs) for theirs in other)] or None


def _extreme(choose: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def merge(one: Any, other: Any) -> Any:
        numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in (one, other))
        return choose(one, other) if numbers else None

    return merge


_MERGES: Mapping[str, Callable[[Any, Any], Any]] = {
    "type": _merged_types,
    "properties": _merged_maps,
    "patternProperties": _merged_maps,
    "required": _merged_lists,
    "allOf": lambda one, other: [*one, *other] if isinstance(one, list) and isinstance(other, list) else None,
    "enum": _common,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), _extreme(max)),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), _extreme(min)),
}
