"""Keys: who is let in, to what, how much, and how a refusal is told in each dialect."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import falcon.testing
import pytest
from fakes import FakeService, model_record
from server.conftest import ANSWER

from dmr.config import Settings, UpstreamEngine
from dmr.config.keys import ApiKey, digest_of_key, format_key
from dmr.errors import DmrError, InvalidRequest
from dmr.service.upstreams import Upstreams
from dmr_server.app import create_app, routes
from dmr_server.generation import Stamps
from dmr_server.key_limits import KeyLimits
from dmr_server.keys import KeyRing
from dmr_server.scopes import scope_of

USER, ADMIN, SCRAPER = "user-key-0123456789", "admin-key-0123456789", "scraper-key-0123456789"
CHAT = {"model": "ai/smollm2", "messages": [{"role": "user", "content": "hi"}]}
Client = falcon.testing.TestClient
Make = Callable[..., Client]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def write_keys(path: Path, *keys: ApiKey) -> None:
    part = path.with_suffix(".part")
    part.write_text("\n".join(map(format_key, keys)))
    part.replace(path)


def api_key(name: str, plain: str, *scopes: str, **fields: Any) -> ApiKey:
    return ApiKey(name=name, digest=digest_of_key(plain), scopes=frozenset(scopes or ["inference"]), **fields)


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    write_keys(
        path,
        api_key("user", USER),
        api_key("boss", ADMIN, "admin"),
        api_key("prometheus", SCRAPER, "metrics"),
        api_key("late", "expired-key-0123456789", expires=1000.0),
    )
    return path


@pytest.fixture
def make(keys_file: Path, tmp_path: Path) -> Make:
    def made(*keys: ApiKey, **settings: Any) -> Client:
        if keys:
            write_keys(keys_file, *keys)
        service = FakeService([model_record("docker.io/ai/smollm2:latest")])
        for _ in range(3):
            service.enqueue(*ANSWER)
        made.service = service  # type: ignore[attr-defined]
        app = create_app(cast(Any, service), Settings(keys=keys_file, runtime_dir=tmp_path, **settings))
        return Client(app)

    return made


@pytest.mark.parametrize(
    "headers",
    [bearer(USER), {"Authorization": f"bearer  {USER} "}, {"x-api-key": USER}, {**bearer("wrong"), "x-api-key": USER}],
)
def test_a_key_is_taken_in_either_header(headers: dict[str, str], make: Make) -> None:
    client = make()
    assert client.simulate_post("/v1/chat/completions", json=CHAT, headers=headers).status_code == 200
    assert make.service.requests[-1].client == "key:user"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("nobody's"),
        bearer(""),
        {"Authorization": USER},
        {"Authorization": f"Basic {USER}"},
        {"x-api-key": USER[:-1]},
        bearer(USER + "x"),
        bearer(USER.upper()),
        bearer("expired-key-0123456789"),
        bearer(digest_of_key(USER).hex()),
        bearer("ü" * 20),
    ],
)
def test_others_are_not_let_in(headers: dict[str, str], make: Make) -> None:
    answer = make().simulate_get("/v1/models", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
def test_probes_need_no_key(path: str, make: Make) -> None:
    assert make().simulate_get(path).status_code == 200


def test_each_dialect_tells_a_refusal_in_its_own_way(make: Make) -> None:
    client = make()
    told = client.simulate_post("/v1/chat/completions", json=CHAT).json["error"]
    assert (told["type"], told["code"]) == ("invalid_request_error", "invalid_api_key")
    assert "Authorization: Bearer" in told["message"]
    answer = client.simulate_post("/v1/messages", json=CHAT, headers={"x-api-key": "wrong"})
    assert answer.status_code == 401
    assert answer.json["error"]["type"] == "authentication_error"
    assert answer.json["type"] == "error"
    answer = client.simulate_post("/api/chat", json=CHAT)
    assert answer.status_code == 401
    assert isinstance(answer.json["error"], str)
    answer = client.simulate_get("/models")
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("text/plain")
    answer = client.simulate_post("/api/pull", json={"model": "x"}, headers=bearer(USER))
    assert answer.status_code == 403
    assert "'admin'" in answer.json["error"]
    answer = client.simulate_delete("/v1/models/ai/smollm2", headers=bearer(USER))
    assert answer.status_code == 403
    assert answer.json["error"]["type"] == "permission_error"


def test_a_refusal_says_nothing_of_the_key(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    answer = make().simulate_get("/v1/models", headers=bearer("canary-of-a-wrong-key"))
    assert "canary" not in answer.text
    assert "canary" not in caplog.text


def test_preflights_of_browsers_bring_no_key(make: Make) -> None:
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Headers": "authorization"}
    answer = make().simulate_options("/v1/chat/completions", headers=headers)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-headers"] == "authorization"


ADMIN_ONLY = {
    ("POST", "/models/{name:model}"),
    ("DELETE", "/models/{name:model}"),
    ("POST", "/engines/unload"),
    ("POST", "/engines/install-backend"),
    ("POST", "/engines/uninstall-backend"),
    *((method, "/engines/_configure") for method in ("GET", "HEAD", "POST", "DELETE")),
    *((method, "/engines/{backend}/_configure") for method in ("GET", "HEAD", "POST", "DELETE")),
    *(("DELETE", f"{root}/v1/models/{{name:model}}") for root in ("", "/engines", "/engines/{backend}")),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("POST", "/api/create"),
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("POST", "/api/blobs/{digest}"),
    *(("GET", path) for path in ("/logs", "/engines/requests")),
    *(("HEAD", path) for path in ("/logs", "/engines/requests")),
    ("DELETE", "/engines/requests"),
}


def test_which_routes_are_for_administrators(service: FakeService, settings: Settings) -> None:
    """A new route that changes something is for them until it is known to be harmless."""
    found = set()
    for template, resource in routes(cast(Any, service), settings, Stamps()).items():
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            if not hasattr(resource, f"on_{method.lower()}"):
                continue
            req = falcon.testing.create_req(method=method, path="/x")
            req.uri_template = template
            if scope_of(req, resource) == "admin":
                found.add((method, template))
    assert found == ADMIN_ONLY


@pytest.mark.parametrize(
    ("key", "statuses"),
    [(USER, (200, 403, 403)), (ADMIN, (200, 200, 200)), (SCRAPER, (403, 403, 200))],
)
def test_scopes(key: str, statuses: tuple[int, ...], make: Make) -> None:
    client = make()
    found = [client.simulate_get(path, headers=bearer(key)).status_code for path in ("/models", "/logs", "/metrics")]
    found[1] = 200 if found[1] in (404, 501) else found[1]  # there are no logs here
    assert tuple(found) == statuses


def test_weights_reach_the_engine(make: Make) -> None:
    client = make(api_key("heavy", USER, weight=4.0))
    client.simulate_post("/v1/chat/completions", json=CHAT, headers=bearer(USER))
    client.simulate_post("/api/chat", json=CHAT, headers=bearer(USER))
    assert [request.weight for request in make.service.requests] == [4.0, 4.0]  # type: ignore[attr-defined]


def test_without_keys_any_key_will_do(tmp_path: Path) -> None:
    service = FakeService([model_record("docker.io/ai/smollm2:latest")])
    client = Client(create_app(cast(Any, service), Settings()))
    assert client.simulate_get("/logs", headers=bearer("anything")).status_code != 401


def test_engines_elsewhere_are_behind_the_keys_too(keys_file: Path, tmp_path: Path) -> None:
    service = FakeService([])
    service.upstreams = Upstreams((UpstreamEngine("far", "http://127.0.0.1:9", models=("m",)),))
    client = Client(create_app(cast(Any, service), Settings(keys=keys_file, runtime_dir=tmp_path)))
    assert client.simulate_get("/engines/far/v1/models").status_code == 401
    assert client.simulate_get("/engines/far/v1/models", headers=bearer(USER)).status_code == 200
    assert client.simulate_delete("/engines/far/v1/models/m", headers=bearer(USER)).status_code == 403
    assert client.simulate_post("/v1/chat/completions", json={**CHAT, "model": "m"}).status_code == 401


# --- limits ----------------------------------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_requests_at_a_time_are_counted_over_all_workers(tmp_path: Path) -> None:
    key = api_key("two", USER, max_requests=2)
    workers = [KeyLimits(tmp_path / "limits"), KeyLimits(tmp_path / "limits")]
    held = [worker.enter(key) for worker in workers]
    for worker in workers:
        with pytest.raises(DmrError, match="2 requests in progress"):
            worker.enter(key)
    KeyLimits(tmp_path / "limits").enter(api_key("other", ADMIN, max_requests=1)).leave(0)  # others have their own
    held[0].leave(0)
    held[0].leave(0)
    workers[1].enter(key).leave(0)
    held[1].leave(0)


def test_requests_in_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    limits, key = KeyLimits(tmp_path, clock), api_key("slow", USER, requests_per_minute=3)
    for _ in range(3):
        limits.enter(key).leave(0)
    with pytest.raises(DmrError, match="3 requests a minute") as caught:
        limits.enter(key)
    assert caught.value.retry_after == pytest.approx(20)
    clock.now += 20.1
    limits.enter(key).leave(0)
    with pytest.raises(DmrError):
        limits.enter(key)
    clock.now += 1e6
    for _ in range(3):
        limits.enter(key).leave(0)
    with pytest.raises(DmrError):
        limits.enter(key)


def test_tokens_in_a_minute_are_paid_afterwards(tmp_path: Path) -> None:
    clock = Clock()
    limits, key = KeyLimits(tmp_path, clock), api_key("small", USER, tokens_per_minute=60, max_requests=1)
    limits.enter(key).leave(90)
    with pytest.raises(DmrError, match="60 tokens a minute") as caught:
        limits.enter(key)
    assert caught.value.retry_after == pytest.approx(31)
    clock.now += 31
    limits.enter(key).leave(0)  # and the refusals hold no place


def test_a_boot_in_between_forgets_what_was_used(tmp_path: Path) -> None:
    clock = Clock()
    key = api_key("slow", USER, requests_per_minute=1)
    KeyLimits(tmp_path, clock).enter(key).leave(0)
    clock.now = 3.0
    KeyLimits(tmp_path, clock).enter(key).leave(0)


@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_charged_and_their_places_given_back(stream: bool, make: Make) -> None:
    client = make(api_key("user", USER, max_requests=1, tokens_per_minute=8))
    body = {**CHAT, "stream": stream}
    assert client.simulate_post("/v1/chat/completions", json=body, headers=bearer(USER)).status_code == 200
    answer = client.simulate_post("/v1/chat/completions", json=body, headers=bearer(USER))  # 5 + 2 of 8 are used
    assert answer.status_code == 200
    answer = client.simulate_post("/v1/chat/completions", json=body, headers=bearer(USER))
    assert answer.status_code == 429
    assert answer.json["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    assert client.simulate_get("/v1/models", headers=bearer(USER)).status_code == 200  # looking is free


def test_a_request_that_fails_gives_its_place_back(make: Make) -> None:
    client = make(api_key("user", USER, max_requests=1))
    for _ in range(3):
        answer = client.simulate_post("/v1/chat/completions", body=b"{", headers=bearer(USER))
        assert answer.status_code == 400


def test_a_stream_that_is_not_read_gives_its_place_back(make: Make) -> None:
    client = make(api_key("user", USER, max_requests=1))
    statuses: list[str] = []
    for _ in range(3):
        environ = falcon.testing.create_environ(
            "/v1/chat/completions",
            method="POST",
            headers={**bearer(USER), "Content-Type": "application/json"},
            body=b'{"model": "ai/smollm2", "stream": true, "messages": [{"role": "user", "content": "hi"}]}',
        )
        body = client.app(environ, lambda status, headers, *_: statuses.append(status))
        assert statuses[-1].startswith("200")
        cast(Any, body).close()


# --- the file changes ------------------------------------------------------------------------------------------------


def test_keys_change_while_the_server_runs(keys_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    ring = KeyRing(keys_file, clock)
    write_keys(keys_file, api_key("new", "another-key-0123456789"))
    assert ring.find(USER) is not None  # it is not looked at all the time
    clock.now += 2
    assert ring.find(USER) is None
    found = ring.find("another-key-0123456789")
    assert found is not None
    assert found.name == "new"
    keys_file.write_text("[broken")
    clock.now += 2
    assert ring.find("another-key-0123456789") == found
    assert "The keys stay as they were" in caplog.text
    keys_file.unlink()
    clock.now += 2
    assert ring.find("another-key-0123456789") == found


def test_a_keys_file_that_is_wrong_ends_the_start(keys_file: Path) -> None:
    keys_file.write_text("[broken")
    with pytest.raises(InvalidRequest, match="is not TOML"):
        create_app(cast(Any, FakeService([])), Settings(keys=keys_file))
    os.unlink(keys_file)  # noqa: PTH108
    with pytest.raises(InvalidRequest, match="cannot be read"):
        create_app(cast(Any, FakeService([])), Settings(keys=keys_file))


@pytest.mark.parametrize("query", ["remote", "remote=", "remote=true", "remote=1"])
def test_a_registry_is_asked_for_administrators_only(query: str, make: Make) -> None:
    client = make()
    path = "/models/ai/smollm2"
    assert client.simulate_get(path, query_string=query, headers=bearer(USER)).status_code == 403
    assert client.simulate_get(path, headers=bearer(USER)).status_code == 200
