"""Hostile grammars, triggers and schemas."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from native.hostile_bench import Bench, Case

from dmr import _core


def nested_rules(count: int, body: str) -> str:
    rules = "\n".join(f"r{i} ::= " + body.replace("@", f"r{i + 1}") for i in range(count))
    return f'root ::= r0\n{rules}\nr{count} ::= "a"'


def grammars(bench: Bench) -> Iterator[Case]:
    bad = (_core.GrammarError,)
    for name, text in {
        "syntax": "root ::= (",
        "no root": 'toor ::= "a"',
        "undefined rule": "root ::= absent",
        "left recursion": 'root ::= root "a" | "b"',
        "hidden left recursion": 'root ::= a root "x" | "z"\na ::= b\nb ::= "" | "y"',
        "deeply hidden left recursion": 'root ::= (a b)* root "x" | "z"\na ::= b?\nb ::= c{0,3}\nc ::= "y"',
        "backward repetition": 'root ::= "a"{5,2}',
        "backward repetition with comments": 'root ::= ("a"{ # five\n 5 , # two\n 2 })',
        "3000 repetitions": 'root ::= "a"{3000}',
        "endless number": 'root ::= "a"{99999999999999999999}',
        "100k parentheses": "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
        "200k rules": nested_rules(200_000, "@"),
        "2 MB of text": 'root ::= "' + "a" * 2_000_000 + '"',
        "doubling alternatives": nested_rules(40, "@ | @"),
        "doubling options": nested_rules(40, "@? @?"),
        "some doubling options": nested_rules(12, "@? @?"),
        "doubling nothing": nested_rules(40, "@ @").replace('"a"', '""'),
        "options of many options": 'root ::= (("a"?){0,40}){0,40}',
        "100k alternatives": "root ::= " + " | ".join(f'"a{i}"' for i in range(60_000)),
        "zero byte": 'root ::= "a"\0',
        "only a zero byte": "\0",
        "token that is not there": "root ::= <nobody>",
        "half a literal": 'root ::= "abc',
        "half an escape": 'root ::= "\\x',
        "half a class": "root ::= [abc",
    }.items():
        yield Case(f"grammar: {name}", lambda t=text: bench.sample(grammar=t), bad)
    for name, text in {
        "8000 rules": nested_rules(8000, "@"),
        "8000 optional rules": nested_rules(8000, "@?"),
        "repetition of repetition": 'root ::= (("a"{1000}){1000}){1000}',
        "options of options": 'root ::= (("a"?){0,8}){0,8}',
        "1 MB of text": 'root ::= "' + "a" * 1_000_000 + '"',
        "no character": "root ::= [z-a]",
        "beyond Unicode": 'root ::= "\\UFFFFFFFF"',
        "surrogate": 'root ::= "\\uD800"',
        "token beyond the vocabulary": "root ::= <[99999999]>",
        "nothing": 'root ::= ""',
        "not that token": "root ::= !<[3]>",
    }.items():
        yield Case(f"grammar: {name}", lambda t=text: bench.sample(grammar=t), may_pass=True)
    a = bench.random.tokenize("a")[0]
    forbidden = {"grammar": 'root ::= "a"', "logit_bias": [(a, -math.inf)]}
    for fields in ({}, {"temperature": 0.0}, {"top_k": 0}, {"mirostat": 2}, {"adaptive_target": 0.5}):
        yield Case(f"grammar against biases {fields}", lambda f=fields: bench.sample(**forbidden, **f), bad)
    yield Case("grammar after its end", lambda: bench.sample(grammar='root ::= "a"', ignore_eos=True), may_pass=True)


def triggers(bench: Bench) -> Iterator[Case]:
    def lazy(kind: _core.TriggerKind, *texts: str) -> Callable[[], object]:
        starts = [_core.GrammarTrigger(kind, text) for text in texts]
        return lambda: bench.sample(grammar='root ::= "a"', grammar_lazy=True, grammar_triggers=starts)

    word, pattern = _core.TriggerKind.WORD, _core.TriggerKind.PATTERN
    yield Case("no triggers", lazy(word), (ValueError,))
    yield Case("empty trigger", lazy(word, ""), (ValueError,))
    yield Case("long word", lazy(word, "x" * 1_000_000))
    yield Case("long pattern", lazy(pattern, "(" * 100_000 + ")" * 100_000))
    yield Case("10k triggers", lazy(word, *("word" + str(i) for i in range(10_000))))
    yield Case("pattern's syntax", lazy(pattern, "((("), (_core.GrammarError,))
    yield Case("pattern's size", lazy(pattern, "a{1000}{1000}{1000}"), (_core.GrammarError,))
    yield Case("deep pattern", lazy(pattern, "(" * 2000 + "a" + ")" * 2000), may_pass=True)
    yield Case("word of signs", lazy(word, ".^$|()*+?[]{}\\/-"), may_pass=True)
    yield Case("trigger kind", lambda: _core.TriggerKind(7), may_pass=True)


def schemas(bench: Bench) -> Iterator[Case]:
    def doubled(depth: int) -> dict[str, Any]:
        levels = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(depth)}
        return {"$ref": "#/$defs/d0", "$defs": {**levels, f"d{depth}": {"type": "null"}}}

    loop = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    for name, schema in {
        "backward items": {"type": "array", "items": {}, "minItems": 5, "maxItems": 2},
        "3000 properties": {"type": "object", "properties": {f"p{i}": {} for i in range(3000)}},
        "loop of references": loop,
        "reference to itself": {"$ref": "#"},
        "reference into nothing": {"$ref": "#/$defs/a/b/c"},
        "doubling references": doubled(40),
        "pattern's syntax": {"type": "string", "pattern": "^((($"},
        "pattern backwards": {"type": "string", "pattern": "^a{5,2}$"},
        "endless enumeration": {"enum": list(range(60_000))},
    }.items():
        yield Case(f"schema: {name}", lambda s=schema: use_schema(bench, json.dumps(s)))
    for name, text in {
        "no JSON": "{",
        "100k arrays": "[" * 100_000 + "]" * 100_000,
        "20k schemas": '{"items":' * 20_000 + "{}" + "}" * 20_000,
        "20k alternatives": '{"anyOf":[' * 20_000 + "{}" + "]}" * 20_000,
        "half a character": '"\\ud800"',
    }.items():
        yield Case(f"schema: {name}", lambda t=text: use_schema(bench, t))
    for name, schema in {
        "deep pattern": {"type": "string", "pattern": "^" + "(" * 50_000 + ")" * 50_000 + "$"},
        "large pattern": {"type": "string", "pattern": "^(a{1000}){1000}$"},
        "huge numbers": {"type": "integer", "minimum": -(10**18), "maximum": 10**18},
        "huger numbers": {"type": "integer", "minimum": -(10**30), "maximum": 10**30},
        "endless text": {"type": "string", "maxLength": 10**9},
        "256 properties": {"type": "object", "properties": {f"p{i}": {} for i in range(256)}},
        "strange keys": {"type": "object", "properties": {'\0\n"\\é🌞 ::= |': {"type": "null"}}},
        "wrong required": {"type": "object", "properties": {"a": {}}, "required": 5},
    }.items():
        yield Case(f"schema: {name}", lambda s=schema: use_schema(bench, json.dumps(s)), may_pass=True)


def use_schema(bench: Bench, text: str) -> object:
    return bench.sample(grammar=_core.grammar_from_schema(text))


GROUPS = (grammars, triggers, schemas)
