"""What `generate` does beyond passing on: the engine's extras, best_of, schemas, defaults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from unit.scripted_peer import scripted_peer
from unit.service_scene import END, LOGPROB, STOP, WEATHER, Scene, answer, chat, conversation, raw, said

from dmr import client
from dmr.errors import ContextLengthExceeded, InvalidRequest
from dmr.service import leasing
from dmr.types import (
    Completed,
    Echo,
    Finished,
    FinishReason,
    GenerateRequest,
    ReasoningDelta,
    ResponseFormat,
    Role,
    SamplingParams,
    Started,
    TextDelta,
    TextInput,
    Tick,
    Timings,
    TokenLogprob,
    TokenProbability,
    Tool,
    ToolChoice,
    collect,
)
from dmr.wire import EngineEcho, EngineOutput, EngineStarted, WireError, engine_query_decoder

THINKING = "{{ '<think>' if false }}"


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(client, "TICK", 0.02)
    monkeypatch.setattr(leasing, "RETRY_DELAY", 0.01)
    with scripted_peer(tmp_path / "engine.sock", engine_query_decoder) as engine:
        made = Scene(engine, tmp_path)
        yield made
        made.manager.assert_all_returned()


# --- the engine's extras ---------------------------------------------------------------------------------------------


def test_every_wish_reaches_the_engine(scene: Scene) -> None:
    scene.engine.plays(END)
    wishes: dict[str, Any] = {"prefix_tokens": (1, 2), "shift": 4, "return_token_ids": True}
    scene.events(raw((5, 6), suffix="end", echo=True, truncate=True, context_size=4096, keep_alive=3.0, **wishes))
    (request,) = scene.engine.requests
    assert request.prompts == ((5, 6),)
    assert (request.suffix, request.echo, request.truncate) == ("end", True, True)
    assert (request.prefix_tokens, request.shift, request.return_token_ids) == ((1, 2), 4, True)
    assert scene.manager.asked == [("ai/x", 3.0, 4096)]
    scene.engine.plays(END)
    scene.events(chat(**wishes))
    request = scene.engine.requests[1]
    assert (request.prefix_tokens, request.shift, request.return_token_ids) == ((1, 2), 4, True)


def test_what_the_engine_tells_comes_out(scene: Scene) -> None:
    echo = EngineEcho(0, "hi", (None, LOGPROB))
    last = EngineOutput(0, "", (), FinishReason.LENGTH, is_context_full=True, token_ids=(1, 2, 3))
    for request in (raw(), chat()):
        scene.engine.plays(EngineStarted(2, num_dropped_tokens=7), echo, EngineOutput(0, "yes"), last, END)
        assert scene.events(request) == [
            Started(2, num_dropped_tokens=7),
            Echo(0, "hi", (None, LOGPROB)),
            TextDelta(0, "yes"),
            Finished(0, FinishReason.LENGTH, is_context_full=True, token_ids=(1, 2, 3)),
            Completed(END.usage, END.timings),
        ]


def test_the_time_to_load_is_told(scene: Scene) -> None:
    scene.manager.steps = [None]
    scene.engine.plays(EngineStarted(2), END)
    *_, end = scene.service.generate(raw())
    assert isinstance(end, Completed)
    assert 0 < end.timings.load < 5
    assert msgspec.structs.replace(end.timings, load=0.0) == Timings(0.1, 0.2, 0.3)


def test_tokens_of_thought_are_counted(scene: Scene) -> None:
    from tiny_models.script import THINK_TEMPLATE

    scene.set_info(chat_template=THINK_TEMPLATE)
    outputs = [EngineOutput(0, text) for text in ("<think>", "\nLet me", " think.", "</think>", "\n\nYes")]
    scene.engine.plays(EngineStarted(2), *outputs, *answer(""), END)
    events = scene.events(chat())
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)).strip() == "Let me think."
    completed = events[-1]
    assert isinstance(completed, Completed)
    assert 2 <= completed.usage.num_reasoning_tokens <= 4


def test_a_prompt_that_is_too_long_says_both_numbers(scene: Scene) -> None:
    scene.engine.plays(WireError.of(ContextLengthExceeded(600, 512)))
    with pytest.raises(ContextLengthExceeded) as caught:
        scene.events(chat())
    assert (caught.value.num_prompt_tokens, caught.value.context_size) == (600, 512)


# --- best_of ---------------------------------------------------------------------------------------------------------


def token(text: str, index: int, logprob: float) -> EngineOutput:
    return EngineOutput(index, text, (TokenLogprob(TokenProbability(1, text.encode(), logprob)),))


def ended(index: int) -> EngineOutput:
    return EngineOutput(index, "", finish_reason=STOP)


def test_the_likeliest_choices_are_given(scene: Scene) -> None:
    outputs = [token("bad", 0, -3.0), token("good", 2, -0.2), token("fair", 1, -1.0), token(" one", 2, -0.4)]
    outputs += [token("better", 4, -0.1), token("worse", 3, -5.0), token("so", 5, -1.0)]
    scene.engine.plays(EngineStarted(2), *outputs, *map(ended, range(6)), END)
    events = scene.events(raw("p", "q", num_choices=2, best_of=3))
    assert events[0] == Started(2)
    whole = collect(events)
    assert [choice.text for choice in whole.choices] == ["good one", "fair", "better", "so"]
    assert [choice.logprobs for choice in whole.choices] == [()] * 4  # nobody has asked for them
    assert whole.usage == END.usage
    (request,) = scene.engine.requests
    assert (request.num_choices, request.num_logprobs) == (3, 0)


def test_while_choices_are_compared_a_client_that_left_is_seen(scene: Scene) -> None:
    scene.engine.plays(EngineStarted(2), token("a", 0, -3.0), token("b", 1, -1.0), ended(0), ended(1), END)
    before_the_choice = [event for event in scene.service.generate(raw(best_of=2)) if isinstance(event, Tick)]
    assert len(before_the_choice) >= 2


def test_best_of_keeps_the_log_probabilities_that_were_asked_for(scene: Scene) -> None:
    scene.engine.plays(EngineStarted(2), token("a", 0, -3.0), token("b", 1, -1.0), ended(0), ended(1), END)
    (choice,) = collect(scene.events(raw(best_of=2, num_logprobs=4))).choices
    assert (choice.index, choice.text, len(choice.logprobs)) == (0, "b", 1)
    assert scene.engine.requests[0].num_logprobs == 4


def test_an_empty_choice_is_the_last_resort(scene: Scene) -> None:
    scene.engine.plays(EngineStarted(2), ended(0), token("b", 1, -9.0), ended(1), END)
    assert collect(scene.events(raw(best_of=2))).choices[0].text == "b"


def test_best_of_as_many_as_are_given_is_nothing_special(scene: Scene) -> None:
    scene.engine.plays(EngineStarted(2), EngineOutput(0, "a"), ended(0), END)
    assert TextDelta(0, "a") in scene.events(raw(best_of=1))
    assert scene.engine.requests[0].num_logprobs is None
    with pytest.raises(InvalidRequest) as caught:
        scene.events(raw(num_choices=3, best_of=2))
    assert caught.value.param == "best_of"


# --- schemas ---------------------------------------------------------------------------------------------------------

POSITIVE = '{"type":"object","properties":{"x":{"type":"number","minimum":0}},"required":["x"]}'


def test_what_cannot_be_enforced_is_refused_if_it_must_be(scene: Scene) -> None:
    strict = ResponseFormat(json_schema=POSITIVE, strict=True)
    for request in (raw(response_format=strict), chat(response_format=strict)):
        with pytest.raises(InvalidRequest, match="'minimum' at #/properties/x") as caught:
            scene.events(request)
        assert caught.value.param == "response_format"
    with pytest.raises(InvalidRequest, match=r"'place'.*'minimum' at #/properties/x") as caught:
        scene.events(chat(tools=(WEATHER, Tool("place", "", POSITIVE, strict=True))))
    assert caught.value.param == "tools"
    assert scene.engine.requests == []
    assert scene.manager.asked == []  # no model was loaded for it


@pytest.mark.parametrize(
    ("text", "reason", "violations"),
    [
        ('{"x": 5}', STOP, ()),
        ('{"x": -5}', STOP, ("$.x: must be at least 0",)),
        ('{"x": -5', FinishReason.LENGTH, ()),  # that it was cut is told by the reason
        ("nothing", STOP, ("$: is no JSON",)),
    ],
)
def test_an_answer_is_checked_when_it_is_whole(
    scene: Scene, text: str, reason: FinishReason, violations: tuple[str, ...]
) -> None:
    form = ResponseFormat(json_schema=POSITIVE)
    for request in (raw(response_format=form), chat(response_format=form)):
        scene.engine.plays(EngineStarted(2), *answer(text, reason=reason), END)
        (choice,) = collect(scene.events(request)).choices
        assert choice.text == text
        assert len(choice.schema_violations) == len(violations)
        for told, expected in zip(choice.schema_violations, violations, strict=True):
            assert told.startswith(expected)


def test_arguments_are_checked_too(scene: Scene) -> None:
    place = Tool("place", "", POSITIVE)
    call = '<tool_call>\n{"name": "place", "arguments": {"x": -1}}\n</tool_call>'
    scene.engine.plays(EngineStarted(2), *answer(call), END)
    (choice,) = collect(scene.events(chat(tools=(place, WEATHER)))).choices
    assert choice.finish_reason is FinishReason.TOOL_CALLS
    assert choice.schema_violations == ("place: $.x: must be at least 0",)


def test_a_schema_that_the_converter_would_misread_is_put_right_for_it(scene: Scene) -> None:
    wish = '{"allOf":[{"type":"string"}],"maxLength":3000}'
    scene.engine.plays(END)
    scene.events(raw(response_format=ResponseFormat(json_schema=wish)))
    assert "char*" in scene.engine.requests[0].grammar.text
    tool = Tool("place", "", '{"type":"object","properties":{"code":{"type":"string","pattern":"^\\\\d{3}$"}}}')
    scene.engine.plays(EngineStarted(2), *answer("No."), END)
    scene.events(chat(tools=(tool,)))
    request = scene.engine.requests[1]
    assert "\\\\d{3}" in request.prompts[0]  # the model reads what the client has written
    assert "-code-1 ::= [0-9]" in request.grammar.text


def test_tools_that_must_not_be_called_are_not_looked_at(scene: Scene) -> None:
    scene.engine.plays(EngineStarted(2), *answer("No."), END)
    tool = Tool("place", "", POSITIVE, strict=True)
    assert collect(scene.events(chat(tools=(tool,), tool_choice=ToolChoice.NONE))).choices[0].text == "No."


@pytest.mark.parametrize("wrong", ["no json", "5", '{"type":"wish"}', '{"$ref":"#/nowhere"}', "[" * 10_000])
def test_a_schema_that_is_none_is_refused(scene: Scene, wrong: str) -> None:
    for request in (chat(response_format=ResponseFormat(json_schema=wrong)), chat(tools=(Tool("x", "", wrong),))):
        with pytest.raises(InvalidRequest):
            scene.events(request)
    assert scene.engine.requests == []


# --- defaults --------------------------------------------------------------------------------------------------------


def prompt_of(scene: Scene, request: GenerateRequest) -> str:
    scene.engine.plays(EngineStarted(2), *answer("Yes."), END)
    scene.events(request)
    text: str = scene.engine.requests[-1].prompts[0]
    return text


def test_the_models_parameters_fill_what_nobody_has_set(scene: Scene) -> None:
    scene.set_defaults(
        parameters={"temperature": 0.1, "top_k": 7, "stop": ["A", "B"], "max_tokens": 9, "context_size": 99, "odd": 1}
    )
    asked = SamplingParams(temperature=0.5)
    scene.engine.plays(END)
    scene.events(raw(sampling=asked, given=frozenset(["temperature"])))
    (request,) = scene.engine.requests
    assert (request.sampling.temperature, request.sampling.top_k) == (0.5, 7)
    assert (request.stop, request.max_tokens) == (("A", "B"), 9)
    assert scene.manager.asked == [("ai/x", None, 99)]
    given = frozenset(["temperature", "stop", "max_tokens", "top_k"])
    scene.engine.plays(END)
    scene.events(raw(sampling=asked, given=given, max_tokens=3, context_size=50))
    request = scene.engine.requests[1]
    assert (request.sampling, request.stop, request.max_tokens) == (asked, (), 3)
    assert scene.manager.asked[1] == ("ai/x", None, 50)


def test_how_much_stays_is_a_default_only_where_something_goes(scene: Scene) -> None:
    scene.set_defaults(parameters={"shift": 24})
    for shift, given, sent in [(None, (), None), (4, (), 24), (4, ("shift",), 4)]:
        scene.engine.plays(END)
        scene.events(raw(shift=shift, given=frozenset(given)))
        assert scene.engine.requests[-1].shift == sent


def test_preloading_heeds_the_default_context(scene: Scene) -> None:
    scene.set_defaults(parameters={"context_size": 99})
    list(scene.service.preload("ai/x"))
    list(scene.service.preload("ai/x", None, 200))
    assert [asked[2] for asked in scene.manager.asked] == [99, 200]


def test_a_default_system_message_stands_in_for_one_that_is_missing(scene: Scene) -> None:
    scene.set_defaults(system="Be brief.", messages=(said(Role.USER, "2+2"), said(Role.ASSISTANT, "4")))
    prompt = prompt_of(scene, chat("3+3"))
    places = [prompt.index(text) for text in ("Be brief.", "2+2", "assistant\n4", "3+3")]
    assert places == sorted(places)
    own = conversation(said(Role.SYSTEM, "Be long."), said(Role.USER, "3+3"))
    prompt = prompt_of(scene, own)
    assert "Be brief." not in prompt
    places = [prompt.index(text) for text in ("Be long.", "2+2", "3+3")]
    assert places == sorted(places)
    assert "2+2" not in prompt_of(scene, msgspec.structs.replace(own, prefix_tokens=(1, 2)))


def test_a_raw_prompt_stays_raw(scene: Scene) -> None:
    scene.set_defaults(system="Be brief.", template="{% for m in messages %}X{% endfor %}", messages=(said(Role.USER),))
    assert prompt_of(scene, raw("2+2")) == "2+2"


def test_a_default_template_goes_before_the_models_and_behind_the_clients(scene: Scene) -> None:
    scene.set_defaults(template="{% for m in messages %}[{{ m.content }}]{% endfor %}")
    assert prompt_of(scene, chat("2+2")) == "[2+2]"
    own = conversation(said(Role.USER, "2+2"), template="{% for m in messages %}({{ m.content }}){% endfor %}")
    assert prompt_of(scene, own) == "(2+2)"


GO = "{{ if .System }}<s>{{ .System }}</s>{{ end }}{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}<go>"
OLD_GO = "{{ if .System }}<s>{{ .System }}</s>{{ end }}<u>{{ .Prompt }}<a>{{ .Response }}</a>"
TURNS = (said(Role.SYSTEM, "S"), said(Role.USER, "one"), said(Role.ASSISTANT, "1"), said(Role.USER, "two"))


def test_a_go_template_is_understood(scene: Scene) -> None:
    scene.set_defaults(template=GO)
    assert prompt_of(scene, conversation(*TURNS)) == "<s>S</s><system>S<user>one<assistant>1<user>two<go>"
    scene.set_defaults(template=OLD_GO)
    assert prompt_of(scene, conversation(*TURNS)) == "<s>S</s><u>one<a>1</a><u>two<a>"
    assert prompt_of(scene, conversation(*TURNS, said(Role.ASSISTANT, "2 is"))).endswith("<u>two<a>2 is")


def test_the_rounds_of_a_go_template_are_bounded_together(scene: Scene) -> None:
    scene.set_defaults(template="{{ range 50000 }}{{ end }}{{ .Prompt }}{{ .Response }}")
    assert prompt_of(scene, conversation(*TURNS)) == "one1two"
    with pytest.raises(InvalidRequest, match="steps"):
        scene.events(conversation(*(TURNS[1:3] * 20), TURNS[3]))


def test_texts_in_a_go_template_stay_texts(scene: Scene) -> None:
    scene.set_defaults(template=GO)
    scene.set_info(control_tokens=("<|im_end|>",))
    prompt = prompt_of(scene, chat("a<|im_end|>b"))
    assert "<|im_end|>" not in prompt
    assert scene.engine.requests[-1].literals == ("<|im_end|>",)


def test_a_go_template_without_tools_is_passed_over_where_there_are_some(scene: Scene) -> None:
    scene.set_defaults(template=GO)
    assert "get_weather" in prompt_of(scene, chat(tools=(WEATHER,)))
    scene.set_defaults(template="{{ range .Tools }}({{ .Function.Name }}){{ end }}" + GO)
    assert prompt_of(scene, chat("hi", tools=(WEATHER,))).startswith("(get_weather)<user>hi")


def test_a_go_template_that_is_wrong_says_so(scene: Scene) -> None:
    scene.set_defaults(template="{{ if }}")
    with pytest.raises(InvalidRequest, match="template"):
        scene.events(chat())


def test_defaults_of_a_text_input_do_not_touch_its_prompts(scene: Scene) -> None:
    scene.set_defaults(parameters={"top_k": 1})
    request = raw("a", (1, 2))
    scene.engine.plays(END)
    scene.events(request)
    assert isinstance(request.input, TextInput)
    assert scene.engine.requests[0].prompts == ("a", (1, 2))


def test_defaults_are_read_again_when_the_store_has_changed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    num_read: list[str] = []
    read = scene.store.get
    monkeypatch.setattr(scene.store, "get", lambda name: num_read.append(name) or read(name))
    for top_k in (3, 4):
        scene.set_defaults(parameters={"top_k": top_k}, system="x" * top_k)
        for _ in range(2):
            scene.engine.plays(END)
            scene.events(raw())
            assert scene.engine.requests[-1].sampling.top_k == top_k
    assert num_read == ["ai/x", "ai/x"]
