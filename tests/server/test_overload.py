"""Too much to do: what each API tells a client that has to wait, and who counts as one client."""

from __future__ import annotations

from typing import Any

import falcon.testing
import msgspec
import pytest
from fakes import FakeService

from dmr.errors import DeadlineExceeded, DmrError, Overloaded, TooManyRequests
from dmr.types import Started, TextDelta, Tick
from dmr_server.dialect import who
from dmr_server.docker import DockerDialect

MESSAGES = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi", "store": False},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/api/chat": {"messages": MESSAGES},
    "/api/generate": {"prompt": "Hi"},
}
FULL = Overloaded("1024 sequences are in progress already.", retry_after=6.2)
BUSY = TooManyRequests("You have 528 sequences in progress already.", retry_after=6.2)
LATE = DeadlineExceeded("The answer was not complete after 60 seconds.")


def shape(path: str, error: DmrError) -> tuple[int, str]:
    """The status, and what of the body clients look at."""
    if path == "/v1/messages":
        return {FULL: (529, "overloaded_error"), BUSY: (429, "rate_limit_error"), LATE: (504, "timeout_error")}[error]
    if path.startswith("/api"):
        busy_words = "server busy, please try again.  maximum pending requests exceeded"  # Ollama's own
        return {FULL: (503, busy_words), BUSY: (429, BUSY.message), LATE: (504, LATE.message)}[error]
    return {FULL: (503, "overloaded"), BUSY: (429, "rate_limit_exceeded"), LATE: (504, "timeout")}[error]


def told(path: str, body: dict[str, Any]) -> str:
    error = body["error"]
    if path.startswith("/api"):
        return str(error)
    return str(error["type"] if path == "/v1/messages" else error["code"])


@pytest.mark.parametrize("error", [FULL, BUSY, LATE], ids=lambda error: error.code)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", BODIES)
def test_a_refusal_has_the_apis_own_shape(
    client: falcon.testing.TestClient, service: FakeService, path: str, stream: bool, error: DmrError
) -> None:
    service.enqueue(Tick(), error)
    result = client.simulate_post(path, json={"model": "ai/smollm2", "stream": stream, **BODIES[path]})
    assert (result.status_code, told(path, result.json)) == shape(path, error)
    assert result.headers.get("retry-after") == (None if error is LATE else "7")
    assert ("x-should-retry" in result.headers) == (error is LATE)  # it would take as long again


@pytest.mark.parametrize("error", [FULL, BUSY, LATE], ids=lambda error: error.code)
@pytest.mark.parametrize("path", BODIES)
def test_in_a_stream_it_is_the_last_event(
    client: falcon.testing.TestClient, service: FakeService, path: str, error: DmrError
) -> None:
    service.enqueue(Started(5), TextDelta(0, "a"), error)
    result = client.simulate_post(path, json={"model": "ai/smollm2", "stream": True, **BODIES[path]})
    assert result.status_code == 200
    last = [line for line in result.text.splitlines() if line][-1].removeprefix("data: ")
    body = msgspec.json.decode(last)
    if path == "/v1/responses":
        expected = "server_error" if error is LATE else "rate_limit_exceeded"
        assert body["response"]["error"]["code"] == expected
    else:
        assert told(path, body) == shape(path, error)[1]


@pytest.mark.parametrize("error", [FULL, BUSY])
def test_calls_without_text_are_refused_alike(
    client: falcon.testing.TestClient, service: FakeService, error: DmrError
) -> None:
    for path in ("/v1/embeddings", "/api/embed"):
        service.replies.append(error)
        result = client.simulate_post(path, json={"model": "ai/smollm2", "input": "Hi"})
        assert (result.status_code, told(path, result.json)) == shape("/v1/x" if "v1" in path else path, error)
        assert result.headers["retry-after"] == "7"


def test_where_errors_are_text(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.failure = FULL
    result = client.simulate_get("/models")
    assert (result.status_code, result.headers["retry-after"]) == (503, "7")
    assert DockerDialect().error(BUSY, "") == (429, f"{BUSY.message}\n".encode())


# --- who is one client -----------------------------------------------------------------------------------------------


def named(**headers: str) -> str:
    request = falcon.testing.create_req(
        headers={name.replace("_", "-"): value for name, value in headers.items()}, remote_addr="10.0.0.5"
    )
    return who(request)


def test_a_key_is_one_client_in_whichever_header_it_comes() -> None:
    one = named(Authorization="Bearer sk-1")
    assert one == named(Authorization="bearer  sk-1 ") == named(x_api_key="sk-1")
    assert named(Authorization="Bearer sk-1", x_api_key="sk-2") == one
    others = {named(Authorization="Bearer sk-2"), named(Authorization="Basic sk-1"), named(x_api_key="sk-3")}
    assert len({one, *others}) == 4
    assert "sk-1" not in one


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer"}, {"Authorization": "Bearer  "}, {"x_api_key": ""}])
def test_without_a_key_it_is_the_address(headers: dict[str, str]) -> None:
    assert named(**headers) == "10.0.0.5"
