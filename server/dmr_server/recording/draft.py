"""What is noted about one request for a model while it is answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Union

import falcon
import msgspec

from dmr.errors import DmrError
from dmr.types import Completed, Completion, Event, Finished, FinishReason, Tick, Usage, collect
from dmr_server.recording.kinds import Kind

MAX_TEXT = 1 << 20  # bytes of an answer that goes through, as far as it is kept
MAX_EVENTS = 100_000  # of one answer that are kept to be told as a whole; with more, none are


class _Named(msgspec.Struct):
    model: Union[str, None] = None


class Draft:
    """Written by the thread that serves the request, until the request is over."""

    def __init__(self, kind: Kind, keeps_bodies: bool) -> None:
        self.kind = kind
        self.keeps_bodies = keeps_bodies
        self.model = ""  # as it was asked for
        self.engine = ""  # where the request was passed on to
        self.request: bytes | None = None
        self.response: Callable[[], bytes] | None = None
        self.num_input_tokens = 0
        self.num_output_tokens = 0
        self.error: DmrError | None = None
        self.has_left = False  # the client, before the end
        self._events: list[Event] = []
        self._pieces: list[bytes] = []
        self._num_kept_bytes = 0

    def asked(self, data: bytes, decoded: Mapping[str, Any]) -> None:
        """The body, and what it means."""
        name = decoded.get("model") or decoded.get("name")
        self.model = name if isinstance(name, str) else ""
        self.request = data if self.keeps_bodies else None

    def passed_on(self, engine: str, body: bytes) -> None:
        """The request goes on to another engine, which alone reads all of it."""
        self.engine = engine
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.asked(body, {"model": msgspec.json.decode(body, type=_Named).model})

    def keep_piece(self, piece: bytes) -> None:
        """A part of an answer that goes through. Only with bodies."""
        if self._num_kept_bytes < MAX_TEXT:
            self._pieces.append(piece[: MAX_TEXT - self._num_kept_bytes])
            self._num_kept_bytes += len(self._pieces[-1])
            self.response = lambda: b"".join(self._pieces)

    def used(self, usage: Usage) -> None:
        self.num_input_tokens = usage.num_prompt_tokens
        self.num_output_tokens = usage.num_completion_tokens

    def keep(self, event: Event) -> None:
        """An event of a streamed answer. Only with bodies."""
        if len(self._events) <= MAX_EVENTS and not isinstance(event, Tick):
            self._events.append(event)

    def fold(self, to_result: Callable[[Completion], bytes]) -> bytes:
        """What was kept, as the whole answer that it would have been without a stream."""
        if len(self._events) > MAX_EVENTS:
            return b""
        return to_result(collect(_ended(self._events)))


class KeepingEncoder:
    """An encoder whose events are kept."""

    def __init__(self, encoder: Any, draft: Draft) -> None:
        self._encoder = encoder
        self._draft = draft
        self.media_type: str = encoder.media_type
        self.comment_interval: float = encoder.comment_interval

    def encode(self, event: Event) -> bytes:
        self._draft.keep(event)
        encoded: bytes = self._encoder.encode(event)
        return encoded

    def error(self, error: DmrError) -> bytes:
        told: bytes = self._encoder.error(error)
        return told

    def comment(self) -> bytes:
        said: bytes = self._encoder.comment()
        return said


def draft_of(req: falcon.Request) -> Draft | None:
    """None where nothing is to be noted."""
    return getattr(req.context, "draft", None)


def _ended(events: list[Event]) -> Iterable[Event]:
    """An answer that was broken off ends where it was."""
    if any(isinstance(event, Completed) for event in events):
        return events
    open_choices = {event.index for event in events if hasattr(event, "index")}
    open_choices -= {event.index for event in events if isinstance(event, Finished)}
    return [*events, *(Finished(index, FinishReason.STOP) for index in sorted(open_choices)), Completed(Usage())]
