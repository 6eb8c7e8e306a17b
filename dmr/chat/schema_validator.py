"""Whether a JSON value matches a JSON Schema (draft 2020-12, and the older words for the same), in bounded time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any, NamedTuple

import msgspec

from dmr.chat.formats import FORMATS
from dmr.chat.pattern import PatternError, found_in
from dmr.chat.schema_document import Document, SchemaError, num_elements, same, types_of

MAX_STEPS = 200_000  # schemas that are held against values
MAX_WORK = 1_000_000  # steps of searches for patterns, and elements that are looked at
MAX_DEPTH = 200

# Not looked at: they depend on which other keywords have seen a value.
UNCHECKED = ("unevaluatedItems", "$dynamicRef", "$recursiveRef")


class Violation(NamedTuple):
    path: str  # in the value: "$.a[0]"
    text: str  # what is wrong there

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


class TooMuchWork(SchemaError):
    """The limits are reached; nothing more is looked at."""

    def __init__(self) -> None:
        super().__init__("it is too much work to hold values against it")


def type_matches(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if isinstance(value, (int, float)):
        return name == "number" or (name == "integer" and (isinstance(value, int) or value.is_integer()))
    return name == {str: "string", list: "array", dict: "object", type(None): "null"}[type(value)]


class Validator:
    """For one document; not for several threads at once.

    `violations` and `matches` may be asked any number of times: what they may do has one limit for all of them.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._num_steps = 0
        self._work_left = MAX_WORK
        self._depth = 0

    def violations(self, value: Any, schema: Any = None) -> Iterator[Violation]:
        """All of them, in order; against the whole document unless another schema of it is given.

        Raises:
            TooMuchWork, SchemaError
        """
        self._depth = 0
        return self._check(value, self._document.root if schema is None else schema, "$")

    def matches(self, value: Any, schema: Any = None) -> bool:
        return next(self.violations(value, schema), None) is None

    def _check(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        self._num_steps += 1
        if self._num_steps > MAX_STEPS or self._depth > MAX_DEPTH:
            raise TooMuchWork
        if schema is True:
            return
        if schema is False:
            yield Violation(path, "nothing may stand here")
            return
        if not isinstance(schema, dict):
            raise SchemaError("a schema is no object")
        self._depth += 1
        for keyword, rule in _RULES.items():
            if keyword in schema:
                self._spend(len(schema[keyword]) if isinstance(schema[keyword], (list, dict)) else 1)
                yield from rule(self, value, schema, path)
        for keyword in UNCHECKED:
            if keyword in schema:
                yield Violation(path, f"not checked: '{keyword}' is not understood")
        self._depth -= 1

    def _fits(self, value: Any, schema: Any, path: str) -> bool:
        return next(self._check_apart(value, schema, path), None) is None

    def _check_apart(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        """As `_check`; may be left before its end."""
        depth = self._depth
        try:
            yield from self._check(value, schema, path)
        finally:
            self._depth = depth

    def _spend(self, work: int) -> None:
        self._work_left -= work
        if self._work_left < 0:
            raise TooMuchWork

    def _found_in(self, pattern: str, text: str) -> bool:
        return found_in(pattern, text, self._spend)

    def _may_match(self, pattern: str, name: str) -> bool:
        try:
            return self._found_in(pattern, name)
        except PatternError:
            return True

    def _same(self, one: Any, other: Any) -> bool:
        self._spend(num_elements(other) if isinstance(one, (list, dict)) else 0)
        return same(one, other)

    # --- schemas in schemas ------------------------------------------------------------------------------------------

    def _reference(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        yield from self._check(value, self._document.resolve(schema["$ref"]), path)

    def _all(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        for each in _list(schema["allOf"]):
            yield from self._check(value, each, path)

    def _any(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if not any(self._fits(value, each, path) for each in _list(schema["anyOf"])):
            yield Violation(path, "matches none of the alternatives")

    def _one(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        number = sum(self._fits(value, each, path) for each in _list(schema["oneOf"]))
        if number != 1:
            yield Violation(path, f"matches {number} of the alternatives instead of exactly one")

    def _not(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if self._fits(value, schema["not"], path):
            yield Violation(path, "matches what it must not match")

    def _if(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        branch = "then" if self._fits(value, schema["if"], path) else "else"
        if branch in schema:
            yield from self._check(value, schema[branch], path)

    # --- any value ---------------------------------------------------------------------------------------------------

    def _type(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        names = types_of(schema) or frozenset()
        if not any(type_matches(value, name) for name in names):
            yield Violation(path, f"must be of type {' or '.join(sorted(names))}")

    def _enum(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if not any(self._same(value, each) for each in _list(schema["enum"])):
            yield Violation(path, f"must be one of {_shown(schema['enum'])}")

    def _const(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if not self._same(value, schema["const"]):
            yield Violation(path, f"must be {_shown(schema['const'])}")

    # --- objects -----------------------------------------------------------------------------------------------------

    def _properties(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if isinstance(value, dict):
            for name, each in _map(schema["properties"]).items():
                if name in value:
                    yield from self._check(value[name], each, _inside(path, name))

    def _required(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if isinstance(value, dict) and isinstance(schema["required"], list):  # draft 3 has a boolean here
            for name in schema["required"]:
                if name not in value:
                    yield Violation(path, f"the required property '{name}' is missing")

    def _pattern_properties(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if isinstance(value, dict):
            for pattern, each in _map(schema["patternProperties"]).items():
                for name in value:
                    try:
                        is_found = self._found_in(pattern, name)
                    except PatternError as error:
                        yield Violation(
                            _inside(path, name), f"not checked against the pattern {pattern[:40]!r}: {error}"
                        )
                        break
                    if is_found:
                        yield from self._check(value[name], each, _inside(path, name))

    def _additional_properties(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if not isinstance(value, dict):
            return
        patterns = _map(schema.get("patternProperties", {}))
        for name in value:
            if name not in schema.get("properties", {}) and not any(self._may_match(each, name) for each in patterns):
                if schema["additionalProperties"] is False:
                    yield Violation(path, f"the property '{name[:100]}' is not allowed")
                else:
                    yield from self._check(value[name], schema["additionalProperties"], _inside(path, name))

    def _unevaluated_properties(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if schema.keys() & {"allOf", "anyOf", "oneOf", "if", "$ref", "dependentSchemas"}:
            yield Violation(path, "not checked: 'unevaluatedProperties' beside other schemas is not understood")
        elif "additionalProperties" not in schema:
            own = {**schema, "additionalProperties": schema["unevaluatedProperties"]}
            yield from self._additional_properties(value, own, path)

    def _property_names(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if isinstance(value, dict):
            for name in value:
                if not self._fits(name, schema["propertyNames"], path):
                    yield Violation(path, f"the property name '{name[:100]}' is not allowed")

    def _dependent_required(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        keyword = "dependentRequired" if "dependentRequired" in schema else "dependencies"
        if isinstance(value, dict):
            for name, each in _map(schema[keyword]).items():
                if name not in value:
                    continue
                if not isinstance(each, list):
                    yield from self._check(value, each, path)
                    continue
                for other in each:
                    if other not in value:
                        yield Violation(path, f"the property '{other}' is missing, which '{name}' requires")

    def _dependent_schemas(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if isinstance(value, dict):
            for name, each in _map(schema["dependentSchemas"]).items():
                if name in value:
                    yield from self._check(value, each, path)

    # --- arrays ------------------------------------------------------------------------------------------------------

    def _items(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if not isinstance(value, list):
            return
        front, rest = items_of(schema)
        for index, item in enumerate(value):
            each = front[index] if index < len(front) else rest
            yield from self._check(item, each, f"{path}[{index}]")

    def _items_alone(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if "prefixItems" not in schema:
            yield from self._items(value, schema, path)

    def _contains(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if isinstance(value, list):
            number = sum(self._fits(item, schema["contains"], path) for item in value)
            least, most = schema.get("minContains", 1), schema.get("maxContains", math.inf)
            if not least <= number <= most:
                yield Violation(path, f"has {number} of the items that it must have {least} to {most} of")

    def _unique(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if schema["uniqueItems"] is True and isinstance(value, list):
            self._spend(num_elements(value))
            seen: set[bytes] = set()
            for index, item in enumerate(value):
                text = msgspec.json.encode(_canonical(item), order="sorted")
                if text in seen:
                    yield Violation(f"{path}[{index}]", "stands there twice")
                seen.add(text)

    # --- texts -------------------------------------------------------------------------------------------------------

    def _pattern(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        if isinstance(value, str):
            pattern = schema["pattern"]
            try:
                if not self._found_in(pattern, value):
                    yield Violation(path, f"does not match the pattern {pattern[:100]!r}")
            except PatternError as error:
                yield Violation(path, f"not checked against the pattern {pattern[:100]!r}: {error}")

    def _format(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        check = FORMATS.get(schema["format"]) if isinstance(schema["format"], str) else None
        if isinstance(value, str) and check is not None and not check(value):
            yield Violation(path, f"is no {schema['format']}")

    # --- numbers -----------------------------------------------------------------------------------------------------

    def _multiple(self, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        step = schema["multipleOf"]
        if _is_number(value) and _is_number(step) and step > 0 and not _is_multiple(value, step):
            yield Violation(path, f"must be a multiple of {step}")


def _bounds(
    keyword: str, measure: Callable[[Any], float | None], holds: Callable[[float, float], bool], wording: str
) -> Callable[[Validator, Any, Any, str], Iterator[Violation]]:
    def check(_: Validator, value: Any, schema: Any, path: str) -> Iterator[Violation]:
        bound, amount = schema[keyword], measure(value)
        if amount is not None and _is_number(bound) and not holds(amount, bound):
            yield Violation(path, wording.format(bound))

    return check


def items_of(schema: Mapping[str, Any]) -> tuple[list[Any], Any]:
    """The schemas of an array's first items, and that of all others."""
    items = schema.get("items", True)
    if isinstance(items, list):  # until draft 2019-09
        return items, schema.get("additionalItems", True)
    return _list(schema.get("prefixItems", [])), items


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    return value if _is_number(value) else None


def _size(kind: type[Sized]) -> Callable[[Any], float | None]:
    return lambda value: len(value) if isinstance(value, kind) else None


def _is_multiple(value: float, step: float) -> bool:
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    quotient = value / step
    return math.isfinite(quotient) and math.isclose(quotient, round(quotient), rel_tol=1e-12, abs_tol=1e-12)


def _canonical(value: Any) -> Any:
    """Equal values in equal form: 1.0 is 1."""
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise SchemaError("a list of schemas or values is none")
    return value


def _map(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SchemaError("a map of schemas is no object")
    return value


def _inside(path: str, name: str) -> str:
    return f"{path}.{name[:100]}" if name.isidentifier() else f"{path}[{msgspec.json.encode(name[:100]).decode()}]"


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 200 else text[:200] + "..."


_RULES: Mapping[str, Callable[[Validator, Any, Any, str], Iterator[Violation]]] = {
    "$ref": Validator._reference,
    "type": Validator._type,
    "enum": Validator._enum,
    "const": Validator._const,
    "allOf": Validator._all,
    "anyOf": Validator._any,
    "oneOf": Validator._one,
    "not": Validator._not,
    "if": Validator._if,
    "required": Validator._required,
    "properties": Validator._properties,
    "patternProperties": Validator._pattern_properties,
    "additionalProperties": Validator._additional_properties,
    "unevaluatedProperties": Validator._unevaluated_properties,
    "propertyNames": Validator._property_names,
    "dependentRequired": Validator._dependent_required,
    "dependencies": Validator._dependent_required,
    "dependentSchemas": Validator._dependent_schemas,
    "prefixItems": Validator._items,
    "items": Validator._items_alone,
    "contains": Validator._contains,
    "uniqueItems": Validator._unique,
    "pattern": Validator._pattern,
    "format": Validator._format,
    "multipleOf": Validator._multiple,
    "minProperties": _bounds("minProperties", _size(dict), lambda n, b: n >= b, "must have {} properties at least"),
    "maxProperties": _bounds("maxProperties", _size(dict), lambda n, b: n <= b, "must have {} properties at most"),
    "minItems": _bounds("minItems", _size(list), lambda n, b: n >= b, "must have {} items at least"),
    "maxItems": _bounds("maxItems", _size(list), lambda n, b: n <= b, "must have {} items at most"),
    "minLength": _bounds("minLength", _size(str), lambda n, b: n >= b, "must have {} characters at least"),
    "maxLength": _bounds("maxLength", _size(str), lambda n, b: n <= b, "must have {} characters at most"),
    "minimum": _bounds("minimum", _number, lambda n, b: n >= b, "must be at least {}"),
    "maximum": _bounds("maximum", _number, lambda n, b: n <= b, "must be at most {}"),
    "exclusiveMinimum": _bounds("exclusiveMinimum", _number, lambda n, b: n > b, "must be more than {}"),
    "exclusiveMaximum": _bounds("exclusiveMaximum", _number, lambda n, b: n < b, "must be less than {}"),
}
