"""Go's text/template, as far as model templates use it."""

from __future__ import annotations

import json
import time
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr.go_template import Budget, GoTemplate, GoTemplateError
from dmr.go_template.template import MAX_LENGTH

TODAY = date(2026, 1, 2)
CALL = {"id": "x", "function": {"name": "f", "arguments": {"a": 1, "b": "ö"}}}
VALUES: dict[str, Any] = {
    "System": "Be brief.",
    "Prompt": "Hi",
    "Suffix": "",
    "Tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "Messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [CALL], "thinking": "Hm."},
        {"role": "tool", "content": "3", "tool_name": "f"},
    ],
    "N": 3,
    "X": 0.5,
    "Yes": True,
    "List": ["a", "b", "c"],
    "Map": {"b": 2, "a": 1},
}


def render(text: str, **values: Any) -> str:
    return GoTemplate(text).render({**VALUES, **values}, TODAY)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", ""),
        ("no actions { } }}", "no actions { } }}"),
        ("a {{- .Prompt -}} b", "aHib"),
        ("a\n\n{{- /* note }} */ -}}\n b", "ab"),
        ("a {{ .Prompt }} b", "a Hi b"),
        ("{{.N}}{{ -1 }}{{ 2.50 }}{{ .X }}{{ .Yes }}{{ false }}", "3-12.50.5truefalse"),
        ("{{ .Missing }}|{{ .Missing.Deeper }}|{{ nil }}", "||"),
        ("{{ $ }}", None),
        ("{{ .Tools }}", '[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]'),
        ("{{ range .Tools }}{{ .Function.Name }} {{ .Function }}{{ end }}", None),
        ('{{ "a\\n\\"b\\"" }}{{ `c\\n` }}', 'a\n"b"c\\n'),
        ("{{ currentDate }}", "2026-01-02"),
        # if, with
        ("{{ if .System }}S{{ end }}{{ if .Suffix }}F{{ else }}N{{ end }}", "SN"),
        ("{{ if .Suffix }}a{{ else if .N }}b{{ else }}c{{ end }}", "b"),
        ("{{ if .Suffix }}a{{ else if not .N }}b{{ else }}c{{ end }}", "c"),
        ("{{ with .Map }}{{ .a }}{{ $.Prompt }}{{ else }}none{{ end }}", "1Hi"),
        ("{{ with .Suffix }}x{{ else with .Prompt }}{{ . }}{{ end }}", "Hi"),
        ("{{ with $x := .Prompt }}{{ $x }}{{ end }}", "Hi"),
        # range
        ("{{ range .List }}{{ . }};{{ end }}", "a;b;c;"),
        ("{{ range $i, $x := .List }}{{ $i }}{{ $x }}{{ end }}", "0a1b2c"),
        ("{{ range $x := .List }}{{ $x }}{{ end }}", "abc"),
        ("{{ range $k, $v := .Map }}{{ $k }}={{ $v }} {{ end }}", "a=1 b=2 "),
        ("{{ range .Suffix | len }}{{ . }}{{ else }}empty{{ end }}", "empty"),
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
        ('{{ range .List }}{{ if eq . "b" }}{{ continue }}{{ end }}{{ . }}{{ end }}', "ac"),
        ('{{ range .List }}{{ if eq . "b" }}{{ break }}{{ end }}{{ . }}{{ end }}', "a"),
        # variables
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ end }}{{ $x }}", "1"),
        (
            "{{ $m := index .Messages 2 }}{{ $m.ToolCalls }}",
            '[{"id":"x","function":{"name":"f","arguments":{"a":1,"b":"ö"}}}]',
        ),
        # functions
        (
            "{{ eq .N 1 2 3 }}{{ ne .N 3 }}{{ lt 1 2 }}{{ le 2 2 }}{{ gt 1 2 }}{{ ge 2 2 }}",
            "truefalsetruetruefalsetrue",
        ),
        ('{{ and .Prompt .Suffix }}|{{ and .Prompt .N }}|{{ or .Suffix .N }}|{{ or .Suffix "" }}', "|3|3|"),
        ("{{ or true (index .List 9) }}{{ and false (index .List 9) }}", "truefalse"),
        ('{{ len .List }}{{ len .Map }}{{ len "ö" }}{{ .Prompt | len }}', "3222"),
        ('{{ index .List 1 }}{{ index .Map "b" }}{{ (index .Messages 1).Content }}', "b2Hi"),
        ("{{ slice .List 1 }}{{ slice .List 1 2 }}{{ slice .Prompt 0 1 }}", '["b","c"]["b"]H'),
        ("{{ json .Map }}{{ .Prompt | json }}", '{"b":2,"a":1}"Hi"'),
        (
            '{{ printf "%s-%05d-%q-%v-%.2f-%t-%%" .Prompt 7 "a" .Map 1.5 true }}',
            'Hi-00007-"a"-{"b":2,"a":1}-1.50-true-%',
        ),
        ('{{ print "a" 1 2 "b" }}{{ println "c" 3 }}', "a1 2bc 3\n"),
        ('{{ .Prompt | printf "%s %s" "x" }}', "x Hi"),
        ("{{ if eq (len (slice .Messages 3)) 1 }}last{{ end }}", "last"),
        ('{{ eq .Missing "" }}', "true"),
        # where the model goes on
        ("{{ .Prompt }}: {{ .Response }}</s>", "Hi: "),
        ("{{ range 2 }}{{ . }}{{ $.Response }}{{ end }}", "0"),
    ],
)
def test_what_templates_make(text: str, result: str | None) -> None:
    made = render(text, Response="")
    assert made if result is None else made == result


def test_a_response_that_is_there_is_text() -> None:
    assert render("{{ .Prompt }}: {{ .Response }}</s>", Response="Yo") == "Hi: Yo</s>"


CHATML = """\
{{- if or .System .Tools }}<|im_start|>system
{{- if .System }}
{{ .System }}
{{- end }}
{{- if .Tools }}

# Tools
{{- range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Content }}{{ .Content }}
{{- else if .ToolCalls }}{{ range .ToolCalls -}}
<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>
{{ end }}
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}"""


def test_a_whole_chat_template() -> None:
    assert render(CHATML) == (
        "<|im_start|>system\nBe brief.\n\n# Tools\n"
        '{"type": "function", "function": {"name":"f","parameters":{"type":"object"}}}<|im_end|>\n'
        "<|im_start|>user\nHi<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {"a":1,"b":"ö"}}\n</tool_call>\n<|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{{ .Prompt", "not closed"),
        ("a\nb {{ if .X }}c", "line 2: a block is not closed"),
        ("{{ end }}", "unexpected 'end'"),
        ("{{ else }}", "unexpected 'else'"),
        ("{{ if }}x{{ end }}", "a value is missing"),
        ("{{ if .X }}{{ else }}{{ else }}{{ end }}", "unexpected 'else'"),
        ("{{ nope .X }}", "no function 'nope'"),
        ("{{ .X .Y }}", "cannot be called"),
        ("{{ .X | .Y }}", "behind '|'"),
        ("{{ (.X }}", "parenthesis"),
        ("{{ .X ) }}", "unexpected ')'"),
        ("{{ ! }}", "unexpected '!'"),
        ("{{ break }}", "no 'range'"),
        ('{{ define "a" }}{{ end }}', "'define' is not supported"),
        ('{{ template "a" }}', "'template' is not supported"),
        ("{{ range $a, $b, $c := .List }}{{ end }}", "too many variables"),
        ('{{ "\\q" }}', "escape"),
        ("{{ 1234567890123456789 }}", "too long"),
        ("{{ if .X }}" * 40 + "{{ end }}" * 40, "nests deeper"),
        ("{{ " + "(" * 40 + ".X" + ")" * 40 + " }}", "nests deeper"),
        ("x" * (MAX_LENGTH + 1), "longer than"),
    ],
)
def test_templates_that_cannot_be_read(text: str, part: str) -> None:
    with pytest.raises(GoTemplateError) as raised:
        GoTemplate(text)
    assert part in raised.value.message
    assert raised.value.param == "template"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{{ $x }}", "before it is set"),
        ("{{ $x = 1 }}", "before it is declared"),
        ("{{ .N.Y }}", "field '.Y'"),
        ("{{ range .Prompt }}{{ end }}", "ranges over"),
        ("{{ index .List 9 }}", "'index'"),
        ("{{ index .List -1 }}", "'index'"),
        ("{{ slice .List 2 1 }}", "'slice'"),
        ("{{ len 5 }}", "'len'"),
        ("{{ not }}", "'not'"),
        ('{{ lt 1 "a" }}', "'lt'"),
        ('{{ printf "%d" "a" }}', "'printf'"),
        ('{{ printf "%d" }}', "'printf'"),
        ('{{ printf "%9999d" 1 }}', "width"),
        ('{{ printf "%z" 1 }}', "'printf'"),
        ("{{ range 1000 }}{{ range 1000 }}{{ end }}{{ end }}", "steps"),
        ("{{ range 100000000 }}{{ end }}", "steps"),
        ('{{ $x := "aaaaaaaa" }}{{ range 99 }}{{ $x = print $x $x }}{{ end }}', "characters"),
    ],
)
def test_templates_that_cannot_be_carried_out(text: str, part: str) -> None:
    started = time.monotonic()
    with pytest.raises(GoTemplateError) as raised:
        render(text)
    assert part in raised.value.message
    assert time.monotonic() - started < 5


def test_large_texts_cost_what_they_weigh() -> None:
    text = "{{ range 100000 }}{{ if eq $.Prompt $.Suffix }}{{ end }}{{ end }}"
    with pytest.raises(GoTemplateError, match="characters"):
        render(text, Prompt="a" * 10**7, Suffix="a" * 10**7)


@pytest.mark.parametrize("call", ["eq $.A $.B", 'printf "%.1v" $.A', "not (eq $.A $.B)"])
def test_large_values_cost_what_they_weigh(call: str) -> None:
    large = {"all": [{str(i): [i] for i in range(1000)} for _ in range(100)]}
    started = time.monotonic()
    with pytest.raises(GoTemplateError, match="characters"):
        render(f"{{{{ range 1000 }}}}{{{{ $x := {call} }}}}{{{{ end }}}}", A=large, B=json.loads(json.dumps(large)))
    assert time.monotonic() - started < 5


def test_renderings_that_belong_together_share_a_budget() -> None:
    template, budget = GoTemplate("{{ range 30000 }}{{ end }}"), Budget()
    for _ in range(6):
        template.render({}, TODAY, budget)
    with pytest.raises(GoTemplateError, match="steps"):
        template.render({}, TODAY, budget)


def test_a_loop_that_ends_early_does_not_pay_for_the_rest() -> None:
    started = time.monotonic()
    assert render("{{ range 9000 }}{{ range $.Many }}{{ break }}{{ end }}{{ end }}", Many=[1] * 10**6) == ""
    assert time.monotonic() - started < 5


MARKS = '{{ }} {{- -}} ( ) | := = , . $ $x .Messages /* */ "%s" `a` 1 -1'
WORDS = "if else end range with and or len index slice printf json true x"
PIECES = st.sampled_from([" ", "\n", *MARKS.split(), *WORDS.split()])


@given(st.lists(PIECES, max_size=40))
def test_anything_is_text_or_a_clear_error(pieces: list[str]) -> None:
    try:
        made = render("".join(pieces))
    except GoTemplateError as error:
        assert error.message  # noqa: PT017
    else:
        assert isinstance(made, str)
