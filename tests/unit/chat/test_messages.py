"""Conversations put into order: alternating, results behind their calls, and a beginning that does not change."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from unit.chat.conversations import assistant, call, result, system, user

from dmr.chat.messages import BEGIN, NO_RESULT, beginning_with_user, normalise, without_system
from dmr.types import Message, Role

ROLE_NAMES = {Role.SYSTEM: "s", Role.USER: "u", Role.ASSISTANT: "a", Role.TOOL: "t"}


def outline(messages: list[Message]) -> list[str]:
    """One text for each turn: its role, and what is said."""
    return [ROLE_NAMES[message.role] + ":" + message.text for message in messages]


def test_ordinary_conversation_is_left_alone() -> None:
    messages = [system("S"), user("1"), assistant("2"), user("3")]
    assert normalise(messages) == messages


def test_text_and_blocks_are_the_same() -> None:
    assert outline(normalise([user("one", " two")])) == outline(normalise([user("one two")])) == ["u:one two"]


def test_leading_system_messages_are_one() -> None:
    assert outline(normalise([system("A"), system(""), system("B"), user("1")])) == ["s:A\n\nB", "u:1"]


def test_late_system_message_joins_the_users_turn_beside_it() -> None:
    assert outline(normalise([system("A"), user("1"), assistant("2"), system("B"), user("3")])) == [
        "s:A",
        "u:1",
        "a:2",
        "u:B\n\n3",
    ]
    assert outline(normalise([user("1"), system("B"), assistant("2")])) == ["u:1\n\nB", "a:2"]


def test_system_message_never_parts_calls_from_results() -> None:
    calls = [call("c1"), call("c2")]
    messages = [user("1"), assistant(calls=calls), system("B"), result("c2", "two"), result("c1", "one"), user("3")]
    turns = normalise(messages)
    assert outline(turns) == ["u:1", "a:", "t:one", "t:two", "u:B\n\n3"]
    assert [turn.tool_call_id for turn in turns[2:4]] == ["c1", "c2"]
    assert turns[2].name == "get_time"


def test_neighbours_of_one_role_are_one_turn() -> None:
    messages = [user("1"), user("2"), assistant("3", reasoning="R"), assistant(calls=[call("c1")]), result("c1")]
    turns = normalise(messages)
    assert outline(turns) == ["u:1\n\n2", "a:3", "t:12:00"]
    assert (turns[1].reasoning, turns[1].tool_calls) == ("R", (call("c1"),))


def test_results_find_their_calls_without_ids() -> None:
    calls = [call("", "get_time"), call("", "get_weather"), call("", "get_time")]
    messages = [
        user("1"),
        assistant(calls=calls),
        result(None, "sunny", "get_weather"),
        result(None, "1"),
        result(None, "2"),
    ]
    assert outline(normalise(messages))[2:] == ["t:1", "t:sunny", "t:2"]


def test_call_without_a_result() -> None:
    assert outline(normalise([user("1"), assistant(calls=[call("c1")]), user("stop")])) == [
        "u:1",
        "a:",
        "t:" + NO_RESULT,
        "u:stop",
    ]
    assert outline(normalise([user("1"), assistant(calls=[call("c1")])])) == ["u:1", "a:"]


def test_result_without_a_call_is_text() -> None:
    assert outline(normalise([user("1"), result("gone", "x")])) == ["u:1\n\n<tool_response>\nx\n</tool_response>"]


def test_empty_messages_are_left_out_where_that_changes_nothing() -> None:
    assert outline(normalise([user(""), assistant(""), user("1"), assistant("")])) == ["u:1"]
    assert outline(normalise([user("1"), assistant("2"), user("")])) == ["u:1", "a:2", "u:"]
    assert outline(normalise([user("")])) == outline(normalise([])) == ["u:"]


def test_only_a_system_message() -> None:
    assert outline(normalise([system("S")])) == ["s:S"]
    assert outline(without_system(normalise([system("S")]))) == ["u:S"]


def test_system_text_begins_the_first_users_turn() -> None:
    assert outline(without_system([system("S"), user("1"), assistant("2")])) == ["u:S\n\n1", "a:2"]
    assert outline(without_system([system("S"), assistant("2")])) == ["u:S", "a:2"]
    assert outline(without_system([user("1")])) == ["u:1"]


def test_assistant_first() -> None:
    turns = normalise([assistant("2"), user("3")])
    assert outline(turns) == ["a:2", "u:3"]
    assert outline(beginning_with_user(turns)) == ["u:" + BEGIN, "a:2", "u:3"]
    assert outline(beginning_with_user([system("S"), assistant("2")])) == ["s:S", "u:" + BEGIN, "a:2"]
    assert beginning_with_user([system("S"), user("1")]) == [system("S"), user("1")]


# --- any conversation ------------------------------------------------------------------------------------------------

TEXTS = st.sampled_from(["", "x", "y z"])
CALLS = st.lists(st.builds(call, st.sampled_from(["", "c1", "c2", "c3"])), max_size=3)
MESSAGES = st.lists(
    st.one_of(
        st.builds(system, TEXTS),
        st.builds(user, TEXTS),
        st.builds(lambda text, calls: assistant(text, calls=calls), TEXTS, CALLS),
        st.builds(result, st.sampled_from([None, "c1", "c2", "c3", "c4"]), TEXTS),
    ),
    max_size=12,
)


@given(MESSAGES)
def test_order_that_templates_know(messages: list[Message]) -> None:
    turns = normalise(messages)
    assert turns
    assert all(turn.role is not Role.SYSTEM for turn in turns[1:])
    spoken = [turn for turn in turns if turn.role is not Role.SYSTEM]
    for before, turn in pairwise(spoken):
        if turn.role is Role.TOOL:
            assert before.role is Role.TOOL or before.tool_calls
        elif turn.role is Role.ASSISTANT:
            assert before.role is not Role.ASSISTANT
        else:
            assert before.role is not Role.USER
            assert not before.tool_calls, "a call without a result"


@given(MESSAGES)
def test_nothing_is_lost_and_nothing_is_said_twice(messages: list[Message]) -> None:
    marked = [
        Message(m.role, user(f"<{place}>").parts, m.reasoning, m.tool_calls, m.tool_call_id)
        for place, m in enumerate(messages)
    ]
    whole = "".join(turn.text for turn in normalise(marked))
    assert all(whole.count(f"<{place}>") == 1 for place in range(len(marked)))


@given(MESSAGES)
def test_normalising_again_changes_nothing(messages: list[Message]) -> None:
    ids = [call.id for message in messages for call in message.tool_calls]
    assume(len(set(ids)) == len(ids))  # two calls under one id share their results, in no certain order
    turns = normalise(messages)
    assert normalise(turns) == turns


@given(MESSAGES, st.lists(st.sampled_from(["u", "s", "a"]), max_size=4))
def test_turns_that_are_over_do_not_change(messages: list[Message], more: list[str]) -> None:
    said = {"u": user("more"), "s": system("note"), "a": assistant("answer")}
    whole = [*messages, user("q"), assistant("r")]
    turns = normalise(whole)
    longer = normalise([*whole, user("next"), *(said[name] for name in more)])
    assert longer[: len(turns)] == turns


def seconds_to_normalise(messages: list[Message]) -> float:
    def once() -> float:
        start = time.process_time()
        normalise(messages)
        return time.process_time() - start

    return min(once() for _ in range(3))


@pytest.mark.parametrize(
    "conversation",
    [
        lambda count: [user("x")] * count,
        lambda count: [user("x"), assistant("y")] * count,
        lambda count: [assistant("y", calls=[call("c")])] * count,
        lambda count: [
            assistant(calls=[call(f"c{i}") for i in range(count)]),
            *(result(f"c{i}") for i in range(count)),
        ],
        lambda count: [assistant(calls=[call("")] * count), *[result(None, name="get_time")] * count],
        lambda count: [assistant(calls=[call("same")] * count), *[result("same")] * (2 * count)],
        lambda count: [assistant(calls=[call("c")]), result("c")] * count,
    ],
    ids=["one role", "turns", "calls", "ids", "names", "one id", "agent"],
)
def test_a_message_costs_the_same_however_many_there_are(conversation: Callable[[int], list[Message]]) -> None:
    short, long = seconds_to_normalise(conversation(300)), seconds_to_normalise(conversation(6000))
    assert long < 20 * 5 * short + 0.02
