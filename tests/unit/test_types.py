from __future__ import annotations

import pytest

from dmr.types import (
    ChatInput,
    Choice,
    Completed,
    Completion,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    ReasoningDelta,
    Role,
    Started,
    TextDelta,
    TextInput,
    TextPart,
    Tick,
    Timings,
    TokenLogprob,
    TokenProbability,
    ToolCall,
    ToolCallDelta,
    ToolCallStart,
    Usage,
    collect,
)

A, B = TokenLogprob(TokenProbability(1, b"a", -0.1)), TokenLogprob(TokenProbability(2, b"b", -0.2))
END = Completed(Usage(3, 0, 5), Timings(0.1, 0.2, 0.3))


def choice(index: int = 0, text: str = "", **changes: object) -> Choice:
    fields: dict[str, object] = {
        "reasoning": "",
        "tool_calls": (),
        "logprobs": (),
        "finish_reason": FinishReason.STOP,
        "stop_sequence": None,
    }
    return Choice(index, text, **(fields | changes))  # type: ignore[arg-type]


def test_text_and_probabilities_are_put_together_in_order() -> None:
    events: list[Event] = [
        Started(3),
        TextDelta(0, "Hel", (A,)),
        Tick(),
        TextDelta(0, "", (B,)),
        TextDelta(0, "lo"),
        Finished(0, FinishReason.LENGTH),
        END,
    ]
    expected = choice(text="Hello", logprobs=(A, B), finish_reason=FinishReason.LENGTH)
    assert collect(events) == Completion((expected,), END.usage, END.timings, Started(3))


def test_choices_may_be_mixed_and_come_out_by_index() -> None:
    events: list[Event] = [
        Started(3),
        TextDelta(2, "c"),
        TextDelta(0, "a"),
        Finished(2, FinishReason.STOP, "END"),
        Finished(1, FinishReason.STOP),
        TextDelta(0, "A"),
        Finished(0, FinishReason.LENGTH),
        END,
    ]
    assert collect(events).choices == (
        choice(0, "aA", finish_reason=FinishReason.LENGTH),
        choice(1),
        choice(2, "c", stop_sequence="END"),
    )


def test_reasoning_and_several_calls() -> None:
    events: list[Event] = [
        ReasoningDelta(0, "let me "),
        ReasoningDelta(0, "think"),
        TextDelta(0, "I look."),
        ToolCallStart(0, 0, "id0", "weather"),
        ToolCallDelta(0, 0, '{"city":'),
        ToolCallStart(0, 1, "id1", "time"),
        ToolCallDelta(0, 0, '"Oslo"}'),
        ToolCallDelta(0, 1, "{}"),
        Finished(0, FinishReason.TOOL_CALLS),
        END,
    ]
    calls = (ToolCall("id0", "weather", '{"city":"Oslo"}'), ToolCall("id1", "time", "{}"))
    (whole,) = collect(events).choices
    assert whole == choice(
        0, "I look.", reasoning="let me think", tool_calls=calls, finish_reason=FinishReason.TOOL_CALLS
    )


def test_an_error_in_the_middle_is_not_swallowed() -> None:
    def events() -> object:
        yield TextDelta(0, "a")
        raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        collect(events())  # type: ignore[arg-type]


def test_an_answer_without_its_end_is_a_defect() -> None:
    with pytest.raises(AssertionError):
        collect([TextDelta(0, "a"), END])


def test_values_are_frozen_and_equal_by_content() -> None:
    one = GenerateRequest("m", ChatInput((Message(Role.USER, (TextPart("hi"),)),)))
    other = GenerateRequest("m", ChatInput((Message(Role.USER, (TextPart("hi"),)),)))
    assert one == other
    assert one != GenerateRequest("m", TextInput(("hi",)))
    with pytest.raises(AttributeError):
        one.model = "x"  # type: ignore[misc]


def test_the_text_of_a_message_is_that_of_its_parts() -> None:
    assert Message(Role.USER, (TextPart("a"), TextPart("b"))).text == "ab"
    assert Message(Role.ASSISTANT).text == ""
