"""The model's text, while it grows, to events: answer, reasoning, tool calls."""

from __future__ import annotations

import secrets

from dmr import _core
from dmr.types import Event, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta, ToolCallStart


class OutputParser:
    """Follows one choice. What a model writes never raises: text that fits no format is the answer's text."""

    def __init__(self, prompt: _core.ChatPrompt, index: int, parse_tool_calls: bool, only_calls: bool = False) -> None:
        """`only_calls`: the grammar allows nothing else, so what is no call is one that was cut off."""
        self._only_calls = only_calls
        self._parser = _core.ChatParser(prompt, parse_tool_calls)
        self._index = index
        self._texts: list[str] = []
        self._num_unknown = 0  # tokens whose text was held back
        self.has_tool_calls = False
        self.num_reasoning_tokens = 0

    @property
    def text(self) -> str:
        """All of the answer so far, without thoughts and calls."""
        return "".join(self._texts)

    def feed(self, text: str, logprobs: tuple[TokenLogprob, ...] = (), num_tokens: int = 1) -> list[Event]:
        """More text, which took so many tokens."""
        self._num_unknown += num_tokens
        return self._events(self._parser.feed(text) if text else None, logprobs)

    def finish(self) -> list[Event]:
        """What was held back until the answer was whole."""
        return self._events(self._parser.finish(), ())

    def _events(self, delta: _core.ChatDelta | None, logprobs: tuple[TokenLogprob, ...]) -> list[Event]:
        if delta is None:
            return [TextDelta(self._index, "", logprobs)] if logprobs else []
        events: list[Event] = []
        content, reasoning, calls = delta.content, delta.reasoning, delta.tool_calls
        if self._only_calls:
            content = ""
        if reasoning:
            events.append(ReasoningDelta(self._index, reasoning))
            self.num_reasoning_tokens += self._share_of_thought(delta)
        if reasoning or content or calls:
            self._num_unknown = 0
        if content or logprobs:
            events.append(TextDelta(self._index, content, logprobs))
            self._texts.append(content)
        for call in calls:
            self.has_tool_calls = True
            if call.name:
                events.append(ToolCallStart(self._index, call.index, _call_id(), call.name))
            if call.arguments:
                events.append(ToolCallDelta(self._index, call.index, call.arguments))
        return events

    def _share_of_thought(self, delta: _core.ChatDelta) -> int:
        """Of the tokens whose text has come, those of the thought: one piece may hold its end and the answer too."""
        told = len(delta.content) + sum(len(call.name) + len(call.arguments) for call in delta.tool_calls)
        return round(self._num_unknown * len(delta.reasoning) / (len(delta.reasoning) + told))


def _call_id() -> str:
    return "call_" + secrets.token_hex(12)
