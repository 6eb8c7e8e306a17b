"""The tables of documented fields say what the code does: every example is sent."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
from fakes import FakeService

from dmr.config import Settings
from dmr.types import Embeddings, Scores, TokenCount, Tokens
from dmr_server.handling import Field, Route

PACKAGES = ("openai", "responses", "anthropic", "ollama")


def all_routes() -> Iterator[tuple[str, Route]]:
    for package in PACKAGES:
        module = importlib.import_module(f"dmr_server.{package}.handling")
        for route in module.HANDLING:
            yield package, route


def cases(status: str) -> list[Any]:
    return [
        pytest.param(route, name, field, id=f"{package}:{route.path}:{name}")
        for package, route in all_routes()
        for name, field in route.fields.items()
        if field.status == status
    ]


def with_field(body: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A copy of `body` with `a.b` set inside of `a`."""
    body = json.loads(json.dumps(body))
    inner = body
    *parents, last = name.split(".")
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return body


class Observer:
    """Sends bodies and tells all that can be seen of each."""

    def __init__(self, client: falcon.testing.TestClient, service: FakeService, answer: tuple[Any, ...]) -> None:
        self._client = client
        self._service = service
        service.features = (*service.features, "vision")
        self._answer = answer

    def send(self, route: Route, body: dict[str, Any]) -> falcon.testing.Result:
        self._service.enqueue(*self._answer)
        self._service.replies.clear()
        self._service.replies.append(self._reply(route.path, body))
        return self._client.simulate_post(route.path, json={"model": "ai/smollm2", **body})

    def see(self, route: Route, body: dict[str, Any]) -> tuple[Any, ...]:
        asked = len(self._service.requests), len(self._service.calls), len(self._service.counted)
        preloaded, unloaded = len(self._service.preloaded), len(self._service.unloaded)
        moved, created = len(self._service.transfers), len(self._service.created)
        result = self.send(route, body)
        assert result.status_code == 200, f"{body}: {result.text}"
        return (
            self._service.requests[asked[0] :],
            self._service.calls[asked[1] :],
            self._service.counted[asked[2] :],
            self._service.preloaded[preloaded:],
            self._service.unloaded[unloaded:],
            self._service.transfers[moved:],
            self._service.created[created:],
            result.headers.get("content-type"),
            result.content,
        )

    @staticmethod
    def _reply(path: str, body: dict[str, Any]) -> Any:
        if "detokenize" in path:
            return "text"
        if "tokenize" in path:
            return Tokens((1, 2), (b"te", b"xt"))
        if "rerank" in path or "score" in path:
            return Scores((0.25, 0.75), 7)
        if "template" in path or body.get("_debug_render_only"):
            return "<prompt>"
        if "embed" in path:
            return Embeddings((b"\x00\x00\x80\x3f\x00\x00\x00\x00",), (3,))
        return TokenCount(12, 2048)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(max_body_bytes=100_000, models_path=tmp_path)


@pytest.fixture
def observer(client: falcon.testing.TestClient, service: FakeService, answer: tuple[Any, ...]) -> Observer:
    return Observer(client, service, answer)


@pytest.mark.parametrize(("route", "name", "field"), cases("honoured"))
def test_an_honoured_field_changes_something(observer: Observer, route: Route, name: str, field: Field) -> None:
    body = {**route.body, **field.base}
    assert observer.see(route, with_field(body, name, field.example)) != observer.see(route, body)


@pytest.mark.parametrize(("route", "name", "field"), cases("ignored"))
def test_an_ignored_field_changes_nothing(observer: Observer, route: Route, name: str, field: Field) -> None:
    body = {**route.body, **field.base}
    assert observer.see(route, with_field(body, name, field.example)) == observer.see(route, body)


@pytest.mark.parametrize(("route", "name", "field"), cases("refused"))
def test_a_refused_field_is_a_clear_400(observer: Observer, route: Route, name: str, field: Field) -> None:
    body = {**route.body, **field.base}
    assert observer.send(route, body).status_code == 200
    result = observer.send(route, with_field(body, name, field.example))
    assert 400 <= result.status_code < 500, result.text
    assert name.rpartition(".")[2] in result.text or field.note


@pytest.mark.parametrize(("package", "route"), [pytest.param(*case, id=case[1].path) for case in all_routes()])
def test_every_documented_route_is_served(observer: Observer, package: str, route: Route) -> None:
    assert observer.send(route, dict(route.body)).status_code == 200
