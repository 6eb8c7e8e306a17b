"""JSON Schemas as clients send them: checked for their form, old words put into new ones, notes left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dmr.chat.schema_document import ASSERTIONS, SchemaError, types_of

MAX_SCHEMAS = 20_000  # in one document
MAX_DEPTH = 64

_SCHEMA = ("not", "if", "then", "else", "additionalProperties", "propertyNames", "contains", "additionalItems")
_SCHEMA_TOO = ("unevaluatedProperties", "unevaluatedItems")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "dependentSchemas")
_COUNTS = (
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minContains",
    "maxContains",
)
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_TEXTS = ("pattern", "format", "$ref", "$dynamicRef", "$recursiveRef", "$anchor", "$id")
_DEFINITIONS = ("$defs", "definitions")
_KEPT = ASSERTIONS | {*_DEFINITIONS, "$anchor", "$id"}


class SchemaReader:
    """Cleans the schemas of one document."""

    def __init__(self) -> None:
        self.is_reworded = False  # something was there in other words, not only notes
        self._num_schemas = 0

    def clean(self, schema: Any) -> Any:
        """The schema without notes.

        Raises:
            SchemaError: a keyword has not the form it must have; the message names its place.
        """
        return self.schema(schema, "#", 0)

    def schema(self, schema: Any, path: str, depth: int) -> Any:
        self._num_schemas += 1
        if self._num_schemas > MAX_SCHEMAS or depth > MAX_DEPTH:
            raise SchemaError(f"it has more than {MAX_SCHEMAS} parts, or they are nested deeper than {MAX_DEPTH}")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise SchemaError(f"{path} is no schema: an object or a boolean is expected")
        found: dict[str, Any] = {}
        for keyword, value in schema.items():
            if keyword not in _KEPT:
                continue
            if value is None and keyword != "const":  # some clients write what they lack
                self.is_reworded = True
                continue
            found[keyword] = self._value(keyword, value, f"{path}/{keyword}", depth)
        types_of(found)
        reworded = _in_new_words(dict(found))
        self.is_reworded = self.is_reworded or reworded != found
        return reworded

    def _value(self, keyword: str, value: Any, path: str, depth: int) -> Any:
        if keyword in _SCHEMA or keyword in _SCHEMA_TOO or (keyword == "items" and not isinstance(value, list)):
            return self.schema(value, path, depth + 1)
        if keyword in _LISTS or keyword == "items":
            _expect(
                isinstance(value, list) and (value or keyword in ("items", "prefixItems")), path, "a list of schemas"
            )
            return [self.schema(each, f"{path}/{index}", depth + 1) for index, each in enumerate(value)]
        if keyword in _MAPS or keyword in _DEFINITIONS:
            _expect(isinstance(value, dict), path, "an object of schemas")
            return {name: self.schema(each, f"{path}/{name}", depth + 1) for name, each in value.items()}
        if keyword == "dependencies":
            _expect(isinstance(value, dict), path, "an object")
            return {
                name: each if _is_names(each) else self.schema(each, f"{path}/{name}", depth + 1)
                for name, each in value.items()
            }
        what, holds = _FORMS.get(keyword, ("", lambda value: True))
        _expect(holds(value), path, what)
        return value


def _expect(holds: Any, path: str, what: str) -> None:
    if not holds:
        raise SchemaError(f"{path} must be {what}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


_FORMS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(_COUNTS, ("a whole number", _is_count)),
    **dict.fromkeys(_NUMBERS, ("a number", lambda value: _is_number(value) or isinstance(value, bool))),
    **dict.fromkeys(_TEXTS, ("a text", lambda value: isinstance(value, str))),
    "minimum": ("a number", _is_number),
    "maximum": ("a number", _is_number),
    "multipleOf": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "enum": ("a list that is not empty", lambda value: isinstance(value, list) and bool(value)),
    "required": ("a list of names", lambda value: isinstance(value, bool) or _is_names(value)),
    "uniqueItems": ("true or false", lambda value: isinstance(value, bool)),
    "dependentRequired": (
        "an object of lists of names",
        lambda value: isinstance(value, dict) and all(map(_is_names, value.values())),
    ),
}


def _in_new_words(schema: dict[str, Any]) -> dict[str, Any]:
    """Of draft 3 and 4: "required": true means nothing here, and an exclusive bound was a bound and a boolean."""
    if isinstance(schema.get("required"), bool):
        del schema["required"]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(exclusive), bool):
            is_exclusive = schema.pop(exclusive)
            if is_exclusive and bound in schema:
                schema[exclusive] = schema.pop(bound)
    for count in _COUNTS:
        if count in schema:
            schema[count] = int(schema[count])
    return schema
