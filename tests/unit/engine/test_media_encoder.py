"""What becomes of files: each is encoded once, whoever asks and whoever leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from dmr.engine import media_encoder
from dmr.engine.core_share import CoreShare
from dmr.engine.media_encoder import MediaEncoder
from dmr.engine.media_reader import EncodingCancelled, Medium, digest_of
from dmr.errors import DmrError, InvalidRequest, Overloaded
from dmr.wire import EngineMedia

PATIENCE = 5.0


class FakeReader:
    def __init__(self) -> None:
        self.encoded: list[bytes] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.has_begun = threading.Event()
        self.is_aborted = False

    def read(self, media: EngineMedia) -> Medium:
        if media.data == b"bad":
            raise InvalidRequest("The image cannot be read.", param="image")
        return Medium(digest_of(media), ())

    def encode(self, medium: Medium, between: Callable[[], None]) -> Medium:
        self.has_begun.set()
        assert self.may_go_on.wait(PATIENCE)
        if self.is_aborted:
            self.is_aborted = False
            raise EncodingCancelled
        self.encoded.append(medium.digest)
        return Sized(medium.digest, (), ())

    def abort(self) -> None:
        self.is_aborted = True
        self.may_go_on.set()


class Sized(Medium):
    @property
    def num_bytes(self) -> int:
        return 100


def image(data: bytes) -> EngineMedia:
    return EngineMedia("image", data)


@pytest.fixture
def reader() -> FakeReader:
    return FakeReader()


@pytest.fixture
def encoder(reader: FakeReader) -> Iterator[MediaEncoder]:
    made = MediaEncoder(reader, CoreShare(1, lambda: None), cache_bytes=250)
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.stop()
    reader.may_go_on.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def answer(encoder: MediaEncoder, *files: bytes) -> tuple[Medium, ...] | DmrError:
    return encoder.submit([image(data) for data in files]).result.result(PATIENCE)


def test_files_come_back_in_order_and_are_encoded_once(encoder: MediaEncoder, reader: FakeReader) -> None:
    digests = [digest_of(image(data)) for data in (b"a", b"b", b"a")]
    first = answer(encoder, b"a", b"b", b"a")
    assert isinstance(first, tuple)
    assert [medium.digest for medium in first] == digests
    answer(encoder, b"b", b"a")
    assert len(reader.encoded) == encoder.counts().num_encoded == 2
    assert encoder.counts().num_hits == 2


def test_the_cache_is_bounded_and_forgets_what_was_used_longest_ago(encoder: MediaEncoder, reader: FakeReader) -> None:
    for data in (b"a", b"b", b"a", b"c", b"a", b"b"):
        answer(encoder, data)
    assert [reader.encoded.count(digest_of(image(data))) for data in (b"a", b"b", b"c")] == [1, 2, 1]


def test_those_who_ask_at_the_same_time_share_the_work(encoder: MediaEncoder, reader: FakeReader) -> None:
    reader.may_go_on.clear()
    orders = [encoder.submit([image(b"a")]) for _ in range(3)]
    assert reader.has_begun.wait(PATIENCE)
    encoder.abort(orders[0])  # the others still want it
    assert not reader.is_aborted
    reader.may_go_on.set()
    assert all(isinstance(order.result.result(PATIENCE), tuple) for order in orders[1:])
    assert len(reader.encoded) == 1


def test_what_nobody_wants_any_more_is_stopped(encoder: MediaEncoder, reader: FakeReader) -> None:
    reader.may_go_on.clear()
    running, waiting = encoder.submit([image(b"a")]), encoder.submit([image(b"b")])
    assert reader.has_begun.wait(PATIENCE)
    encoder.abort(waiting)
    encoder.abort(running)
    answer(encoder, b"c")
    assert reader.encoded == [digest_of(image(b"c"))]


def test_a_bad_file_is_told_and_the_next_one_works(encoder: MediaEncoder) -> None:
    refusal = answer(encoder, b"a", b"bad")
    assert isinstance(refusal, InvalidRequest)
    assert isinstance(answer(encoder, b"a"), tuple)


def test_too_many_files_are_refused(encoder: MediaEncoder, reader: FakeReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_encoder, "MAX_WAITING", 2)
    reader.may_go_on.clear()
    orders = [encoder.submit([image(b"a")]), encoder.submit([image(b"b")])]
    with pytest.raises(Overloaded, match="2 images"):
        encoder.submit([image(b"c")])
    reader.may_go_on.set()
    assert all(order.result.result(PATIENCE) for order in orders)


def test_what_is_kept_and_what_waits_is_counted(encoder: MediaEncoder, reader: FakeReader) -> None:
    answer(encoder, b"a", b"b", b"c")
    counts = encoder.counts()
    assert (counts.num_encoded, counts.cache_bytes, counts.max_cache_bytes) == (3, 200, 250)
    assert counts.seconds > 0
    reader.may_go_on.clear()
    orders = [encoder.submit([image(data)]) for data in (b"d", b"e")]
    assert encoder.counts().num_waiting == 2
    reader.may_go_on.set()
    assert all(order.result.result(PATIENCE) for order in orders)
    assert encoder.counts().num_waiting == 0
