"""Messages that wait for whoever takes them: what is said of one choice becomes one message."""

from __future__ import annotations

from typing import Union

import msgspec

from dmr.types import TokenLogprob
from dmr.wire.engine_messages import EngineMessage, EngineOutput

LEAST_JOINED = 256  # messages that are kept as they came: to join them takes time, to keep them memory


class _Growing:
    """Outputs of one choice that become one."""

    def __init__(self, first: EngineOutput) -> None:
        self._first = self._last = first
        self._texts = [first.text]
        self._logprobs: list[TokenLogprob] = list(first.logprobs)
        self._num_tokens = first.num_tokens

    def add(self, output: EngineOutput) -> None:
        self._last = output
        self._texts.append(output.text)
        self._logprobs += output.logprobs
        self._num_tokens += output.num_tokens

    def joined(self) -> EngineOutput:
        if self._last is self._first:
            return self._first
        return msgspec.structs.replace(
            self._last, text="".join(self._texts), logprobs=tuple(self._logprobs), num_tokens=self._num_tokens
        )


class HeldMessages:
    """However many tokens an answer has, no more is held than its text. Not for several threads at once."""

    def __init__(self) -> None:
        self._messages: list[EngineMessage] = []
        self._limit = LEAST_JOINED

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: EngineMessage) -> None:
        self._messages.append(message)
        if len(self._messages) > self._limit:
            self._messages = _joined(self._messages)
            self._limit = LEAST_JOINED + 2 * len(self._messages)

    def take(self) -> list[EngineMessage]:
        """All of them, in order; none is left."""
        taken = self.take_as_they_came()
        return taken if len(taken) < 2 else _joined(taken)

    def take_as_they_came(self) -> list[EngineMessage]:
        """The same, joined only as far as they had to be."""
        taken, self._messages = self._messages, []
        self._limit = LEAST_JOINED
        return taken


def _joined(messages: list[EngineMessage]) -> list[EngineMessage]:
    joined: list[Union[EngineMessage, _Growing]] = []
    growing: dict[int, _Growing] = {}  # of them, by index of the choice
    for message in messages:
        if not isinstance(message, EngineOutput):
            joined.append(message)
        elif message.index in growing:
            growing[message.index].add(message)
        else:
            growing[message.index] = _Growing(message)
            joined.append(growing[message.index])
    return [each.joined() if isinstance(each, _Growing) else each for each in joined]
