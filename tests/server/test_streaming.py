"""One thread sends all streams: real sockets, scripted engines."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from dmr.errors import EngineCrashed
from dmr.service.answer import Answer, Channels, Flow
from dmr.types import Completed, Event, Finished, FinishReason, Started, TextDelta, Tick, Usage
from dmr.wire import Connection, EngineMessage, EngineOutput, EngineStarted, WireError, engine_message_decoder, pack
from dmr_server import streaming
from dmr_server.dialect import Client, EventStream
from dmr_server.streaming import LOOK_INTERVAL, Streamer, can_be_sent

END = EngineOutput(0, "", finish_reason=FinishReason.STOP)


class PlainEncoder:
    """Text as it is; what else is told is told in one word."""

    media_type = "text/plain"
    comment_interval = 15.0

    def encode(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            return event.text.encode()
        return b"" if isinstance(event, Tick) else f"[{type(event).__name__}]".encode()

    def error(self, error: Exception) -> bytes:
        return b"[error]"

    def comment(self) -> bytes:
        return b"[comment]"


class Scene:
    """An engine's end, a stream over it, a server's thread that sends it, and the client's end."""

    def __init__(
        self,
        streamer: Streamer,
        protocol: str = "HTTP/1.1",
        comment_interval: float = 15.0,
        pair: Callable[[], tuple[socket.socket, socket.socket]] = socket.socketpair,
        begins_with: str = "",
    ) -> None:
        """`begins_with`: text that comes with the very first message."""
        self._begins_with = begins_with
        self.unread: deque[Event] = deque()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("")
            listener.listen()
            self._connection = Connection(listener.getsockname(), 5.0)
            self.engine, _ = listener.accept()
        self.ours, self.client = pair()
        self.client.settimeout(5.0)
        self.threads: set[int] = set()
        flow = Flow()
        flow.readiness.follow(self._connection, "")
        flow.reader = self
        encoder = PlainEncoder()
        encoder.comment_interval = comment_interval
        environ = {"gunicorn.socket": self.ours, "SERVER_PROTOCOL": protocol}
        self.closed = threading.Event()
        answer = Answer(self._events(), flow)
        self.say(EngineStarted(5))
        self.stream = EventStream([next(answer)], answer, encoder, Client(environ), streamer=streamer)
        self.written: list[bytes] = []  # by the server
        self.thread = threading.Thread(target=self._serve)

    def start(self) -> None:
        self.thread.start()

    def say(self, *messages: EngineMessage | str) -> None:
        for message in messages:
            self.engine.sendall(pack(EngineOutput(0, message) if isinstance(message, str) else message))

    def expect(self, expected: bytes) -> None:
        data = b""
        while len(data) < len(expected) and (more := self.client.recv(1 << 16)):
            data += more
        assert data == expected

    def join(self) -> None:
        self.thread.join(5.0)
        assert not self.thread.is_alive(), "the server's thread is held"
        assert self.closed.is_set()

    def close(self) -> None:
        for each in (self.engine, self.ours, self.client):
            each.close()

    def _serve(self) -> None:
        """What the HTTP server does with a body."""
        self.written += self.stream
        self.stream.close()

    def _events(self) -> Generator[Event, None, None]:
        try:
            for message in self._connection.frames(engine_message_decoder):
                if message is None:
                    yield Tick()
                else:
                    self.unread.extend(self.read(message))
                    while self.unread:
                        yield self.unread.popleft()
        finally:
            self._connection.close()
            self.closed.set()

    def read(self, message: EngineMessage) -> list[Event]:
        if not isinstance(message, EngineStarted):
            self.threads.add(threading.get_ident())
        if isinstance(message, WireError):
            raise message.to_error()
        if isinstance(message, EngineStarted):
            return [Started(message.num_prompt_tokens), *([TextDelta(0, self._begins_with)] * bool(self._begins_with))]
        assert isinstance(message, EngineOutput)
        if message.finish_reason:
            return [Finished(0, message.finish_reason), Completed(Usage())]
        return [TextDelta(0, message.text)]


@pytest.fixture
def scenes() -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        streamer = Streamer(write_timeout=0.6)

        def make(**options: Any) -> Scene:
            scene = Scene(streamer, **options)
            stack.callback(scene.close)
            scene.start()
            return scene

        yield make


def test_pieces_are_sent_as_they_come_by_another_thread(scenes: Any) -> None:
    scene = scenes()
    for text in ("one", "two", "three"):
        scene.say(text)
        scene.expect(b"%X\r\n%b\r\n" % (len(text), text.encode()))
    scene.say(END)
    scene.expect(b"15\r\n[Finished][Completed]\r\n")
    scene.join()
    assert scene.written == [b"[Started]"]  # the server sends the headers with it
    assert scene.thread.ident not in scene.threads


def test_what_came_together_is_sent_together(scenes: Any) -> None:
    scene = scenes()
    scene.say("first")
    scene.expect(b"5\r\nfirst\r\n")
    scene.engine.sendall(b"".join(pack(EngineOutput(0, text)) for text in ("a", "b", "c")) + pack(END))
    scene.expect(b"18\r\nabc[Finished][Completed]\r\n")
    scene.join()


def pieces_of(scene: Scene, num_pieces: int, gap: float) -> int:
    """Say so many words with a gap between them; in how many pieces they come."""

    def say() -> None:
        for _ in range(num_pieces):
            scene.say("word")
            time.sleep(gap)
        scene.say(END)

    saying = threading.Thread(target=say)
    saying.start()
    data = b""
    while b"[Completed]" not in data:
        data += scene.client.recv(1 << 16)
    saying.join()
    scene.join()
    chunks = data.split(b"\r\n")[1::2]
    assert b"".join(chunks) == b"word" * num_pieces + b"[Finished][Completed]"
    return len(chunks)


def test_a_stream_that_is_faster_than_anybody_reads_comes_in_larger_pieces(scenes: Any) -> None:
    assert pieces_of(scenes(), 400, 0.0001) < 200
    assert pieces_of(scenes(), 20, 0.02) >= 10  # as they come, even on a busy machine


def test_only_a_streams_own_next_piece_waits_for_its_turn(scenes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "TURN", 60.0)
    busy = scenes()
    busy.say("one")
    busy.expect(b"3\r\none\r\n")
    busy.say("two")
    other = scenes()
    other.say("first")
    other.expect(b"5\r\nfirst\r\n")
    assert select.select([busy.client], [], [], 0) == ([], [], []), "it has come before its turn"
    busy.say("three", END)
    monkeypatch.setattr(streaming, "TURN", 0.0)  # looked at twice a second
    busy.expect(b"1D\r\ntwothree[Finished][Completed]\r\n")


def test_an_old_client_gets_no_chunks(scenes: Any) -> None:
    scene = scenes(protocol="HTTP/1.0")
    scene.say("text", END)
    scene.expect(b"text[Finished][Completed]")
    scene.join()


def test_what_came_before_it_took_over_is_not_forgotten(scenes: Any) -> None:
    streamer = Streamer(write_timeout=5.0)
    scene = Scene(streamer)
    scene.say("early", END)
    scene.start()
    scene.expect(b"1A\r\nearly[Finished][Completed]\r\n")
    scene.join()
    scene.close()


def test_what_the_first_message_told_besides_is_not_forgotten(scenes: Any) -> None:
    scene = scenes(begins_with="together")
    scene.expect(b"8\r\ntogether\r\n")
    scene.say("text")
    scene.expect(b"4\r\ntext\r\n")
    scene.say(END)
    scene.join()


def test_many_streams_at_once(scenes: Any) -> None:
    made = [scenes() for _ in range(40)]
    for round_ in range(20):
        for number, scene in enumerate(made):
            scene.say(f"{number}.{round_} ")
    for scene in made:
        scene.say(END)
    for number, scene in enumerate(made):
        data = b""
        while b"[Completed]" not in data:
            data += scene.client.recv(1 << 16)
        text = b"".join(part for part in data.split(b"\r\n")[1::2])
        assert text == b"".join(b"%d.%d " % (number, r) for r in range(20)) + b"[Finished][Completed]"
        scene.join()
    assert len({thread for scene in made for thread in scene.threads}) == 1


@pytest.mark.parametrize("how", ["error", "death"])
def test_an_engine_that_fails_ends_the_stream(scenes: Any, how: str) -> None:
    scene = scenes()
    scene.say("text")
    scene.expect(b"4\r\ntext\r\n")
    if how == "error":
        scene.say(WireError.of(EngineCrashed("Oh.")))
    else:
        scene.engine.close()
    scene.expect(b"7\r\n[error]\r\n")
    scene.join()


def test_a_client_that_leaves_frees_the_engine(scenes: Any) -> None:
    scene, other = scenes(), scenes()
    scene.say("text")
    scene.expect(b"4\r\ntext\r\n")
    began = time.monotonic()
    scene.client.close()
    scene.join()
    assert time.monotonic() - began < LOOK_INTERVAL + 0.5
    other.say("still here")
    other.expect(b"A\r\nstill here\r\n")
    other.say(END)
    other.join()


def test_a_silence_is_commented(scenes: Any) -> None:
    scene = scenes(comment_interval=0.1)
    scene.expect(b"9\r\n[comment]\r\n" * 2)
    scene.say("text")
    scene.expect(b"4\r\ntext\r\n")
    scene.say(END)
    scene.join()


def flood(scene: Scene) -> int:
    """Say much more than any buffer holds; how many bytes the engine could say before it had to wait."""
    scene.engine.setblocking(False)
    data, num_sent = pack(EngineOutput(0, "x" * 1000)) * 100, 0
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        try:
            num_sent += scene.engine.send(data[num_sent % len(data) :])
            deadline = time.monotonic() + 0.3
        except BlockingIOError:
            time.sleep(0.01)
        except BrokenPipeError:  # on a busy machine the client is cut off by now
            break
    scene.engine.setblocking(True)
    return num_sent


def test_a_client_that_reads_nothing_is_cut_off_and_holds_nobody_up(scenes: Any) -> None:
    """What it does not take stays with the engine, which joins it."""
    scene, other = scenes(), scenes()
    assert flood(scene) < 5_000_000
    other.say("text")
    other.expect(b"4\r\ntext\r\n")
    began = time.monotonic()
    scene.join()
    assert time.monotonic() - began < 3.0
    with pytest.raises(OSError):
        scene.ours.sendall(b"0\r\n\r\n")  # what the server writes at the end does not wait either
    other.say(END)
    other.join()


class DyingStream:
    """Its source is closed with its last piece, which is more than any buffer holds."""

    has_ended = False
    has_moved = False

    def __init__(self) -> None:
        self.source, self.other_end = socket.socketpair()

    def fileno(self) -> int:
        return self.source.fileno()

    def take(self) -> bytes:
        self.source.close()
        self.has_ended = True
        return b"x" * 10_000_000

    def look(self) -> bytes:
        return b""

    def move(self, channels: Channels, owner: object) -> None:
        """It has a source of its own for ever."""


class LivingStream:
    has_ended = False
    has_moved = False

    def __init__(self, number: int) -> None:
        """Its source is the file with that number, which is free: so the next to be opened gets it."""
        self._source, self.other_end = socket.socketpair()
        assert self._source.fileno() == number
        self._source.setblocking(False)

    def fileno(self) -> int:
        return self._source.fileno()

    def take(self) -> bytes:
        try:
            data = self._source.recv(100)
        except BlockingIOError:
            return b""
        self.has_ended = not data
        return data

    def look(self) -> bytes:
        return b""

    def move(self, channels: Channels, owner: object) -> None:
        """It has a source of its own for ever."""

    def close(self) -> None:
        self._source.close()
        self.other_end.close()


def test_the_number_of_a_closed_source_may_be_anothers_at_once() -> None:
    streamer = Streamer(write_timeout=0.6)
    dying = DyingStream()
    number = dying.fileno()
    ours, client = socket.socketpair()
    first = threading.Thread(target=streamer.send, args=(dying, ours, False))
    first.start()
    deadline = time.monotonic() + 5
    while not dying.has_ended and time.monotonic() < deadline:
        time.sleep(0.005)
    living = LivingStream(number)
    our_other, other_client = socket.socketpair()
    other_client.settimeout(5.0)
    second = threading.Thread(target=streamer.send, args=(living, our_other, False))
    second.start()
    living.other_end.sendall(b"alive")
    assert other_client.recv(100) == b"alive"
    first.join(5.0)
    assert not first.is_alive(), "a client that takes nothing is not cut off"
    living.other_end.sendall(b"still")
    assert other_client.recv(100) == b"still"
    living.other_end.shutdown(socket.SHUT_RDWR)
    second.join(5.0)
    assert not second.is_alive()
    for each in (dying.other_end, living, ours, client, our_other, other_client):
        each.close()


def test_a_client_that_reads_slowly_gets_everything(scenes: Any) -> None:
    scene = scenes(protocol="HTTP/1.0")
    saying = threading.Thread(target=lambda: scene.say(*["x" * 50_000] * 40, END))
    saying.start()
    data = b""
    while not data.endswith(b"[Completed]"):
        time.sleep(0.02)  # longer in all than the client may take nothing
        data += scene.client.recv(40_000)
    saying.join()
    scene.join()
    assert data == b"x" * 2_000_000 + b"[Finished][Completed]"


def over_tcp() -> tuple[socket.socket, socket.socket]:
    """A server's end, and a client's that takes a few KB at a time."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        client.connect(listener.getsockname())
        ours, _ = listener.accept()
        return ours, client


def test_a_client_that_takes_very_little_takes_something(scenes: Any) -> None:
    """The system says that there is room only when a third of its buffer is empty, which may take minutes."""
    scene = scenes(pair=over_tcp)
    flood(scene)
    for _ in range(30):
        time.sleep(0.1)  # five times as long in all as the client may take nothing
        assert len(scene.client.recv(1024)) > 0
    assert scene.thread.is_alive()
    scene.client.close()
    scene.join()


def test_a_defect_is_told_and_spares_the_others(scenes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, other = scenes(), scenes()
    scene.say("text")
    scene.expect(b"4\r\ntext\r\n")
    monkeypatch.setattr(scene.stream, "take", lambda: 1 / 0)
    scene.say("more")
    scene.join()
    assert scene.client.recv(100) == b""
    other.say("text", END)
    other.join()


def test_only_plain_connections_are_written_to() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environ = {"gunicorn.socket": ours, "SERVER_PROTOCOL": "HTTP/1.1"}
        assert can_be_sent(environ) is ours
        assert can_be_sent({**environ, "SERVER_PROTOCOL": "HTTP/2.0"}) is None
        assert can_be_sent({**environ, "gunicorn.socket": object()}) is None
        assert can_be_sent({}) is None
