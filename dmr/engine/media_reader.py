"""Files to pieces of a prompt, and to the vectors of their places."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

from dmr import _core
from dmr.config import ProjectorSettings
from dmr.engine.pictures import MAX_SIDE, SMALL_SIDE, read_picture
from dmr.errors import InternalError, InvalidRequest, ModelLoadFailed, Unsupported
from dmr.wire import EngineMedia

MAX_SOUND_SECONDS = 3600


class Medium(NamedTuple):
    """What stands for a file in a prompt."""

    digest: bytes  # of what it shows
    pieces: tuple[_core.MediaPiece, ...]
    vectors: tuple[_core.MediaVectors | None, ...] = ()  # of each piece; None for text. Empty: not encoded

    @property
    def num_bytes(self) -> int:
        return sum(vectors.num_bytes for vectors in self.vectors if vectors is not None)


class EncodingCancelled(Exception):
    """Nobody waits for it any more."""


def digest_of(media: EngineMedia) -> bytes:
    digest = hashlib.sha256(f"{media.kind}{' small' if media.is_small else ''}:".encode())
    digest.update(media.data)
    return digest.digest()


class MediaReader:
    """`read` is for any thread, `encode` for one."""

    def __init__(self, projector: _core.Projector, max_batch_tokens: int) -> None:
        """`max_batch_tokens`: that a step can compute, which a piece that is indivisible has to fit into."""
        self._projector = projector
        self._max_batch_tokens = max_batch_tokens

    @classmethod
    def load(
        cls, path: str, model: _core.Model, settings: ProjectorSettings, num_threads: int, max_batch_tokens: int
    ) -> MediaReader:
        """Raises ModelLoadFailed."""
        try:
            projector = _core.Projector(
                path,
                model,
                num_threads=num_threads,
                use_gpu=settings.use_gpu,
                min_tokens=settings.min_tokens,
                max_tokens=settings.max_tokens,
            )
        except (_core.Error, ValueError) as error:
            raise ModelLoadFailed(str(error)) from error
        return cls(projector, max_batch_tokens)

    @property
    def uses_mrope(self) -> bool:
        """Whether positions have several parts, and a picture fewer of them than places."""
        return self._projector.uses_mrope

    @property
    def senses(self) -> tuple[str, ...]:
        """Of "vision" and "audio"."""
        has = {"vision": self._projector.sees, "audio": self._projector.hears}
        return tuple(name for name, is_there in has.items() if is_there)

    def read(self, media: EngineMedia) -> Medium:
        """Without its vectors. Raises InvalidRequest (the file), Unsupported (the model)."""
        pieces = self._pictured(media) if media.kind == "image" else self._heard(media.data)
        for piece in pieces:
            if not piece.is_causal and piece.num_places > self._max_batch_tokens:
                raise Unsupported(
                    f"An image of this model takes {piece.num_places} tokens in one go, and a step has at most "
                    f"{self._max_batch_tokens}; the server's DMR_BATCH_TOKENS sets that."
                )
        return Medium(digest_of(media), tuple(pieces))

    def encode(self, medium: Medium, between: Callable[[], None]) -> Medium:
        """With its vectors, and without what they were made of. `between`: see `_core.Projector.encode`.

        Raises:
            EncodingCancelled: after `abort`.
            InternalError
        """
        try:
            vectors = tuple(
                self._projector.encode(piece, between) if piece.num_places else None for piece in medium.pieces
            )
        except _core.Cancelled as error:
            raise EncodingCancelled from error
        except _core.DecodeError as error:
            raise InternalError(f"The image or sound could not be encoded: {error}.") from error
        return Medium(medium.digest, tuple(piece.without_content() for piece in medium.pieces), vectors)

    def abort(self) -> None:
        """Stop the running `encode`; harmless when there is none. Any thread."""
        self._projector.abort(self._projector.next_encode - 1)

    def _pictured(self, media: EngineMedia) -> list[_core.MediaPiece]:
        if not self._projector.sees:
            raise Unsupported("This model sees no images.", param="image")
        picture = read_picture(media.data, SMALL_SIDE if media.is_small else MAX_SIDE)
        try:
            return self._projector.prepare_image(*picture)
        except (_core.MediaError, ValueError) as error:
            raise InvalidRequest(f"The image cannot be used: {error}.", param="image") from error

    def _heard(self, data: bytes) -> list[_core.MediaPiece]:
        if not self._projector.hears:
            raise Unsupported("This model hears no sounds.", param="audio")
        try:
            return self._projector.prepare_sound(data, MAX_SOUND_SECONDS)
        except _core.MediaError as error:
            raise InvalidRequest(f"The sound cannot be used: {error}.", param="audio") from error
