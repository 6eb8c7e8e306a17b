"""Connections that are opened ahead of time: who gets one, and what becomes of those that are of no use any more."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dmr.client import EngineClient, EngineUnreachable, ManagerClient
from dmr.spare_connections import SpareConnections
from dmr.types import SamplingParams, Timings, Usage
from dmr.wire import (
    EngineCompleted,
    EngineInfo,
    EngineRequest,
    EngineStarted,
    LeaseGranted,
    pack,
)

REQUEST = EngineRequest(("hi",), SamplingParams())
END = EngineCompleted(Usage(), Timings())
GRANTED = LeaseGranted("sha256:1", "engine.sock", EngineInfo("d", 64, "", "", "", False))


class Peer:
    """Takes any number of connections, also such as say nothing, and answers the one message of each."""

    def __init__(self, path: Path, *answers: msgspec.Struct) -> None:
        self.path = str(path)
        self.num_connections = 0
        self.heard: list[int] = []  # on which connection, counted from 1
        self._answers = answers
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def wait_for_connections(self, number: int) -> None:
        deadline = time.monotonic() + 5
        while self.num_connections < number and time.monotonic() < deadline:
            time.sleep(0.005)
        assert self.num_connections == number

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        Path(self.path).unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            self.num_connections += 1
            threading.Thread(target=self._serve, args=(connection, self.num_connections), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            if connection.recv(1 << 16):
                self.heard.append(number)
                connection.sendall(b"".join(map(pack, self._answers)))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(tmp_path / "engine.sock", EngineStarted(1), END)
    yield peer
    peer.close()


@pytest.fixture
def spares() -> Iterator[SpareConnections]:
    made = SpareConnections(0.5)
    yield made
    made.close()


def ask(path: str, spares: SpareConnections) -> list[object]:
    messages = EngineClient(path, spares).generate(REQUEST)
    heard: list[object] = []
    while END not in heard:
        heard.append(next(messages))
    messages.close()
    return [message for message in heard if message is not None]


def test_there_is_none_at_first(engine: Peer, spares: SpareConnections) -> None:
    assert spares.take(engine.path) is None


def test_the_next_request_goes_over_what_was_opened_behind_the_last(engine: Peer, spares: SpareConnections) -> None:
    for number in range(1, 4):
        assert ask(engine.path, spares) == [EngineStarted(1), END]
        assert engine.heard == list(range(1, number + 1))
        engine.wait_for_connections(number + 1)


def test_leases_are_asked_for_over_one_too(tmp_path: Path, spares: SpareConnections) -> None:
    manager = Peer(tmp_path / "manager.sock", GRANTED)
    asks = ManagerClient(Path(manager.path), spares)
    for number in range(1, 4):
        *_, lease = asks.acquire("x", None)
        assert lease is not None
        assert manager.heard == list(range(1, number + 1))
        assert manager.num_connections == number
        lease.close()
        manager.wait_for_connections(number + 1)
    manager.close()


def test_two_requests_at_once_have_one_each(engine: Peer, spares: SpareConnections) -> None:
    ask(engine.path, spares)
    engine.wait_for_connections(2)
    one, other = (EngineClient(engine.path, spares).generate(REQUEST) for _ in range(2))
    assert next(one) == next(other) == EngineStarted(1)
    assert engine.heard == [1, 2, 3]
    one.close()
    other.close()
    engine.wait_for_connections(4)  # one is spare


def test_one_whose_other_end_has_gone_is_not_given_out(engine: Peer, spares: SpareConnections, tmp_path: Path) -> None:
    ask(engine.path, spares)
    engine.wait_for_connections(2)
    engine.close()
    assert spares.take(engine.path) is None
    spares.refill(engine.path)  # nobody listens there any more
    with pytest.raises(EngineUnreachable):
        next(EngineClient(engine.path, spares).generate(REQUEST))
    again = Peer(Path(engine.path), EngineStarted(1), END)
    assert ask(engine.path, spares) == [EngineStarted(1), END]
    again.wait_for_connections(2)
    again.close()


def test_where_none_is_kept_each_is_opened_when_it_is_needed(engine: Peer) -> None:
    none = SpareConnections(0.5, max_places=0)
    for number in range(1, 3):
        assert ask(engine.path, none) == [EngineStarted(1), END]
        assert engine.num_connections == number


def test_places_that_are_not_used_any_more_are_forgotten(tmp_path: Path) -> None:
    spares = SpareConnections(0.5, max_places=2)
    peers = [Peer(tmp_path / f"{number}.sock") for number in range(3)]
    for peer in peers:
        spares.refill(peer.path)
        spares.refill(peer.path)
        peer.wait_for_connections(1)
    assert spares.take(peers[0].path) is None
    for peer in peers[1:]:
        taken = spares.take(peer.path)
        assert taken is not None
        taken.close()
        assert spares.take(peer.path) is None
    for peer in peers:
        peer.close()
