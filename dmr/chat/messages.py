"""Conversations as clients send them, put into the order that chat templates know. Pure.

What is done to a turn depends on what stands before it and on nothing behind it, other than results that were promised:
a conversation that grows keeps the beginning of its prompt, and with it what is cached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from dmr.types import Message, Role, TextPart, ToolCall

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
    turns: list[Message] = [_text_message(Role.SYSTEM, system)] if system else []
    for message in _with_results([message for message in given[count:] if not _is_empty(message)]):
        _append(turns, message)
    if not turns:
        turns.append(_text_message(Role.USER, ""))
    elif given[-1].role is not Role.ASSISTANT and turns[-1].role is Role.ASSISTANT and not turns[-1].tool_calls:
        turns.append(_text_message(Role.USER, ""))  # else the assistant's turn would go on
    return turns


def without_system(turns: Sequence[Message]) -> list[Message]:
    """For templates that know no system role: its text begins the first user's turn."""
    if not turns or turns[0].role is not Role.SYSTEM:
        return list(turns)
    joined: list[Message] = [_text_message(Role.USER, turns[0].text)]
    for message in turns[1:]:
        _append(joined, message)
    return joined


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
    rest = list(messages)
    while rest:
        message = rest.pop(0)
        if message.role is Role.TOOL:
            ordered.append(_as_user(message))
        elif message.role is Role.SYSTEM:
            ordered.append(_text_message(Role.USER, message.text))
        elif message.role is Role.ASSISTANT:
            message, rest = _joined_calls(message, rest)
            ordered.append(message)
            results, rest = _take_results(message.tool_calls, rest)
            ordered += results
        else:
            ordered.append(message)
    return ordered


def _joined_calls(message: Message, rest: list[Message]) -> tuple[Message, list[Message]]:
    """An assistant's turn that comes in several messages."""
    count = 0
    while count < len(rest) and rest[count].role is Role.ASSISTANT:
        message = _joined(message, rest[count])
        count += 1
    return message, rest[count:]


def _take_results(calls: Sequence[ToolCall], rest: list[Message]) -> tuple[list[Message], list[Message]]:
    """The results of these calls, found before the assistant speaks again; and the messages that remain."""
    if not calls:
        return [], rest
    found: list[list[Message]] = [[] for _ in calls]
    remaining: list[Message] = []
    for at, message in enumerate(rest):
        if message.role is Role.ASSISTANT:
            remaining += rest[at:]
            break
        place = _place_of(message, calls, found) if message.role is Role.TOOL else None
        if place is None:
            remaining.append(message)
        else:
            found[place].append(_result(message, calls[place]))
    if rest:
        for call, results in zip(calls, found, strict=True):
            if not results:
                results.append(_result(_text_message(Role.TOOL, NO_RESULT), call))
    return [result for results in found for result in results], remaining


def _place_of(message: Message, calls: Sequence[ToolCall], found: list[list[Message]]) -> int | None:
    """Which call a result belongs to: by its id, by its name, or as the next one without a result."""
    unanswered = [place for place in range(len(calls)) if not found[place]]
    if message.tool_call_id:
        same = [place for place, call in enumerate(calls) if call.id == message.tool_call_id]
        if same:
            return next((place for place in same if place in unanswered), same[0])
        if any(call.id for call in calls):
            return None
    if message.name:
        return next((place for place in unanswered if calls[place].name == message.name), None)
    return unanswered[0] if unanswered else None


def _result(message: Message, call: ToolCall) -> Message:
    return Message(Role.TOOL, message.parts, tool_call_id=call.id, name=call.name)


def _as_user(message: Message) -> Message:
    text = f"<tool_response>\n{message.text}\n</tool_response>" if message.text else ""
    return _text_message(Role.USER, text)


def _append(turns: list[Message], message: Message) -> None:
    """Add a message to the last turn if it is of that role, else as a new turn."""
    if _is_empty(message):
        return
    last = turns[-1] if turns else None
    if last is not None and last.role is message.role and message.role in (Role.USER, Role.ASSISTANT):
        turns[-1] = _joined(last, message)
    else:
        turns.append(message)


def _is_empty(message: Message) -> bool:
    return message.role is not Role.TOOL and not (message.text or message.reasoning or message.tool_calls)


def _joined(first: Message, second: Message) -> Message:
    between = (TextPart(BETWEEN),) if first.text and second.text else ()
    return Message(
        role=first.role,
        parts=first.parts + between + second.parts,
        reasoning=BETWEEN.join(text for text in (first.reasoning, second.reasoning) if text),
        tool_calls=first.tool_calls + second.tool_calls,
        name=first.name,
    )


def _text_message(role: Role, text: str) -> Message:
    return Message(role, (TextPart(text),))
