"""Chat templates: what the model's own template makes of a conversation, and what comes with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from native.objects import generate_text, make_sampler, with_fields
from tiny_models import SCRIPT_TOOL, SCRIPT_TOOL_CALL

from dmr import _core

USER = {"role": "user", "content": "hello"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": SCRIPT_TOOL,
            "description": "The weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    },
    {"type": "function", "function": {"name": "get_time", "description": "", "parameters": {"type": "object"}}},
]


def template(model: _core.Model, source: str | None = None) -> _core.ChatTemplate:
    return _core.ChatTemplate(model.chat_template if source is None else source, "<|endoftext|>", "<|im_end|>")


def render(chat: _core.ChatTemplate, *messages: dict[str, Any], **fields: Any) -> _core.ChatPrompt:
    request = _core.ChatRequest()
    request.messages = json.dumps(messages or [USER])
    return chat.render(with_fields(request, fields))


# --- the text --------------------------------------------------------------------------------------------------------


def test_conversation_of_all_roles(script_model: _core.Model) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": SCRIPT_TOOL, "arguments": '{"city": "Paris"}'}}
    prompt = render(
        template(script_model),
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Grüße 🌞 \\n \" '"},
        {"role": "assistant", "content": "Looking.", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
    )
    assert prompt.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nGrüße 🌞 \\n \" '<|im_end|>\n"
        f"<|im_start|>assistant\nLooking.\n{SCRIPT_TOOL_CALL}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_no_template_is_chatml() -> None:
    text = render(_core.ChatTemplate(""), {"role": "system", "content": "A"}, USER).text
    assert text == "<|im_start|>system\nA<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def test_generation_prompt_can_be_left_out(script_model: _core.Model) -> None:
    whole = render(template(script_model))
    assert whole.text.endswith(whole.generation_prompt)
    bare = render(template(script_model), add_generation_prompt=False)
    assert bare.text == whole.text.removesuffix("<|im_start|>assistant\n")


def test_begin_token_is_left_to_the_tokenizer() -> None:
    source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    for adds_bos, expected in ((True, "hello</s>"), (False, "<s>hello</s>")):
        assert render(_core.ChatTemplate(source, "<s>", "</s>", adds_bos)).text == expected


def test_content_parts_are_joined(script_model: _core.Model) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    text = render(template(script_model), {"role": "user", "content": parts}).text
    assert "one" in text
    assert "two" in text


def test_keywords_reach_the_template() -> None:
    chat = _core.ChatTemplate("{{ mood }} {{ list | length }} {{ messages[0].content }}")
    assert render(chat, template_kwargs={"mood": '"good"', "list": "[1, 2]"}).text == "good 2 hello"


def test_past_reasoning_is_the_templates_business(think_model: _core.Model) -> None:
    past = {"role": "assistant", "content": "Two.", "reasoning_content": "1+1"}
    text = render(template(think_model), USER, past, USER).text
    assert "<think>\n1+1\n</think>\n\nTwo." in text


# --- thinking --------------------------------------------------------------------------------------------------------


def test_thinking_can_be_switched_off(script_model: _core.Model, think_model: _core.Model) -> None:
    chat = template(think_model)
    assert chat.supports_thinking
    assert not template(script_model).supports_thinking
    silent = "<think>\n\n</think>\n\n"
    assert not render(chat).text.endswith(silent)
    assert render(chat, enable_thinking=False).text.endswith(silent)
    assert render(chat, enable_thinking=True, template_kwargs={"enable_thinking": "false"}).text.endswith(silent)
    assert render(chat).supports_thinking


def test_tags_of_thoughts_are_known(script_model: _core.Model, think_model: _core.Model) -> None:
    prompt = render(template(think_model))
    assert (prompt.thought_start, prompt.thought_ends) == ("<think>", ["</think>"])
    prompt = render(template(script_model))
    assert (prompt.thought_start, prompt.thought_ends) == ("", [])


# --- an answer that was begun ----------------------------------------------------------------------------------------


def test_last_assistant_message_goes_on(script_model: _core.Model, think_model: _core.Model) -> None:
    begun = {"role": "assistant", "content": "One, two"}
    assert render(template(script_model), USER, begun, continue_final=True).text.endswith("assistant\nOne, two")
    prompt = render(template(think_model), USER, {**begun, "reasoning_content": "why"}, continue_final=True)
    assert prompt.text.endswith("<think>\nwhy\n</think>\n\nOne, two")
    parser = _core.ChatParser(prompt)
    delta, rest = parser.feed(", three"), parser.finish()
    assert (delta.content + rest.content, delta.reasoning + rest.reasoning) == (", three", "")


def test_thought_goes_on(think_model: _core.Model) -> None:
    begun = {"role": "assistant", "content": "", "reasoning_content": "be"}
    parser = _core.ChatParser(render(template(think_model), USER, begun, continue_final=True))
    deltas = [parser.feed("cause</think>\n\n"), parser.feed("Yes"), parser.finish()]
    assert "".join(delta.reasoning for delta in deltas) == "cause"
    assert "".join(delta.content for delta in deltas) == "Yes"


@pytest.mark.parametrize("messages", [[], [USER]])
def test_nothing_to_go_on_with(script_model: _core.Model, messages: list[Any]) -> None:
    request = with_fields(_core.ChatRequest(), {"messages": json.dumps(messages), "continue_final": True})
    with pytest.raises(ValueError, match="no assistant"):
        template(script_model).render(request)


# --- tools -----------------------------------------------------------------------------------------------------------


def test_tools_are_offered_in_the_prompt(script_model: _core.Model) -> None:
    prompt = render(template(script_model), tools=json.dumps(TOOLS))
    assert all(json.dumps(tool) in prompt.text for tool in TOOLS)
    assert prompt.grammar_lazy
    assert [(trigger.kind, trigger.value) for trigger in prompt.grammar_triggers] == [
        (_core.TriggerKind.WORD, "<tool_call>\n")
    ]
    assert {"<tool_call>", "</tool_call>"} <= set(prompt.preserved_tokens)


def test_required_call_is_forced_from_the_start(script_model: _core.Model) -> None:
    prompt = render(template(script_model), tools=json.dumps(TOOLS), tool_choice="required")
    assert not prompt.grammar_lazy
    assert prompt.grammar_prefill == prompt.generation_prompt
    sampler = make_sampler(script_model, grammar=prompt.grammar, grammar_prefill=prompt.grammar_prefill)
    text, _ = generate_text(script_model, prompt.text, sampler)
    parser = _core.ChatParser(prompt)
    calls = [*parser.feed(text).tool_calls, *parser.finish().tool_calls]
    assert calls[0].name in (SCRIPT_TOOL, "get_time")


def test_no_choice_no_grammar(script_model: _core.Model) -> None:
    assert render(template(script_model), tools=json.dumps(TOOLS), tool_choice="none").grammar == ""
    assert render(template(script_model)).grammar == ""


def test_capabilities_tell_whether_tools_are_known(script_model: _core.Model) -> None:
    assert template(script_model).capabilities["supports_tools"]
    assert not _core.ChatTemplate("").capabilities["supports_tools"]


# --- the form of the answer ------------------------------------------------------------------------------------------


def test_schema_becomes_a_grammar(script_model: _core.Model) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    prompt = render(template(script_model), json_schema=json.dumps(schema))
    for seed in range(5):
        sampler = make_sampler(script_model, grammar=prompt.grammar, grammar_prefill=prompt.grammar_prefill, seed=seed)
        text, ended = generate_text(script_model, prompt.text, sampler)
        assert ended
        assert isinstance(json.loads(text)["n"], int)


def test_grammar_is_passed_through(script_model: _core.Model) -> None:
    prompt = render(template(script_model), grammar='root ::= "yes"')
    assert (prompt.grammar, prompt.grammar_lazy, prompt.grammar_prefill) == ('root ::= "yes"', False, "")


def test_grammar_beside_tools_is_refused(script_model: _core.Model) -> None:
    with pytest.raises(_core.TemplateError, match="grammar"):
        render(template(script_model), grammar='root ::= "yes"', tools=json.dumps(TOOLS))


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "messages",
    [
        "",
        "{",
        "5",
        "{}",
        "[5]",
        "[{}]",
        '[{"content": "x"}]',
        '[{"role": 5, "content": "x"}]',
        '[{"role": "user"}]',
        '[{"role": "user", "content": 5}]',
        '[{"role": "user", "content": [5]}]',
        '[{"role": "user", "content": [{"type": "text"}]}]',
        '[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]',
        '[{"role": "user", "content": "\\ud800"}]',
        '[{"role": "assistant", "tool_calls": 5}]',
        '[{"role": "assistant", "tool_calls": [{}]}]',
        '[{"role": "user", "content": "x", "name": 5}]',
        '[{"role": "tool", "content": "x", "tool_call_id": 5}]',
        "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_messages_of_the_wrong_form(script_model: _core.Model, messages: str) -> None:
    with pytest.raises(ValueError, match="messages"):
        template(script_model).render(with_fields(_core.ChatRequest(), {"messages": messages}))


@pytest.mark.parametrize(
    "tools", ["5", "{", "{}", "[5]", "[{}]", '[{"type": "function", "function": {"name": 5}}]', "[" * 100_000]
)
def test_tools_of_the_wrong_form(script_model: _core.Model, tools: str) -> None:
    with pytest.raises(ValueError, match="tools"):
        render(template(script_model), tools=tools)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"tool_choice": "maybe"}, ValueError),
        ({"template_kwargs": {"a": "{"}}, ValueError),
        ({"template_kwargs": {"a": "[" * 100_000}}, ValueError),
        ({"json_schema": "{"}, ValueError),
        ({"json_schema": '{"type": "nothing"}'}, _core.Error),
        ({"template_kwargs": {"messages": "5"}}, _core.TemplateError),
    ],
)
def test_other_fields_of_the_wrong_form(
    script_model: _core.Model, fields: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        render(template(script_model), **fields)


def test_template_may_refuse_and_its_words_are_kept() -> None:
    chat = _core.ChatTemplate("{{ raise_exception('only one rôle 🌞, please') }}")
    with pytest.raises(_core.TemplateError, match="only one rôle 🌞, please"):
        render(chat)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ",
        "{% if %}",
        "{% for x in %}",
        "{% endif %}",
        "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
        "{{ 1" + "+1" * 100_000 + " }}",
        "{{ " + "not " * 100_000 + "1 }}",
        "{{ a" + ".b" * 100_000 + " }}",
        "{{ a" + "|upper" * 100_000 + " }}",
        "{{ {'}': {'}}': 1}}" + "+1" * 100_000 + " }}",
        "{% if a %}" * 50_000 + "{% endif %}" * 50_000,
        "{% if a %}" + "{% elif a %}" * 50_000 + "{% endif %}",
        "x" * (1 << 21),
    ],
    ids=lambda text: text[:20],
)
def test_templates_that_cannot_be_used(source: str) -> None:
    with pytest.raises(_core.TemplateError):
        _core.ChatTemplate(source)


def test_large_templates_that_can_be_used() -> None:
    brackets = "{# (((( don't " + "{" * 500 + " #}" + ":( " * 500 + "{{ messages[0].content }}"
    assert "hello" in render(_core.ChatTemplate(brackets)).text
    branches = "{% if a == 1 %}1" + "".join(f"{{% elif a == {n} %}}{n}" for n in range(2, 500)) + "{% endif %}"
    assert render(_core.ChatTemplate(branches), template_kwargs={"a": "499"}).text == "499"


def test_template_is_shared_by_threads(script_model: _core.Model) -> None:
    from concurrent.futures import ThreadPoolExecutor

    chat = template(script_model)
    with ThreadPoolExecutor(4) as pool:
        texts = set(pool.map(lambda _: render(chat, tools=json.dumps(TOOLS)).text, range(40)))
    assert len(texts) == 1
