"""Grammars (GBNF), put together from those that llama-common makes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from dmr import _core
from dmr.errors import InvalidRequest
from dmr.types import ResponseFormat
from dmr.wire import GrammarSpec

MAX_PARALLEL_CALLS = 8  # of one answer; without a bound, a small model calls until its context is full
MAX_THOUGHTS = 4  # before a call or an answer, where each thought is a message of its own

# A schema that no client has; its rule gives its place to a grammar that did.
_PLACEHOLDER = "@@answer@@"
PLACEHOLDER_SCHEMA = json.dumps({"const": _PLACEHOLDER})

_TRIGGER_KINDS = {
    _core.TriggerKind.WORD: "word",
    _core.TriggerKind.PATTERN: "pattern",
    _core.TriggerKind.FULL_PATTERN: "full_pattern",
}
_TOKEN = re.compile(
    r"""(?P<comment>\#[^\n]*)
    | (?P<string>"(?:\\.|[^"\\])*")
    | (?P<characters>\[(?:\\.|[^\]\\])*\])
    | (?P<count>\{[0-9]*,?[0-9]*\})
    | (?P<special><[^>\s]*>)
    | (?P<name>[A-Za-z][A-Za-z0-9_-]*)
    | (?P<sign>::=|[\s\S])""",
    re.VERBOSE,
)
_OPTIONAL_END = re.compile(r'\(("(?:\\.|[^"\\])*") \| \)')
_MANY = {"*": 0, "+": 1, "{0,}": 0, "{1,}": 1}

Rules = dict[str, str]


def grammar_of_format(response_format: ResponseFormat) -> GrammarSpec:
    """What a raw completion must match; it has no template.

    Raises:
        InvalidRequest: the schema cannot be enforced.
    """
    if response_format.grammar:
        return GrammarSpec(response_format.grammar)
    try:
        return GrammarSpec(_core.grammar_from_schema(response_format.json_schema))
    except (_core.GrammarError, ValueError) as error:
        raise InvalidRequest(f"{error}.", param="response_format") from error


def lazy_calls(prompt: _core.ChatPrompt) -> GrammarSpec:
    """Free text until a call begins; from there on calls, and then the end of the turn."""
    rules = _rules_of(prompt.grammar)
    triggers = set(rules["root"].split(" | "))
    for name in triggers & rules.keys():
        rules[name] = _without_empty_calls(_bounded(rules[name], MAX_PARALLEL_CALLS), triggers)
    kinds = tuple((_TRIGGER_KINDS[trigger.kind], trigger.value) for trigger in prompt.grammar_triggers)
    return GrammarSpec(_text_of(rules), lazy=True, triggers=kinds)


def forced_calls(prompt: _core.ChatPrompt, parallel: bool, begun: str) -> str:
    """Calls and nothing else, from the first token or from the end of the thought.

    `prompt` is one with tool choice "required", whose grammar lets text come first: that text becomes `begun`, what the
    prompt holds of the answer already.
    """
    rules = _rules_of(prompt.grammar)
    tree = msgspec.json.decode(prompt.parser)
    nodes: list[Mapping[str, Any]] = tree["parsers"]
    for name in _text_rules(tree) & rules.keys():
        rules[name] = _quoted(begun)
    rules["root"] = _bounded(rules["root"], MAX_THOUGHTS)
    if "preamble" in rules and "analysis" in rules:
        rules["preamble"] = "analysis"  # a message of plain text is an alternative to a thought here
    for node in nodes:
        if node["type"] == "rule" and node["trigger"] and node["name"] in rules:
            rules[node["name"]] = _bounded(rules[node["name"]], MAX_PARALLEL_CALLS if parallel else 1)
    return _text_of(rules)


def has_text_before_calls(prompt: _core.ChatPrompt) -> bool:
    """Whether an answer of this format can hold text and then a call, in one message."""
    return bool(_text_rules(msgspec.json.decode(prompt.parser)) & _rules_of(prompt.grammar).keys())


def answer(prompt: _core.ChatPrompt, grammar: str) -> str:
    """A thought, if there is one, and then the grammar's text, without code fences.

    `prompt` is one for PLACEHOLDER_SCHEMA.
    """
    rules = _rules_of(prompt.grammar)
    root = rules["root"].replace('"```json"', '""').replace('"```"', '""')
    # Small models are glad to write white space; after the answer there shall be none.
    root = root.replace("response-format space", "response-format")
    # Where a thought may also end in a call, it would end anywhere: there are no calls here.
    rules["root"] = _bounded(_OPTIONAL_END.sub(r"\1", root), MAX_THOUGHTS)
    for name, body in rules.items():
        if _PLACEHOLDER in body:
            rules[name] = "answer-root"
    return f"{_text_of(rules)}\n{_renamed(grammar, 'answer-')}"


def either(first: str, second: str) -> str:
    """Texts of the one or of the other grammar."""
    return f"root ::= one-root | two-root\n{_renamed(first, 'one-')}\n{_renamed(second, 'two-')}"


def _rules_of(grammar: str) -> Rules:
    """llama-common writes one rule in each line."""
    rules = dict(line.split(" ::= ", 1) for line in grammar.split("\n") if " ::= " in line)
    for name, body in rules.items():
        if '"<|message|>"' in body:  # a content type, as in "<|constrain|>json<|message|>", has no end there
            rules[name] = body.replace("[A-Za-z0-9_-]+", "[A-Za-z0-9_-]{1,16}")
    return rules


def _text_of(rules: Rules) -> str:
    return "\n".join(f"{name} ::= {body}" for name, body in rules.items())


def _tokens(grammar: str) -> Iterator[tuple[str, str]]:
    for found in _TOKEN.finditer(grammar):
        yield found.lastgroup or "", found[0]


def _renamed(grammar: str, prefix: str) -> str:
    """The same grammar; all names of rules begin with the prefix."""
    return "".join(prefix + text if kind == "name" else text for kind, text in _tokens(grammar))


def _bounded(body: str, most: int) -> str:
    """Endless repetitions of groups and rules come to an end; those of characters do not."""
    written: list[str] = []
    before = ("", "")
    for kind, text in _tokens(body):
        least = _MANY.get(text) if kind in ("sign", "count") else None
        if least is not None and (before[0] == "name" or before[1] == ")") and (most > 1 or least == 1):
            text = f"{{{least},{most - 1 + least}}}" if most > 1 else ""
        written.append(text)
        before = (kind, text)
    return "".join(written)


def _without_empty_calls(body: str, calls: set[str]) -> str:
    """Calls that may be left out, each time, would leave white space without an end."""
    written: list[str] = []
    before = ""
    for _, text in _tokens(body):
        if text == "?" and before in calls:
            continue
        written.append(text)
        before = text
    return "".join(written)


def _text_rules(tree: Mapping[str, Any]) -> set[str]:
    """The grammar's rules for plain content: those that nothing but content is made of."""
    nodes: list[Mapping[str, Any]] = tree["parsers"]

    def texts_in(node: Mapping[str, Any]) -> set[str]:
        if node["type"] == "until":
            return {f"until-{place}" for place, other in enumerate(nodes) if other is node}
        if node["type"] == "ref":
            return texts_in(nodes[tree["rules"][node["name"]]])
        return texts_in(nodes[node["child"]]) if "child" in node else set()

    found: dict[str, set[str]] = {"content": set(), "reasoning": set()}
    for node in nodes:
        if node["type"] == "tag" and node["tag"] in found:
            found[node["tag"]] |= texts_in(node)
    return found["content"] - found["reasoning"]


def _quoted(text: str) -> str:
    """A text as a grammar's literal."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(character, character) for character in text) + '"'
