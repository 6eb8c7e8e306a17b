"""The part of a step that is for pictures and sounds: llama.cpp takes their vectors in batches of their own."""

from __future__ import annotations

from collections.abc import Sequence

from dmr import _core
from dmr.engine.media_spans import MediaSpan
from dmr.engine.scheduler import Chunk


class MediaSteps:
    """For the engine's thread, before the text of the same step: what is computed can still be taken back then."""

    def __init__(self, context: _core.Context) -> None:
        self._context = context
        self._done: list[Chunk] = []

    def run(self, chunks: Sequence[Chunk]) -> _core.DecodeStatus:
        """Compute the chunks, as far as it goes. After any status but DONE, nothing of them is in the memory.

        Raises:
            _core.Error, ValueError: what the memory holds is unknown.
        """
        self._done = []
        for chunk in chunks:
            status = self._compute(chunk)
            if status != _core.DecodeStatus.DONE:
                self.take_back()
                return status
            self._done.append(chunk)
        return _core.DecodeStatus.DONE

    def take_back(self) -> None:
        """Forget what the last call has computed. Raises ValueError: this memory cannot go back so far."""
        done, self._done = self._done, []
        for chunk in done:
            sequence, span = chunk.sequence, _span_of(chunk)
            assert sequence.slot is not None
            num_before = chunk.start - span.start
            # Under M-RoPE the places of a picture have one position: a part of it cannot be told from the rest.
            is_apart = num_before == 0 or span.num_places == span.num_positions
            begin = sequence.position_of(span.start) + num_before
            if not is_apart or not self._context.remove(sequence.slot, begin, -1):
                raise ValueError("the memory cannot take a part of a picture back")

    def _compute(self, chunk: Chunk) -> _core.DecodeStatus:
        sequence, span = chunk.sequence, _span_of(chunk)
        assert sequence.slot is not None
        begin = chunk.start - span.start
        first = sequence.position_of(span.start)
        return self._context.decode_media(
            sequence.slot, first, span.piece, span.vectors, begin, begin + chunk.num_tokens
        )


def is_media(chunk: Chunk) -> bool:
    """Whether the chunk is of places, not of text."""
    media = chunk.sequence.media
    return media is not None and media.at(chunk.start) is not None


def _span_of(chunk: Chunk) -> MediaSpan:
    media = chunk.sequence.media
    span = None if media is None else media.at(chunk.start)
    assert span is not None, "a chunk of text among those of pictures"
    return span
