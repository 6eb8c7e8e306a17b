"""JSON Schemas as llama.cpp's converter enforces them.

The converter reads a small part of JSON Schema and passes over the rest in silence: of several keywords it often takes
one. Here a schema is written in such words that all it takes is enforced; what cannot be said so is left out, and told.
What remains may be narrower than what the schema allows, never wider.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dmr.chat.formats import FORMATS
from dmr.chat.schema_document import (
    ARRAY_WORDS,
    NUMBER_WORDS,
    OBJECT_WORDS,
    TEXT_WORDS,
    Document,
    SchemaError,
    assertions,
    merged,
    same,
    types_of,
)
from dmr.chat.schema_scalars import written_scalar
from dmr.chat.schema_validator import TooMuchWork, Validator, items_of

MAX_SCHEMAS = 10_000  # that are written; alternatives in alternatives may multiply
MAX_ITEMS = 1000  # of an array, for the grammar
MAX_DEPTH = 100

_KINDS = (("object", OBJECT_WORDS), ("array", ARRAY_WORDS), ("string", TEXT_WORDS), ("number", NUMBER_WORDS))
_BEYOND = ("not", "if", "$dynamicRef", "$recursiveRef")
_PLAIN_REFERENCE = re.compile(r"#/(\$defs|definitions)/[A-Za-z0-9]+")


class Finding(NamedTuple):
    """A keyword that the grammar does not enforce."""

    path: str  # in the schema: "#/properties/a"
    keyword: str


class GrammarSchema:
    """What the converter is given instead of a document."""

    def __init__(self, document: Document) -> None:
        """Raises SchemaError."""
        self._document = document
        self._validator = Validator(document)
        self._findings: dict[Finding, None] = {}
        self._names: dict[str, str] = {}  # of the references: what they are called in the result
        self._targets: dict[str, Any] = {}
        self._num_schemas = 0
        self._depth = 0
        self._inlined: list[str] = []  # references that are being put into their place
        root = self._schema(document.root, "#")
        self.schema = self._with_targets(root)
        self.is_as_given = self._is_as_given(root)

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(self._findings)

    def _with_targets(self, root: dict[str, Any]) -> dict[str, Any]:
        whole = dict(root)
        for reference, target in self._targets.items():
            _, group, name = self._names[reference].split("/")
            whole[group] = {**whole.get(group, {}), name: target}
        return whole

    def _is_as_given(self, root: dict[str, Any]) -> bool:
        """Whether the converter may as well be given the document itself."""
        return _bare(self._document.root) == root and all(
            self._names[reference] == reference and _bare(self._document.resolve(reference)) == target
            for reference, target in self._targets.items()
        )

    def _tell(self, path: str, *keywords: str) -> None:
        for keyword in keywords:
            self._findings[Finding(path, keyword)] = None

    def _schema(self, schema: Any, path: str) -> dict[str, Any]:
        self._num_schemas += 1
        if self._num_schemas > MAX_SCHEMAS or self._depth > MAX_DEPTH:
            raise SchemaError("it is too large, or nested too deep")
        if schema is True:
            return {}
        if schema is False:
            self._tell(path, "false")  # nothing may stand here: no grammar says that
            return {}
        self._depth += 1
        try:
            return self._combined(assertions(schema), path)
        finally:
            self._depth -= 1

    # --- schemas in schemas ------------------------------------------------------------------------------------------

    def _combined(self, node: dict[str, Any], path: str) -> dict[str, Any]:
        for keyword in _BEYOND:
            if keyword in node:
                del node[keyword]
                self._tell(path, keyword)
        node.pop("then", None)
        node.pop("else", None)
        if "$ref" in node:
            return self._reference(node, path)
        if "allOf" in node:
            return self._all_of(node, path)
        for keyword in ("oneOf", "anyOf"):
            if keyword in node:
                return self._any_of(node, keyword, path)
        return self._single(node, path)

    def _reference(self, node: dict[str, Any], path: str) -> dict[str, Any]:
        reference = node.pop("$ref")
        target = self._document.resolve_whole({"$ref": reference})
        if node and isinstance(target, dict) and reference not in self._inlined:
            both = merged(target, node)
            if both is not None:
                self._inlined.append(reference)
                try:
                    return self._combined(both, path)
                finally:
                    self._inlined.pop()
        self._tell(path, *node)
        if reference not in self._names:
            name = reference if _PLAIN_REFERENCE.fullmatch(reference) else f"#/$defs/reference{len(self._names)}"
            self._names[reference] = name
            self._targets[reference] = {}  # in case it refers to itself
            self._targets[reference] = self._schema(target, reference)
        return {"$ref": self._names[reference]}

    def _all_of(self, node: dict[str, Any], path: str) -> dict[str, Any]:
        parts = node.pop("allOf")
        inlined: list[str] = []
        for part in parts:
            reference = part.get("$ref") if isinstance(part, dict) else None
            if part is True or (reference is not None and reference in self._inlined + inlined):
                continue
            whole = self._document.resolve_whole(part)
            both = merged(node, whole) if isinstance(whole, dict) else None
            if both is None:
                self._tell(path, "allOf")
                continue
            node = both
            inlined += [reference] if reference is not None else []
        self._inlined += inlined
        try:
            return self._combined(node, path)
        finally:
            del self._inlined[len(self._inlined) - len(inlined) :]

    def _any_of(self, node: dict[str, Any], keyword: str, path: str) -> dict[str, Any]:
        branches = [branch for branch in node.pop(keyword) if branch is not False]
        if not branches:
            self._tell(path, keyword)
            return {}
        if keyword == "oneOf" and not self._are_apart(branches):
            self._tell(path, keyword)
        written = []
        for index, branch in enumerate(branches):
            place = f"{path}/{keyword}/{index}"
            if not node:
                written.append(self._schema(branch, place))
                continue
            whole = {} if branch is True else self._document.resolve_whole(branch)
            both = merged(node, whole)
            if both is None:
                if (
                    "type" in node
                    and "type" in whole
                    and merged({"type": node["type"]}, {"type": whole["type"]}) is None
                ):
                    continue  # a branch that nothing can match
                self._tell(path, *node)
                both = whole
            written.append(self._schema(both, place))
        if not written:
            self._tell(path, keyword)
            return {}
        return {keyword: written}

    def _are_apart(self, branches: Iterable[Any]) -> bool:
        """Whether no value can match two of them; False if that is not plain to see."""
        wholes = [self._document.resolve_whole(branch) for branch in branches]
        return all(_exclude_each_other(one, other) for index, one in enumerate(wholes) for other in wholes[index + 1 :])

    # --- one value ---------------------------------------------------------------------------------------------------

    def _single(self, node: dict[str, Any], path: str) -> dict[str, Any]:
        if "const" in node or "enum" in node:
            return self._listed(node, path)
        if isinstance(node.get("type"), list):
            written: dict[str, Any] = {}
            for name in node["type"]:
                written.update(self._of_type({**node, "type": name}, path))
            return {**written, "type": node["type"]}
        if "type" in node:
            return self._of_type(node, path)
        for name, words in _KINDS:
            found = node.keys() & words
            if name == "string" and found == {"format"} and node["format"] not in FORMATS:
                continue
            if found and name != "number":
                return self._of_type({**node, "type": name}, path)
            self._tell(path, *sorted(found))
        return {}

    def _listed(self, node: dict[str, Any], path: str) -> dict[str, Any]:
        keyword = "const" if "const" in node else "enum"
        values = [node[keyword]] if keyword == "const" else node[keyword]
        rest = {key: value for key, value in node.items() if key != keyword}
        try:
            kept = [value for value in values if self._validator.matches(value, rest)]
        except TooMuchWork:
            kept = values
            self._tell(path, *rest)
        if not kept:
            kept = values
            self._tell(path, keyword)
        if len(kept) < len(values):
            return {"enum": kept}
        return {**({"type": node["type"]} if "type" in node else {}), keyword: node[keyword]}

    def _of_type(self, node: dict[str, Any], path: str) -> dict[str, Any]:
        """`node` without alternatives and references; what speaks of other types has no meaning."""
        name = node["type"]
        if name == "object":
            return self._object(node, path)
        if name == "array":
            return self._array(node, path)
        written, beyond = written_scalar(node)
        self._tell(path, *beyond)
        return written

    # --- objects -----------------------------------------------------------------------------------------------------

    def _object(self, node: dict[str, Any], path: str) -> dict[str, Any]:
        additional = node.get("additionalProperties")
        if additional is None and node.get("unevaluatedProperties") is not None:
            additional = node["unevaluatedProperties"]  # nothing else in this schema has seen a property
        given = node.get("properties", {})
        properties = {
            name: self._schema(each, f"{path}/properties/{name}") for name, each in given.items() if each is not False
        }
        required = list(dict.fromkeys(node.get("required", [])))
        if any(name in given and name not in properties for name in required):
            self._tell(path, "required")
        is_open = additional not in (None, False) or (additional is None and not given)
        for name in required:
            if name not in given and additional is False:
                self._tell(path, "required")
            elif name not in given:
                each = {} if additional is None else additional
                properties[name] = self._schema(each, f"{path}/additionalProperties")
        written: dict[str, Any] = {"type": "object"}
        if properties or "properties" in node:
            written["properties"] = properties
        if "required" in node:
            written["required"] = [name for name in node["required"] if name in properties]
        if additional is not None or (is_open and properties):
            is_plain = additional is None or isinstance(additional, bool)
            written["additionalProperties"] = (
                additional is not False if is_plain else self._schema(additional, f"{path}/additionalProperties")
            )
        self._tell_of_object(node, path, written, is_open)
        return written

    def _tell_of_object(self, node: Mapping[str, Any], path: str, written: Mapping[str, Any], is_open: bool) -> None:
        names, required = written.get("properties", {}), written.get("required", [])
        if node.get("minProperties", 0) > len(required):
            self._tell(path, "minProperties")
        if node.get("maxProperties", math.inf) < (math.inf if is_open else len(names)):
            self._tell(path, "maxProperties")
        if "propertyNames" in node and (
            is_open or not all(self._validator.matches(name, node["propertyNames"]) for name in names)
        ):
            self._tell(path, "propertyNames")
        for keyword in ("dependentRequired", "dependencies"):
            for name, needed in node.get(keyword, {}).items():
                is_met = isinstance(needed, list) and set(needed) <= set(required)
                if not is_met and (is_open or name in names):
                    self._tell(path, keyword)
        for keyword in ("patternProperties", "dependentSchemas"):
            if node.get(keyword):
                self._tell(path, keyword)

    # --- arrays ------------------------------------------------------------------------------------------------------

    def _array(self, node: dict[str, Any], path: str) -> dict[str, Any]:
        front, rest = items_of(node)
        least, most = node.get("minItems", 0), node.get("maxItems", math.inf)
        keyword = "prefixItems" if "prefixItems" in node else "items"
        self._tell_of_array(node, path, most)
        if front or rest is False or isinstance(node.get("items"), list):
            if least > len(front) and rest is not False and not front:
                self._tell(path, "minItems")
            return self._tuple(node, front[: int(min(most, len(front)))], f"{path}/{keyword}", path)
        written: dict[str, Any] = {"type": "array"}
        if "items" in node:
            written["items"] = self._schema(rest, f"{path}/items")
        if most > MAX_ITEMS and "maxItems" in node:
            self._tell(path, "maxItems")
            most = math.inf
        if least > min(most, MAX_ITEMS):
            self._tell(path, "minItems")
            least = 0
        if "minItems" in node and least == node["minItems"]:
            written["minItems"] = least
        if "maxItems" in node and most == node["maxItems"]:
            written["maxItems"] = most
        return written

    def _tuple(self, node: Mapping[str, Any], front: list[Any], place: str, path: str) -> dict[str, Any]:
        """An array of exactly these items: the converter has no others with items of their own."""
        written: dict[str, Any] = {"type": "array"}
        keyword = "items" if isinstance(node.get("items"), list) else "prefixItems"
        written[keyword] = [self._schema(each, f"{place}/{index}") for index, each in enumerate(front)]
        if node.get("minItems", 0) > len(front):
            self._tell(path, "minItems")
        for bound in ("minItems", "maxItems"):
            if bound in node:
                written[bound] = node[bound]  # the converter passes over it, and it holds
        return written

    def _tell_of_array(self, node: Mapping[str, Any], path: str, most: float) -> None:
        if node.get("uniqueItems") and most > 1:
            self._tell(path, "uniqueItems")
        if "contains" in node and (node.get("minContains", 1) > 0 or "maxContains" in node):
            self._tell(path, "contains")
        if node.get("unevaluatedItems", True) is not True and "items" not in node:
            self._tell(path, "unevaluatedItems")


def _exclude_each_other(one: Any, other: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one is False or other is False
    mine, theirs = types_of(one), types_of(other)
    if mine is not None and theirs is not None and merged({"type": [*mine]}, {"type": [*theirs]}) is None:
        return True
    if _values_differ(one, other):
        return True
    if not mine == theirs == frozenset(["object"]):
        return False
    both = set(one.get("required", [])) & set(other.get("required", []))
    return any(
        _values_differ(one.get("properties", {}).get(name), other.get("properties", {}).get(name)) for name in both
    )


def _values_differ(one: Any, other: Any) -> bool:
    mine, theirs = _values_of(one), _values_of(other)
    return bool(mine and theirs) and not any(same(value, each) for value in mine for each in theirs)


def _values_of(schema: Any) -> list[Any]:
    if not isinstance(schema, dict):
        return []
    found: list[Any] = [schema["const"]] if "const" in schema else schema.get("enum", [])
    return found


def _bare(schema: Any) -> Any:
    """A cleaned schema without what only references need."""
    if not isinstance(schema, dict):
        return schema
    found = {key: value for key, value in schema.items() if key not in ("$defs", "definitions", "$anchor", "$id")}
    for key, value in found.items():
        if key in ("properties", "patternProperties", "dependentSchemas"):
            found[key] = {name: _bare(each) for name, each in value.items()}
        elif isinstance(value, list) and key in ("allOf", "anyOf", "oneOf", "prefixItems", "items"):
            found[key] = [_bare(each) for each in value]
        elif isinstance(value, dict) and key not in ("const", "dependencies", "dependentRequired"):
            found[key] = _bare(value)
    return found
