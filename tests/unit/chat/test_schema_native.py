"""llama.cpp's converter itself: what it is told, it enforces, and then there is nothing to find in the answers."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from native.objects import generate_text, make_sampler
from tiny_models import model_file

from dmr import _core
from dmr.chat.schema import Schema

MAX_TOKENS = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> _core.Model:
    return _core.Model([str(model_file("tiny-random", tmp_path_factory.mktemp("models")))])


class Dice:
    """Makes schemas of all kinds."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def _maybe(self, **keywords: Any) -> dict[str, Any]:
        return {name: value for name, value in keywords.items() if self._random.random() < 0.5}

    def schema(self, depth: int = 0) -> Any:
        kinds = [self._text, self._integer, self._number, self._listed, self._null]
        if depth < 2:
            kinds += [self._object, self._array, self._tuple, self._any_of, self._all_of, self._object]
        return self._random.choice(kinds)(depth)

    def _text(self, depth: int) -> Any:
        patterns = ["^[ab]{1,3}$", r"^\d{2}-\w$", r"^(yes|no)\.?$", "x", r"^[^\"/]{2,4}$", r"^\bx\b$"]
        pattern = self._random.choice(patterns)
        wishes = self._maybe(
            pattern=pattern, minLength=self._random.randrange(3), maxLength=self._random.randrange(3, 8)
        )
        formats = self._maybe(format=self._random.choice(["date", "time", "date-time", "uuid", "email", "odd"]))
        return {"type": "string", **wishes, **formats}

    def _integer(self, depth: int) -> Any:
        low = self._random.choice([-1000, -13, -1, 0, 1, 7, 99, 12345])
        high = low + self._random.choice([0, 1, 9, 100, 54321])
        bounds = self._maybe(minimum=low, maximum=high, exclusiveMinimum=low - 1.5, exclusiveMaximum=high + 2)
        return {"type": "integer", **bounds, **self._maybe(multipleOf=3)}

    def _number(self, depth: int) -> Any:
        return {"type": "number", **self._maybe(minimum=3)}

    def _null(self, depth: int) -> Any:
        return self._random.choice([{"type": "null"}, {"type": ["boolean", "null"]}, {}, True])

    def _listed(self, depth: int) -> Any:
        values = self._random.sample(["a", 'b"', 1, -2.5, None, True, [1], {"k": "v"}], 4)
        return {"enum": values, **self._maybe(type=["string", "number", "array"])}

    def _object(self, depth: int) -> Any:
        names = self._random.sample(["a", "b", "title", "x y"], self._random.randrange(4))
        more = self._maybe(additionalProperties=self._random.choice([False, True, {"type": "null"}]))
        more |= self._maybe(required=[*names[:2], *(["extra"] if self._random.random() < 0.2 else [])])
        more |= self._maybe(minProperties=1) if self._random.random() < 0.3 else {}
        properties = {name: self.schema(depth + 1) for name in names}
        return {"type": "object", **({"properties": properties} if names else {}), **more}

    def _array(self, depth: int) -> Any:
        least = self._random.randrange(3)
        bounds = self._maybe(minItems=least, maxItems=least + self._random.randrange(2), uniqueItems=True)
        return {"type": "array", "items": self.schema(depth + 1), **bounds}

    def _tuple(self, depth: int) -> Any:
        return {
            "type": "array",
            "prefixItems": [self.schema(depth + 1), self.schema(depth + 1)],
            **self._maybe(items=False),
        }

    def _any_of(self, depth: int) -> Any:
        branches = [self.schema(depth + 1), self.schema(depth + 1)]
        siblings = self._maybe(type=self._random.choice(["string", "object", ["integer", "null"]]))
        return {self._random.choice(["anyOf", "oneOf"]): branches, **siblings}

    def _all_of(self, depth: int) -> Any:
        return {"allOf": [self.schema(depth + 1), *self._random.choice([[], [{}], [self.schema(depth + 1)]])]}


def test_whatever_is_not_named_is_enforced(model: _core.Model) -> None:
    num_whole = num_answers = 0
    for seed in range(400):
        schema = Dice(seed).schema()
        found = Schema(json.dumps(schema))
        grammar = _core.grammar_from_schema(found.for_grammar)
        text, ended = generate_text(model, "x", make_sampler(model, grammar=grammar, seed=seed), MAX_TOKENS)
        if not ended or "\ufffd" in text:  # this model writes bytes that are no characters
            continue
        num_answers += 1
        violations = [each for each in found.violations(text) if "is no date" not in each]  # a month has up to 31 days
        if not found.unenforceable:
            num_whole += 1
            assert violations == [], (schema, found.for_grammar, text)
        else:
            assert not [each for each in violations if "is no JSON" in each], (schema, found.for_grammar, text)
    assert num_answers > 150
    assert num_whole > 80


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 2000},
        {"type": "array", "maxItems": 1000, "items": {"type": "string", "maxLength": 50}},
        {"type": "array", "minItems": 1000},
        {"type": "array", "maxItems": 0, "items": {}},
        {"type": "array", "prefixItems": []},
        {"type": "string", "pattern": "^$"},
        {"type": "string", "pattern": "(?=a)"},
        {"type": "string", "pattern": "^(a$"},
        {"type": "string", "maxLength": 10**9},
        {"type": "array", "minItems": 10**9},
        {"type": "array", "minItems": 3, "maxItems": 1},
        {"type": "string", "minLength": 3, "maxLength": 1},
        {"type": "integer", "minimum": 10**30},
        {"type": "integer", "minimum": -(10**30), "maximum": 1e300},
        {"properties": {"a": False, "b": True}, "required": ["a"]},
        {"anyOf": [False]},
    ],
    ids=lambda schema: json.dumps(schema)[:50],
)
def test_what_the_converter_is_told_it_understands(model: _core.Model, schema: Any) -> None:
    found = Schema(json.dumps(schema))
    make_sampler(model, grammar=_core.grammar_from_schema(found.for_grammar))
