"""The model's text, while it grows, to events: answer, reasoning, tool calls."""

from __future__ import annotations

import secrets

from dmr import _core
from dmr.types import Event, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta, ToolCallStart


class OutputParser:
    """Follows one choice. What a model writes never raises: text that fits no format is the answer's text."""

    def __init__(self, prompt: _core.ChatPrompt, index: int, parse_tool_calls: bool) -> None:
        self._parser = _core.ChatParser(prompt, parse_tool_calls)
        self._index = index
        self.has_tool_calls = False

    def feed(self, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> list[Event]:
        delta = self._parser.feed(text) if text else None
        return self._events(delta, logprobs)

    def finish(self) -> list[Event]:
        """What was held back until the answer was whole."""
        return self._events(self._parser.finish(), ())

    def _events(self, delta: _core.ChatDelta | None, logprobs: tuple[TokenLogprob, ...]) -> list[Event]:
        events: list[Event] = []
        if delta is not None and delta.reasoning:
            events.append(ReasoningDelta(self._index, delta.reasoning))
        content = delta.content if delta is not None else ""
        if content or logprobs:
            events.append(TextDelta(self._index, content, logprobs))
        for call in delta.tool_calls if delta is not None else ():
            self.has_tool_calls = True
            if call.name:
                events.append(ToolCallStart(self._index, call.index, _call_id(), call.name))
            if call.arguments:
                events.append(ToolCallDelta(self._index, call.index, call.arguments))
        return events


def _call_id() -> str:
    return "call_" + secrets.token_hex(12)
