"""Pages of other sites, and names that are pointed here: what a browser may do, and how it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import falcon.testing
import pytest
from fakes import FakeService, model_record
from server.conftest import ANSWER

from dmr.config import Settings, read_settings
from dmr.config.reachability import is_loopback
from dmr.errors import InvalidRequest
from dmr_server.app import create_app

Client = falcon.testing.TestClient
Make = Callable[..., Client]

LOCAL = [
    "http://localhost",
    "https://localhost",
    "http://localhost:3000",
    "https://127.0.0.1:8443",
    "http://0.0.0.0:1",
    "http://[::1]:5173",
    "HTTP://LOCALHOST:3000",
]
FOREIGN = [
    "https://evil.example",
    "http://localhost.evil.example",
    "http://localhost:3000.evil.example",
    "http://localhost:",
    "http://localhost:3000/",
    "http://127.0.0.10",
    "ftp://localhost",
    "null",
    "",
    "file://",
    "http://xlocalhost",
]


@pytest.fixture
def make() -> Make:
    def made(**settings: Any) -> Client:
        service = FakeService([model_record("docker.io/ai/smollm2:latest")])
        return Client(create_app(cast(Any, service), Settings(**settings)))

    return made


@pytest.mark.parametrize("origin", LOCAL)
def test_pages_of_this_machine_may_ask_and_read(origin: str, make: Make) -> None:
    answer = make().simulate_get("/v1/models", headers={"Origin": origin})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_pages_of_other_sites_get_nothing(origin: str, method: str, make: Make) -> None:
    answer = make().simulate_request(method, "/v1/models", headers={"Origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"


def test_a_refused_request_does_nothing() -> None:
    service = FakeService([model_record("docker.io/ai/smollm2:latest")])
    client = Client(create_app(cast(Any, service), Settings()))
    answer = client.simulate_delete("/models/smollm2", headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert not service.removed


def test_who_is_no_browser_is_not_asked(make: Make) -> None:
    answer = make().simulate_get("/v1/models")
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("origins", "allowed", "refused"),
    [
        (["https://app.example"], ["https://app.example", "http://localhost:1"], ["https://app.example:8443"]),
        (["https://app.example/"], ["https://app.example"], ["http://app.example"]),
        (["http://app.example:*"], ["http://app.example", "http://app.example:81"], ["http://app.example:81.x"]),
        (["https://*.app.example"], ["https://a.app.example", "https://a.b.app.example"], ["https://app.example"]),
        (["chrome-extension://*"], ["chrome-extension://abcdef"], ["chrome-extension://a/b", "moz-extension://a"]),
        (["*"], ["https://evil.example", "null", "file://"], []),
        (["https://x.example", "*"], ["https://evil.example"], []),
    ],
)
def test_the_settings_name_more(origins: list[str], allowed: list[str], refused: list[str], make: Make) -> None:
    client = make(origins=tuple(origins))
    for origin in allowed:
        answer = client.simulate_get("/api/tags", headers={"Origin": origin})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
    for origin in refused:
        assert client.simulate_get("/api/tags", headers={"Origin": origin}).status_code == 403


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/models/create", "/anthropic/v1/messages"])
def test_what_is_asked_before_a_request_is_allowed(path: str, make: Make) -> None:
    asked = {
        "Origin": "http://localhost:3000",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
    }
    answer = make().simulate_options(path, headers=asked)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
    assert {"GET", "POST", "DELETE", "PUT"} <= set(answer.headers["access-control-allow-methods"].split(", "))
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "access-control-allow-private-network" not in answer.headers
    private = make().simulate_options(path, headers={**asked, "Access-Control-Request-Private-Network": "true"})
    assert private.headers["access-control-allow-private-network"] == "true"


def test_errors_can_be_read_by_pages_too(make: Make) -> None:
    answer = make().simulate_post("/v1/chat/completions", body="{", headers={"Origin": "http://localhost:3000"})
    assert answer.status_code == 400
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_streams_can_be_read_by_pages_too() -> None:
    service = FakeService([model_record("docker.io/ai/smollm2:latest")])
    service.enqueue(*ANSWER)
    client = Client(create_app(cast(Any, service), Settings()))
    body = {"model": "smollm2", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    answer = client.simulate_post("/v1/chat/completions", json=body, headers={"Origin": "http://localhost:3000"})
    assert "[DONE]" in answer.text
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_refusals_have_the_shape_of_the_api(make: Make) -> None:
    headers = {"Origin": "https://evil.example"}
    error = make().simulate_post("/v1/chat/completions", json={}, headers=headers).json["error"]
    assert (error["type"], error["code"]) == ("permission_error", "origin_not_allowed")
    assert "DMR_ORIGINS" in error["message"]
    assert make().simulate_post("/anthropic/v1/messages", json={}, headers=headers).json["error"]["type"] == (
        "permission_error"
    )
    assert "DMR_ORIGINS" in make().simulate_post("/api/chat", json={}, headers=headers).json["error"]
    assert make().simulate_get("/models", headers=headers).text.startswith("Origin not allowed")


# --- names -----------------------------------------------------------------------------------------------------------

OWN_NAMES = [
    "localhost",
    "localhost:12434",
    "LOCALHOST",
    "dmr.localhost:12434",
    "127.0.0.1",
    "127.0.0.1:12434",
    "[::1]:12434",
    "192.168.1.5:80",
    "0.0.0.0:12434",
    "my-machine",
    "my-machine.local:12434",
    "host.docker.internal:12434",
    "model-runner.docker.internal",
    "model-runner.docker.internal.",
]
STRANGE_NAMES = [
    "evil.example",
    "evil.example:12434",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "xlocal.evil",
    "a b",
    "evil.example:80:80",
    "127.0.0.1@evil.example",
    "[evil.example]",
]


@pytest.mark.parametrize("name", OWN_NAMES)
def test_a_local_server_answers_to_names_that_nobody_can_point_here(name: str, make: Make) -> None:
    assert make().simulate_get("/v1/models", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_local_server_does_not_answer_to_strangers_names(name: str, make: Make) -> None:
    answer = make().simulate_get("/v1/models", headers={"Host": name})
    assert answer.status_code == 403
    assert answer.json["error"]["code"] == "host_not_allowed"
    assert make(host="::1").simulate_get("/v1/models", headers={"Host": name}).status_code == 403


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_server_for_others_may_have_any_name(name: str, make: Make) -> None:
    assert make(host="0.0.0.0").simulate_get("/v1/models", headers={"Host": name}).status_code == 200


def test_a_name_that_an_origin_has_is_known(make: Make) -> None:
    client = make(origins=("https://dmr.example", "https://*.corp.example:*"))
    for name in ("dmr.example", "DMR.example", "a.corp.example", "a.corp.example:8443"):
        assert client.simulate_get("/v1/models", headers={"Host": name}).status_code == 200
    assert client.simulate_get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
    assert make(origins=("*",)).simulate_get("/v1/models", headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("my-machine", False),
    ],
)
def test_who_can_reach_an_address(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


# --- settings --------------------------------------------------------------------------------------------------------


def test_origins_are_settings() -> None:
    assert read_settings({"DMR_ORIGINS": "https://a.example, *"}).origins == ("https://a.example", "*")


@pytest.mark.parametrize("text", ["a.example", "localhost:3000", "https://a.example/path", "https://a b"])
def test_what_can_match_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not like https://") as caught:
        read_settings({"DMR_ORIGINS": f"*,{text}"})
    assert caught.value.param == "DMR_ORIGINS"
