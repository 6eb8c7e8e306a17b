"""The shared responder: who is told what when things go wrong, and what is closed when."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from typing import Any

import falcon.testing
import pytest
from fakes import FakeService, FakeStream, Step

from dmr import errors
from dmr.types import Completed, Finished, FinishReason, Started, TextDelta, Tick, Usage
from dmr_server.dialect import COMMENT_INTERVAL, Client, EventStream, _opening
from dmr_server.errors import ClientGone, NotConfigured, retry_headers, row_of
from dmr_server.generation import Stamp
from dmr_server.openai.chat import read_chat

CHAT = "/v1/chat/completions"
BODY = {"model": "ai/smollm2", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def client_of(connection: socket.socket, **kwargs: Any) -> Client:
    return Client({"gunicorn.socket": connection}, **kwargs)


def test_a_quiet_client_is_there(pair: Pair) -> None:
    client_of(pair[0]).check()


def test_a_client_that_sends_more_is_there_and_keeps_its_bytes(pair: Pair) -> None:
    pair[1].sendall(b"GET")
    client_of(pair[0]).check()
    assert pair[0].recv(3) == b"GET"


def test_a_closed_client_is_gone(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(ClientGone):
        client_of(pair[0]).check()


def test_a_socket_that_fails_is_gone(pair: Pair) -> None:
    client = client_of(pair[0])
    pair[0].close()
    with pytest.raises(ClientGone):
        client.check()


def test_other_servers_tell_no_socket() -> None:
    Client({}).check()


def test_a_busy_stream_looks_now_and_then(pair: Pair) -> None:
    now = [0.0]
    client = client_of(pair[0], clock=lambda: now[0])
    pair[1].close()
    client.check(now=False)
    now[0] = 0.6
    with pytest.raises(ClientGone):
        client.check(now=False)


def stream_of(steps: list[Step], client: Client | None = None, **kwargs: Any) -> tuple[EventStream, FakeStream]:
    events = FakeStream(steps)
    encoder = read_chat({**BODY, "stream": True}, Stamp("id", 1)).encoder()
    return EventStream([Started(5)], events, encoder, client or Client({}), **kwargs), events


def test_closing_an_unread_stream_aborts_the_request() -> None:
    stream, events = stream_of([TextDelta(0, "a")])
    stream.close()
    assert events.closed
    assert events.num_played == 0


def test_closing_in_the_middle_aborts_the_request() -> None:
    stream, events = stream_of([TextDelta(0, "a"), TextDelta(0, "b")])
    next(stream)
    next(stream)
    stream.close()
    assert events.closed
    assert events.num_played == 1
    assert list(stream) == []


def test_a_gone_client_ends_the_stream_silently(pair: Pair) -> None:
    stream, events = stream_of([TextDelta(0, "a"), Tick(), TextDelta(0, "b")], client_of(pair[0]))
    assert b"assistant" in next(stream)
    assert b'"a"' in next(stream)
    pair[1].close()
    assert list(stream) == []
    assert events.closed
    assert events.num_played == 2


def test_a_silent_stream_says_that_it_lives() -> None:
    now = iter(range(0, 1000, 5))
    stream, _ = stream_of([Tick()] * 8, clock=lambda: float(next(now)))
    frames = list(stream)
    comments = [frame for frame in frames if frame.startswith(b":")]
    assert len(comments) == 2
    assert all(comment.endswith(b"\n\n") for comment in comments)
    assert COMMENT_INTERVAL == 15


@pytest.mark.parametrize("step", [RuntimeError("secret"), errors.ModelLoadFailed("It broke."), None])
def test_a_stream_that_breaks_ends_with_an_error_and_without_done(step: Step | None) -> None:
    steps: list[Step] = [TextDelta(0, "a")] if step is None else [TextDelta(0, "a"), step]
    stream, events = stream_of(steps)
    frames = list(stream)
    assert frames[-1].startswith(b'data: {"error":')
    assert b"secret" not in b"".join(frames)
    assert b"[DONE]" not in b"".join(frames)
    assert events.closed


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "type", "code"),
    [
        (errors.InvalidRequest("no", param="x"), 400, "invalid_request_error", None),
        (errors.InvalidReference("no"), 400, "invalid_request_error", "invalid_reference"),
        (errors.Unsupported("no"), 400, "invalid_request_error", "unsupported_value"),
        (errors.ModelNotFound("x"), 404, "invalid_request_error", "model_not_found"),
        (errors.Conflict("no"), 409, "invalid_request_error", "conflict"),
        (errors.StoreError("no"), 500, "server_error", "store_error"),
        (errors.ModelLoadFailed("no"), 500, "server_error", "model_load_failed"),
        (errors.Overloaded("no", retry_after=100), 503, "server_error", "overloaded"),
        (errors.TooManyRequests("no", retry_after=3), 429, "requests", "rate_limit_exceeded"),
        (errors.DeadlineExceeded("no"), 504, "server_error", "timeout"),
        (errors.EngineCrashed("no"), 503, "server_error", "engine_restarting"),
        (errors.ShuttingDown("no"), 503, "server_error", "shutting_down"),
        (errors.InternalError("no"), 500, "server_error", "internal_error"),
    ],
)
def test_errors_before_the_first_byte_get_a_true_status(
    client: falcon.testing.TestClient,
    service: FakeService,
    error: errors.DmrError,
    status: int,
    type: str,
    code: str | None,
    stream: bool,
) -> None:
    service.enqueue(Tick(), error)
    result = client.simulate_post(CHAT, json={**BODY, "stream": stream})
    assert result.status_code == status
    assert result.json == {"error": {"message": error.message, "type": type, "param": error.param, "code": code}}
    assert service.streams[0].closed


def test_what_goes_wrong_before_the_first_text_has_a_true_status_in_a_stream_too(
    client: falcon.testing.TestClient, service: FakeService
) -> None:
    service.enqueue(Started(5), Tick(), Tick(), errors.EngineCrashed("no"))
    result = client.simulate_post(CHAT, json={**BODY, "stream": True})
    assert (result.status_code, result.headers["retry-after"]) == (503, "1")
    assert service.streams[0].closed


def test_a_stream_begins_with_its_first_text_or_after_a_while() -> None:
    now = iter(itertools.count(0.0, 0.5))
    steps = [Started(5), *[Tick()] * 1000]
    events = FakeStream(steps)
    assert _opening(events, Client({}), lambda: next(now)) == [Started(5)]
    assert 15 <= events.num_played <= 25  # half a second each
    events = FakeStream([Tick(), Started(5), Tick(), TextDelta(0, "a"), TextDelta(0, "b")])
    assert _opening(events, Client({})) == [Started(5), TextDelta(0, "a")]
    assert not events.closed


SERVER_FAULTS = (
    errors.Unavailable,
    errors.StoreError,
    errors.RegistryError,
    errors.UpstreamFailed,
    NotConfigured,
    errors.ModelLoadFailed,
    errors.DeadlineExceeded,
    errors.InternalError,
)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", BODY, "messages"),
        ("chat/completions", {**BODY, "stream": True}, "messages"),
        ("completions", {"model": "ai/smollm2", "prompt": "Hi"}, "prompt"),
        ("infill", {"model": "ai/smollm2"}, "input_prefix"),
        ("embeddings", {"model": "ai/smollm2", "input": "Hi"}, "input"),
        ("rerank", {"model": "ai/smollm2", "query": "a", "documents": ["b"]}, "documents"),
        ("score", {"model": "ai/smollm2", "text_1": "a", "text_2": "b"}, "text_2"),
        ("chat/completions/input_tokens", BODY, "messages"),
    ],
)
def test_a_prompt_that_is_too_long_is_told_with_both_numbers(
    client: falcon.testing.TestClient, service: FakeService, path: str, body: dict[str, Any], param: str
) -> None:
    error = errors.ContextLengthExceeded(9000, 8192)
    service.enqueue(Tick(), error)
    service.replies.append(error)
    result = client.simulate_post(f"/v1/{path}", json=body)
    assert result.status_code == 400
    assert result.json["error"] == {
        "message": error.message,
        "type": "invalid_request_error",
        "param": param,
        "code": "context_length_exceeded",
        "n_prompt_tokens": 9000,
        "n_ctx": 8192,
    }
    assert "9000" in error.message
    assert "8192" in error.message


def test_the_numbers_may_be_lost_on_the_way(client: falcon.testing.TestClient, service: FakeService) -> None:
    error = errors.error_from_code("context_length_exceeded", "Too long.", "messages", None)
    service.enqueue(error)
    told = client.simulate_post("/v1/completions", json={"model": "ai/smollm2", "prompt": "Hi"}).json["error"]
    assert (told["code"], told["param"], "n_ctx" in told) == ("context_length_exceeded", "prompt", False)


def subclasses(kind: type[errors.DmrError]) -> Iterator[type[errors.DmrError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)


def test_every_error_has_a_status_of_its_own_kind() -> None:
    for kind in subclasses(errors.DmrError):
        if kind.__module__.startswith("dmr.cli"):  # never meets the server
            continue
        error = kind.__new__(kind)
        status = row_of(error).status
        assert (400 <= status < 500) == (not isinstance(error, SERVER_FAULTS) and kind is not errors.DmrError), kind


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (errors.InvalidRequest("no"), {}),
        (errors.Overloaded("no", retry_after=0.2), {"Retry-After": "1"}),
        (errors.Overloaded("no", retry_after=2.1), {"Retry-After": "3"}),
        (errors.Overloaded("no", retry_after=1000), {"Retry-After": "30"}),
        (errors.TooManyRequests("no", retry_after=7.5), {"Retry-After": "8"}),
        (errors.DeadlineExceeded("no"), {"x-should-retry": "false"}),
        (errors.Conflict("no"), {"x-should-retry": "false"}),
        (errors.InternalError("no"), {"x-should-retry": "false"}),
        (errors.ModelLoadFailed("no", retry_after=5), {"Retry-After": "5"}),
    ],
)
def test_clients_are_told_whether_to_repeat(error: errors.DmrError, headers: dict[str, str]) -> None:
    assert retry_headers(error) == headers


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("steps", [(RuntimeError("secret"),), (Tick(),), ()])
def test_defects_before_the_first_byte(
    client: falcon.testing.TestClient, service: FakeService, stream: bool, steps: tuple[Step, ...]
) -> None:
    service.enqueue(*steps)
    result = client.simulate_post(CHAT, json={**BODY, "stream": stream})
    assert (result.status_code, result.json["error"]["code"]) == (500, "internal_error")
    assert "secret" not in result.text
    assert service.streams[0].closed


def test_a_whole_answer_that_lacks_its_end_is_no_answer(
    client: falcon.testing.TestClient, service: FakeService
) -> None:
    service.enqueue(Started(5), TextDelta(0, "a"))
    assert client.simulate_post(CHAT, json=BODY).status_code == 500


def test_preloading_loads_and_says_nothing(client: falcon.testing.TestClient, service: FakeService) -> None:
    result = client.simulate_post(CHAT, json={"model": "ai/smollm2"}, headers={"X-Preload-Only": "true"})
    assert (result.status_code, result.content) == (200, b"")
    assert service.preloaded == ["ai/smollm2"]
    assert not service.requests
    unknown = client.simulate_post(CHAT, json={"model": "nobody/no"}, headers={"X-Preload-Only": "true"})
    assert unknown.status_code == 404


@pytest.mark.parametrize("stream", [True, False])
def test_only_a_streamed_answer_is_wanted_in_pieces(
    client: falcon.testing.TestClient, service: FakeService, stream: bool
) -> None:
    service.enqueue(Started(1), TextDelta(0, "x"), Finished(0, FinishReason.STOP), Completed(Usage()))
    assert client.simulate_post(CHAT, json={**BODY, "stream": stream}).status_code == 200
    assert service.in_pieces == [stream]


def test_the_order_of_samplers_is_passed_on(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(Started(1), TextDelta(0, "x"), Finished(0, FinishReason.STOP), Completed(Usage()))
    assert client.simulate_post(CHAT, json={**BODY, "samplers": ["top_k", "temperature"]}).status_code == 200
    assert service.requests[0].sampling.order == ("top_k", "temperature")
    assert client.simulate_post(CHAT, json={**BODY, "samplers": "top_k"}).status_code == 400
