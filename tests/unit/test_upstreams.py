"""What is known of engines beyond this machine, and for how long."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from certificates import make_certificates
from loopback_engine import LoopbackEngine

from dmr.config import UpstreamEngine
from dmr.errors import DeadlineExceeded, Unavailable, UpstreamFailed
from dmr.service.upstream_call import UpstreamCall
from dmr.service.upstreams import FRESH, FRESH_FAILURE, OLD, Upstreams
from dmr.store.registry.trust import trusting_context


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def engine() -> Iterator[LoopbackEngine]:
    engine = LoopbackEngine()
    yield engine
    engine.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def declared(engine: LoopbackEngine, name: str = "cluster") -> UpstreamEngine:
    return UpstreamEngine(name, engine.url)


def eventually(check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not check() and time.monotonic() < deadline:
        time.sleep(0.01)
    return check()


def test_models_are_asked_for_once_in_a_while(engine: LoopbackEngine, clock: Clock) -> None:
    upstreams = Upstreams([declared(engine)], clock=clock)
    assert upstreams.of_model("far/llama") is upstreams.of_model("far/llama") is not None
    assert len(engine.asked) == 1
    engine.models = ["new"]
    clock.now += FRESH
    assert upstreams.of_model("far/llama") is not None  # as it was, while it is asked beside
    assert eventually(lambda: upstreams.of_model("new") is not None)
    engine.models = ["newer"]
    clock.now += OLD
    assert upstreams.of_model("newer") is not None  # what is old is not used any more


def test_a_state_is_fresh_unless_it_is_urgent(engine: LoopbackEngine, clock: Clock) -> None:
    upstreams = Upstreams([declared(engine)], clock=clock)
    assert upstreams.states()["cluster"].is_up
    engine.status = 500
    clock.now += FRESH
    assert not upstreams.states()["cluster"].is_up
    engine.status = 200
    clock.now += FRESH_FAILURE
    upstreams.states(is_urgent=True)
    assert eventually(lambda: upstreams.states(is_urgent=True)["cluster"].is_up)


def test_one_that_tells_no_list_of_models_is_still_asked(engine: LoopbackEngine, clock: Clock) -> None:
    engine.status = 404
    upstreams = Upstreams([UpstreamEngine("cluster", engine.url, models=("far/llama",))], clock=clock)
    assert not upstreams.states()["cluster"].is_up
    upstream = upstreams.of_model("far/llama")
    assert upstream is not None
    upstream.call().close()


def test_the_models_of_a_silent_engine_are_still_its_own(engine: LoopbackEngine, clock: Clock) -> None:
    upstreams = Upstreams([declared(engine)], clock=clock)
    assert upstreams.models() == {"cluster": ("far/llama",)}
    engine.status = 503
    clock.now += OLD
    upstream = upstreams.of_model("far/llama")
    assert upstream is not None
    with pytest.raises(Unavailable) as caught:  # and not "no such model"
        upstream.call()
    assert caught.value.retry_after == FRESH_FAILURE
    clock.now += FRESH_FAILURE
    upstream.call().close()  # then it is worth a try


def test_the_first_of_several_has_a_model_that_both_have(engine: LoopbackEngine) -> None:
    upstreams = Upstreams([declared(engine, "one"), declared(engine, "two")])
    found = upstreams.of_model("far/llama")
    assert found is not None
    assert found.engine.name == "one"
    assert upstreams.of_model("Far/Llama") is None


@pytest.mark.parametrize("page", [b"", b"[]", b'{"data": [{"name": "x"}]}', b"\xff"])
def test_a_list_that_is_none(engine: LoopbackEngine, page: bytes) -> None:
    engine.answer = lambda: [page]
    upstreams = Upstreams([UpstreamEngine("cluster", engine.url.replace("/v1", "/other"))])
    state = upstreams.states()["cluster"]
    assert (state.is_up, "list of models" in state.detail) == (False, True)
    assert upstreams.models() == {"cluster": ()}


def test_a_key_comes_from_the_environment(engine: LoopbackEngine) -> None:
    for environ in ({"KEY": "k1"}, {}):
        Upstreams([UpstreamEngine("cluster", engine.url, api_key_env="KEY")], environ).models()
    assert [asked.headers.get("Authorization") for asked in engine.asked] == ["Bearer k1", None]


def test_an_abort_ends_a_call_that_waits(engine: LoopbackEngine) -> None:
    waits = threading.Event()

    def answer() -> Iterator[bytes]:
        yield b"a"
        waits.wait(10)

    engine.answer = answer
    call = UpstreamCall(declared(engine))
    call.send("POST", "/v1/completions", {}, b"{}")
    assert call.read() == b"a"
    threading.Timer(0.05, call.abort).start()
    with pytest.raises(UpstreamFailed):
        call.read()
    waits.set()
    call.close()


def test_an_abort_before_the_call_is_sent(engine: LoopbackEngine) -> None:
    call = UpstreamCall(declared(engine))
    call.abort()
    with pytest.raises(UpstreamFailed, match="given up"):
        call.send("POST", "/v1/completions", {}, b"{}")
    assert not engine.asked


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[LoopbackEngine, Path]]:
    """An engine with TLS, and the file of its authority."""
    made = make_certificates(tmp_path / "certificates", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    engine = LoopbackEngine(context)
    yield engine, made.authority
    engine.close()


def test_an_engine_whose_authority_is_trusted(secured: tuple[LoopbackEngine, Path]) -> None:
    engine, authority = secured
    assert Upstreams([declared(engine)], certificates=str(authority)).models() == {"cluster": ("far/llama",)}
    state = Upstreams([declared(engine)]).states()["cluster"]
    assert (state.is_up, "CERTIFICATE_VERIFY_FAILED" in state.detail) == (False, True)
    assert "DMR_CA_FILE" in Upstreams([declared(engine)], certificates="nowhere").states()["cluster"].detail


def test_an_abort_of_a_secured_call_that_waits(secured: tuple[LoopbackEngine, Path]) -> None:
    engine, authority = secured
    waits = threading.Event()

    def answer() -> Iterator[bytes]:
        yield b"a"
        waits.wait(10)

    engine.answer = answer
    call = UpstreamCall(declared(engine), "", lambda: trusting_context(str(authority), {}))
    call.send("POST", "/v1/completions", {}, b"{}")
    assert call.read() == b"a"
    threading.Timer(0.05, call.abort).start()
    with pytest.raises(UpstreamFailed):
        call.read()
    waits.set()
    call.close()


def test_silence_in_the_middle(engine: LoopbackEngine) -> None:
    waits = threading.Event()

    def answer() -> Iterator[bytes]:
        yield b"a"
        waits.wait(10)

    engine.answer = answer
    call = UpstreamCall(UpstreamEngine("cluster", engine.url, timeout=0.1))
    call.send("POST", "/v1/completions", {}, b"{}")
    assert call.read() == b"a"
    with pytest.raises(DeadlineExceeded, match=r"0\.1 seconds"):
        call.read()
    waits.set()
    call.close()


def test_what_speaks_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def mumble() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-nothing\r\n")

        threading.Thread(target=mumble, daemon=True).start()
        call = UpstreamCall(UpstreamEngine("cluster", f"http://127.0.0.1:{listener.getsockname()[1]}"))
        with pytest.raises(UpstreamFailed):
            call.send("GET", "/v1/models", {})


def call_of(said: bytes, then: Callable[[], object] = lambda: None) -> UpstreamCall:
    """A call that was sent to who says just this, and waits for `then` before it hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def say() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            connection.recv(1000)
            connection.sendall(said)
            then()

    threading.Thread(target=say, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    call = UpstreamCall(UpstreamEngine("cluster", url, timeout=10))
    call.send("POST", "/v1/completions", {}, b"{}")
    return call


def test_an_answer_that_is_shorter_than_it_said() -> None:
    call = call_of(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"half":')
    assert call.read() == b'{"half":'
    with pytest.raises(UpstreamFailed, match="ended its answer early"):
        call.read()
    call.close()


def test_who_does_not_hang_up_after_its_answer_is_not_waited_for() -> None:
    has_all = threading.Event()
    call = call_of(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", lambda: has_all.wait(10))
    assert call.read_all(100) == b"{}"
    assert not has_all.is_set()
    has_all.set()
    call.close()
