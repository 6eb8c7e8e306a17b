"""The engine's messages to the events of an answer."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Generator, Iterator
from typing import Protocol

import msgspec

from dmr.service.leasing import Waited
from dmr.service.prompts import Parser, Prepared
from dmr.types import (
    Completed,
    Echo,
    Event,
    Finished,
    FinishReason,
    Started,
    Tick,
    ToolCallDelta,
    ToolCallStart,
)
from dmr.wire import EngineCompleted, EngineEcho, EngineMessage, EngineOutput, EngineStarted


class Check(Protocol):
    """What a whole answer is held against."""

    def violations(self, text: str, calls: list[tuple[str, str]], reason: FinishReason) -> tuple[str, ...]:
        """`calls`: name and arguments of each."""


class _Choice:
    def __init__(self, parser: Parser) -> None:
        self.parser = parser
        self.calls: list[tuple[str, list[str]]] = []
        self.sum_logprobs = 0.0
        self.num_logprobs = 0

    def note(self, event: ToolCallStart | ToolCallDelta) -> None:
        if isinstance(event, ToolCallStart):
            self.calls.append((event.name, []))
        else:
            self.calls[event.call_index][1].append(event.arguments)


class Reading:
    """One answer, all its choices. `waited`: the seconds it took until the model was there."""

    def __init__(
        self,
        prepared: Prepared,
        asked_stop: tuple[str, ...],
        check: Check | None = None,
        *,
        num_dropped_messages: int = 0,
        waited: Waited = lambda: 0.0,
    ) -> None:
        """Only the stop strings that were asked for are named as such; a template's own are an ordinary end of turn."""
        self._make_parser = prepared.make_parser
        self._asked_stop = asked_stop
        self._check = check
        self._num_dropped_messages = num_dropped_messages
        self._waited = waited
        self._choices: dict[int, _Choice] = {}
        self.unread: deque[Event] = deque()  # of the last message, what `events` has not yielded yet

    def likelihood(self, index: int) -> float:
        """The mean log probability of a choice's tokens; that of an empty one is worse than any."""
        choice = self._choices[index]
        return choice.sum_logprobs / choice.num_logprobs if choice.num_logprobs else -math.inf

    def events(self, messages: Generator[EngineMessage | None, None, None]) -> Iterator[Event]:
        """Raises, at any `next`, what the engine says went wrong. Closing is the abort."""
        with contextlib.closing(messages):
            for message in messages:
                if message is None:
                    yield Tick()
                    continue
                self.unread.extend(self.read(message))
                while self.unread:
                    yield self.unread.popleft()
                if isinstance(message, EngineCompleted):
                    return

    def read(self, message: EngineMessage) -> list[Event]:
        """What one message tells. Raises what the engine says went wrong."""
        if isinstance(message, EngineOutput):
            return self._read_output(message)
        if isinstance(message, EngineEcho):
            return [Echo(message.index, message.text, message.logprobs)]
        if isinstance(message, EngineStarted):
            return [self._started(message)]
        if isinstance(message, EngineCompleted):
            return [self._completed(message)]
        raise message.to_error()

    def _started(self, message: EngineStarted) -> Started:
        return Started(
            message.num_prompt_tokens,
            num_dropped_messages=self._num_dropped_messages,
            num_dropped_tokens=message.num_dropped_tokens,
        )

    def _completed(self, message: EngineCompleted) -> Completed:
        num_reasoning = sum(choice.parser.num_reasoning_tokens for choice in self._choices.values())
        return Completed(
            msgspec.structs.replace(message.usage, num_reasoning_tokens=num_reasoning),
            msgspec.structs.replace(message.timings, load=self._waited()),
        )

    def _read_output(self, output: EngineOutput) -> list[Event]:
        index = output.index
        choice = self._choices.get(index) or self._choices.setdefault(index, _Choice(self._make_parser(index)))
        for entry in output.logprobs:
            choice.sum_logprobs += entry.chosen.logprob
            choice.num_logprobs += 1
        events = choice.parser.feed(output.text, output.logprobs, output.num_tokens)
        if output.finish_reason is not None:
            events += choice.parser.finish()
        for event in events:
            if isinstance(event, (ToolCallStart, ToolCallDelta)):
                choice.note(event)
        if output.finish_reason is not None:
            events.append(self._finished(output, output.finish_reason, choice))
        return events

    def _finished(self, output: EngineOutput, reason: FinishReason, choice: _Choice) -> Finished:
        violations: tuple[str, ...] = ()
        if self._check is not None:
            calls = [(name, "".join(arguments)) for name, arguments in choice.calls]
            violations = self._check.violations(choice.parser.text, calls, reason)
        if reason is FinishReason.STOP and choice.parser.has_tool_calls:
            reason = FinishReason.TOOL_CALLS
        return Finished(
            index=output.index,
            reason=reason,
            stop_sequence=output.stop_sequence if output.stop_sequence in self._asked_stop else None,
            is_context_full=output.is_context_full,
            schema_violations=violations,
            token_ids=output.token_ids,
        )
