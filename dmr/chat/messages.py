"""Conversations as clients send them, put into the order that chat templates know. Pure.

What is done to a turn depends on what stands before it and on nothing behind it, other than results that were promised:
a conversation that grows keeps the beginning of its prompt, and with it what is cached.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Sequence

from dmr.types import Message, Part, Role, TextPart, ToolCall

BETWEEN = "\n\n"  # texts that become one
BEGIN = "(The conversation begins.)"  # a user's turn for templates that want one first
NO_RESULT = "(There is no result.)"  # for a call that nobody answered


def normalise(messages: Iterable[Message]) -> list[Message]:
    """Leading system messages as one, then turns of user and assistant in alternation; each call's result behind it.

    - A later system message is part of the user's turn beside it, and never comes between calls and results.
    - Neighbouring turns of one role are one turn; turns without anything are left out, other than the last user's.
    - A result without a call is a user's text; a call without a result, when the conversation goes on, has none.
    """
    given = list(messages)
    count = next((i for i, message in enumerate(given) if message.role is not Role.SYSTEM), len(given))
    system = BETWEEN.join(message.text for message in given[:count] if message.text)
    ordered = _with_results([message for message in given[count:] if not _is_empty(message)])
    turns = _in_turns([_text_message(Role.SYSTEM, system), *ordered] if system else ordered)
    if not turns:
        turns.append(_text_message(Role.USER, ""))
    elif given[-1].role is not Role.ASSISTANT and turns[-1].role is Role.ASSISTANT and not turns[-1].tool_calls:
        turns.append(_text_message(Role.USER, ""))  # else the assistant's turn would go on
    return turns


def without_system(turns: Sequence[Message]) -> list[Message]:
    """For templates that know no system role: its text begins the first user's turn."""
    if not turns or turns[0].role is not Role.SYSTEM:
        return list(turns)
    return _in_turns([_text_message(Role.USER, turns[0].text), *turns[1:]])


def beginning_with_user(turns: Sequence[Message]) -> list[Message]:
    """For templates that insist on a user's turn at the beginning."""
    count = 1 if turns and turns[0].role is Role.SYSTEM else 0
    if count < len(turns) and turns[count].role is Role.USER:
        return list(turns)
    return [*turns[:count], _text_message(Role.USER, BEGIN), *turns[count:]]


def with_short_ids(turns: Sequence[Message]) -> list[Message]:
    """For templates that insist on calls' ids of nine letters and digits."""
    return [
        Message(
            turn.role,
            turn.parts,
            turn.reasoning,
            tuple(ToolCall(_short_id(call.id), call.name, call.arguments) for call in turn.tool_calls),
            None if turn.tool_call_id is None else _short_id(turn.tool_call_id),
            turn.name,
        )
        for turn in turns
    ]


def _short_id(id: str) -> str:
    return hashlib.sha256(id.encode(errors="surrogatepass")).hexdigest()[:9]


def _with_results(messages: Sequence[Message]) -> list[Message]:
    """Results directly behind their calls, in the calls' order; whatever stood between comes afterwards."""
    ordered: list[Message] = []
    at = 0
    while at < len(messages):
        if messages[at].role is not Role.ASSISTANT:
            ordered.append(_of_user(messages[at]))
            at += 1
            continue
        end = _end_of_run(messages, at, is_assistant=True)
        message = _joined(messages[at:end])
        at = end
        ordered.append(message)
        if message.tool_calls and at < len(messages):
            end = _end_of_run(messages, at, is_assistant=False)
            ordered += _results_first(message.tool_calls, messages[at:end])
            at = end
    return ordered


def _end_of_run(messages: Sequence[Message], start: int, *, is_assistant: bool) -> int:
    """Where those that the assistant has said end, or those that it has not."""
    end = start
    while end < len(messages) and (messages[end].role is Role.ASSISTANT) == is_assistant:
        end += 1
    return end


def _results_first(calls: Sequence[ToolCall], messages: Sequence[Message]) -> list[Message]:
    """One result or more for each of these calls, then the other messages. They are all before the assistant's next."""
    unanswered = _Unanswered(calls)
    found: list[list[Message]] = [[] for _ in calls]
    others: list[Message] = []
    for message in messages:
        place = unanswered.place_of(message) if message.role is Role.TOOL else None
        if place is None:
            others.append(_of_user(message))
        else:
            found[place].append(_result(message, calls[place]))
    for call, results in zip(calls, found, strict=True):
        if not results:
            results.append(_result(_text_message(Role.TOOL, NO_RESULT), call))
    return [*(result for results in found for result in results), *others]


class _Unanswered:
    """Which call a result belongs to: by its id, by its name, or as the next one without a result."""

    def __init__(self, calls: Sequence[ToolCall]) -> None:
        self._answered = [False] * len(calls)
        self._all = deque(range(len(calls)))
        self._by_id: dict[str, deque[int]] = {}
        self._by_name: dict[str, deque[int]] = {}
        for place, call in enumerate(calls):
            self._by_name.setdefault(call.name, deque()).append(place)
            if call.id:
                self._by_id.setdefault(call.id, deque()).append(place)
        self._first_of_id = {id: places[0] for id, places in self._by_id.items()}

    def place_of(self, message: Message) -> int | None:
        """The place among the calls; it counts as answered from here on."""
        if message.tool_call_id and self._by_id:
            place = self._next(self._by_id.get(message.tool_call_id, deque()))
            return self._first_of_id.get(message.tool_call_id) if place is None else place
        return self._next(self._by_name.get(message.name, deque()) if message.name else self._all)

    def _next(self, places: deque[int]) -> int | None:
        while places and self._answered[places[0]]:
            places.popleft()
        if not places:
            return None
        self._answered[places[0]] = True
        return places.popleft()


def _result(message: Message, call: ToolCall) -> Message:
    return Message(Role.TOOL, message.parts, tool_call_id=call.id, name=call.name)


def _as_user(message: Message) -> Message:
    text = f"<tool_response>\n{message.text}\n</tool_response>" if message.text else ""
    return _text_message(Role.USER, text)


def _of_user(message: Message) -> Message:
    """What is not the assistant's as a user's message; a result has no call."""
    if message.role is Role.TOOL:
        return _as_user(message)
    return _text_message(Role.USER, message.text) if message.role is Role.SYSTEM else message


def _in_turns(messages: Iterable[Message]) -> list[Message]:
    """Neighbours of user's or of assistant's as one; those that say nothing are left out."""
    groups: list[list[Message]] = []
    for message in messages:
        if _is_empty(message):
            continue
        role = message.role
        if groups and groups[-1][0].role is role and role in (Role.USER, Role.ASSISTANT):
            groups[-1].append(message)
        else:
            groups.append([message])
    return [_joined(group) for group in groups]


def _is_empty(message: Message) -> bool:
    return message.role is not Role.TOOL and not (message.text or message.reasoning or message.tool_calls)


def _joined(messages: Sequence[Message]) -> Message:
    """Messages of one role as one."""
    first = messages[0]
    if len(messages) == 1:
        return first
    parts: list[Part] = []
    has_text = False
    for message in messages:
        if has_text and message.text:
            parts.append(TextPart(BETWEEN))
        parts += message.parts
        has_text = has_text or bool(message.text)
    return Message(
        role=first.role,
        parts=tuple(parts),
        reasoning=BETWEEN.join(message.reasoning for message in messages if message.reasoning),
        tool_calls=tuple(call for message in messages for call in message.tool_calls),
        name=first.name,
    )


def _text_message(role: Role, text: str) -> Message:
    return Message(role, (TextPart(text),))
