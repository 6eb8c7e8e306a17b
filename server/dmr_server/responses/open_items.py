"""Output items while they grow: each tells the events of its beginning, its deltas and its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from msgspec import UNSET

from dmr_server.custom_input import CustomInput, input_of
from dmr_server.responses.events import (
    ArgumentsDelta,
    ArgumentsDone,
    InputDelta,
    InputDone,
    ItemAdded,
    ItemDone,
    PartAdded,
    PartDone,
    SummaryDelta,
    SummaryDone,
    SummaryPartAdded,
    SummaryPartDone,
    TextDeltaEvent,
    TextDone,
    ThoughtDelta,
    ThoughtDone,
    WireEvent,
)
from dmr_server.responses.sealed import seal
from dmr_server.responses.tools import Offered
from dmr_server.responses.wire import (
    CustomCallItem,
    FunctionCallItem,
    Logprob,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    SummaryText,
)

Events = list[WireEvent]  # their numbers are given when they are sent


class OpenItem(ABC):
    """The item at `index` of the output."""

    def __init__(self, id: str, index: int) -> None:
        self.id = id
        self.index = index
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @abstractmethod
    def item(self, status: str) -> OutputItem:
        """The item as it is now."""

    def opening(self) -> Events:
        return [ItemAdded(0, self.index, self.item("in_progress"))]

    def closing(self, status: str) -> Events:
        return [ItemDone(0, self.index, self.item(status))]


class OpenMessage(OpenItem):
    def __init__(self, id: str, index: int) -> None:
        super().__init__(id, index)
        self.logprobs: list[Logprob] = []
        self._has_part = False

    def item(self, status: str) -> OutputItem:
        part = (OutputText(self.text, logprobs=self.logprobs),) if self._has_part else ()
        return MessageItem(self.id, status, part)

    def opening(self) -> Events:
        added = super().opening()
        self._has_part = True
        return [*added, PartAdded(0, self.id, self.index, 0, OutputText(""))]

    def delta(self, text: str, logprobs: Sequence[Logprob]) -> WireEvent:
        self.pieces.append(text)
        self.logprobs.extend(logprobs)
        return TextDeltaEvent(0, self.id, self.index, 0, text, logprobs)

    def closing(self, status: str) -> Events:
        text, logprobs = self.text, self.logprobs
        return [
            TextDone(0, self.id, self.index, 0, text, logprobs),
            PartDone(0, self.id, self.index, 0, OutputText(text, logprobs=logprobs)),
            *super().closing(status),
        ]


class OpenThought(OpenItem):
    """A thought, told as reasoning text or, for clients that asked for one, as a summary."""

    def __init__(self, id: str, index: int, *, as_summary: bool, sealed: bool) -> None:
        super().__init__(id, index)
        self._as_summary = as_summary
        self._sealed = sealed

    def item(self, status: str) -> OutputItem:
        text = self.text
        return ReasoningItem(
            self.id,
            summary=(SummaryText(text),) if self._as_summary and text else (),
            content=UNSET if self._as_summary else (ReasoningText(text),) if text else (),
            encrypted_content=seal(text) if self._sealed and text else None,
            status=status,
        )

    def opening(self) -> Events:
        if self._as_summary:
            return [*super().opening(), SummaryPartAdded(0, self.id, self.index, 0, SummaryText(""))]
        return [*super().opening(), PartAdded(0, self.id, self.index, 0, ReasoningText(""))]

    def delta(self, text: str) -> WireEvent:
        self.pieces.append(text)
        if self._as_summary:
            return SummaryDelta(0, self.id, self.index, 0, text)
        return ThoughtDelta(0, self.id, self.index, 0, text)

    def closing(self, status: str) -> Events:
        text = self.text
        if self._as_summary:
            return [
                SummaryDone(0, self.id, self.index, 0, text),
                SummaryPartDone(0, self.id, self.index, 0, SummaryText(text)),
                *super().closing(status),
            ]
        return [
            ThoughtDone(0, self.id, self.index, 0, text),
            PartDone(0, self.id, self.index, 0, ReasoningText(text)),
            *super().closing(status),
        ]


class OpenCall(OpenItem):
    """A function call; without any argument its arguments are an empty object."""

    def __init__(self, id: str, index: int, call_id: str, tool: Offered) -> None:
        super().__init__(id, index)
        self._call_id = call_id
        self._tool = tool

    def item(self, status: str) -> OutputItem:
        tool = self._tool
        return FunctionCallItem(self.id, self._call_id, tool.name, self.text, status, tool.namespace or UNSET)

    def delta(self, arguments: str) -> Events:
        if not arguments:
            return []
        self.pieces.append(arguments)
        return [ArgumentsDelta(0, self.id, self.index, arguments)]

    def closing(self, status: str) -> Events:
        owed = [] if self.pieces or status != "completed" else self.delta("{}")
        done = ArgumentsDone(0, self.id, self.index, self._tool.name, self.text)
        return [*owed, done, *super().closing(status)]


class OpenCustomCall(OpenItem):
    """A call of a tool that takes plain text, which the model writes as JSON."""

    def __init__(self, id: str, index: int, call_id: str, tool: Offered) -> None:
        super().__init__(id, index)
        self._call_id = call_id
        self._tool = tool
        self._reader = CustomInput()
        self._sent: list[str] = []

    def item(self, status: str) -> OutputItem:
        tool = self._tool
        text = input_of(self.text) if status == "completed" else "".join(self._sent)
        return CustomCallItem(self.id, self._call_id, tool.name, text, status, tool.namespace or UNSET)

    def delta(self, arguments: str) -> Events:
        self.pieces.append(arguments)
        return self._told(self._reader.feed(arguments))

    def closing(self, status: str) -> Events:
        owed = self._told(self._reader.finish()) if status == "completed" else []
        text = input_of(self.text) if status == "completed" else "".join(self._sent)
        return [*owed, InputDone(0, self.id, self.index, text), *super().closing(status)]

    def _told(self, text: str) -> Events:
        self._sent.append(text)
        return [InputDelta(0, self.id, self.index, text)] if text else []
