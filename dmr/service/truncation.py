"""A conversation that is too long for the context loses its oldest turns."""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import accumulate
from typing import NamedTuple

import msgspec

from dmr.chat.prompt import RenderedPrompt
from dmr.types import ChatInput, Message, Role, Tick

MAX_GUESSES = 4  # by the length of the turns; after these the interval is halved
TURN_OVERHEAD = 16  # characters that a template writes around a turn

Render = Callable[[ChatInput], RenderedPrompt]
Count = Callable[[RenderedPrompt], Generator[Tick, None, int]]


class Fitted(NamedTuple):
    prompt: RenderedPrompt
    num_dropped: int  # messages


class _Candidate(NamedTuple):
    num_groups: int  # that are dropped
    num_tokens: int  # that the prompt has then
    fitted: Fitted


def fit(
    chat: ChatInput, context_size: int, max_tokens: int | None, render: Render, count: Count
) -> Generator[Tick, None, Fitted]:
    """The prompt of as much of the conversation as fits; yields Tick while the engine counts.

    A prompt that fits is left alone. Of another the oldest turns go, until it fits and leaves room for an answer:
    a quarter of the context, or `max_tokens` if that is less. System messages and the last turn always stay, calls and
    their results go together. If that is not enough the prompt is too long still, and the engine says so.
    """
    whole = Fitted(render(chat), 0)
    if len(whole.prompt.plain_text().encode(errors="replace")) + TURN_OVERHEAD < context_size:
        return whole  # a token has a byte at least
    num_tokens = yield from count(whole.prompt)
    groups = _droppable(chat.messages)
    if num_tokens < context_size or not groups:
        return whole
    room = context_size // 4
    target = context_size - max(1, room if max_tokens is None else min(room, max_tokens))
    search = _Search(groups, chat.messages, _Candidate(0, num_tokens, whole), target)
    while search.has_more:
        num_groups = search.guess()
        dropped = {index for group in groups[:num_groups] for index in group}
        kept = tuple(message for index, message in enumerate(chat.messages) if index not in dropped)
        prompt = render(msgspec.structs.replace(chat, messages=kept))
        num_tokens = yield from count(prompt)
        search.note(_Candidate(num_groups, num_tokens, Fitted(prompt, len(dropped))))
    return search.result


class _Search:
    """Looks for the fewest groups that must go. Few questions: a group's tokens are guessed from its characters."""

    def __init__(self, groups: list[list[int]], messages: tuple[Message, ...], whole: _Candidate, target: int) -> None:
        lengths = [sum(_length(messages[index]) for index in group) for group in groups]
        self._weights = [0, *accumulate(lengths)]  # characters that go with so many groups
        self._target = target
        self._too_long = whole
        self._fits: _Candidate | None = None
        self._density = whole.num_tokens / max(1, sum(map(_length, messages)))  # tokens of a character
        self._num_guesses = 0

    @property
    def has_more(self) -> bool:
        return self._end - self._too_long.num_groups > 1

    @property
    def result(self) -> Fitted:
        return (self._fits or self._too_long).fitted

    @property
    def _end(self) -> int:
        return self._fits.num_groups if self._fits else len(self._weights)

    def guess(self) -> int:
        self._num_guesses += 1
        low, end = self._too_long.num_groups, self._end
        if self._num_guesses > MAX_GUESSES:
            return (low + end) // 2
        for num_groups in range(low + 1, end):
            freed = self._density * (self._weights[num_groups] - self._weights[low])
            if self._too_long.num_tokens - freed <= self._target:
                return num_groups
        return end - 1

    def note(self, candidate: _Candidate) -> None:
        if candidate.num_tokens <= self._target:
            self._fits = candidate
            last = self._weights[candidate.num_groups] - self._weights[candidate.num_groups - 1]
            if candidate.num_tokens + self._density * last > self._target:  # one group less would be too few
                self._too_long = candidate._replace(num_groups=candidate.num_groups - 1)
            return
        freed = self._too_long.num_tokens - candidate.num_tokens
        weight = self._weights[candidate.num_groups] - self._weights[self._too_long.num_groups]
        self._density = max(freed, 1) / max(1, weight)
        self._too_long = candidate


def _droppable(messages: tuple[Message, ...]) -> list[list[int]]:
    """Places of the messages that may go, oldest first; calls in one group with their results."""
    groups: list[list[int]] = []
    for index, message in enumerate(messages):
        if message.role is Role.SYSTEM:
            continue
        if message.role is Role.TOOL and groups and groups[-1][-1] == index - 1:
            before = messages[index - 1]
            if before.role is Role.TOOL or before.tool_calls:
                groups[-1].append(index)
                continue
        groups.append([index])
    return [group for group in groups if group[-1] != len(messages) - 1]


def _length(message: Message) -> int:
    calls = sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    return TURN_OVERHEAD + len(message.text) + len(message.reasoning) + calls
