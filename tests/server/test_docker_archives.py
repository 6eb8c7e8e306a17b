"""Load, export, repackage and purge, in upstream's words and shapes."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest
from fakes import FakeService, model_record

from dmr.errors import Conflict, InvalidModelFile, InvalidReference, StoreError
from dmr.types import ModelRecord, Repackaging

ID = "sha256:" + "ab" * 32


def test_load(client: falcon.testing.TestClient, service: FakeService) -> None:
    content = bytes(3_000_000)  # over the limit of JSON bodies: it is no such body
    result = client.simulate_post("/models/load", body=content)
    assert result.status_code == 200
    assert result.headers["content-type"].startswith("text/plain")
    assert result.text.endswith("}\n")
    assert result.json == {
        "type": "success",
        "message": "Model loaded successfully",
        "total": 0,
        "layer": {"size": 0, "current": 0},
        "mode": "pull",
        "id": ID,
        "tags": [],
    }
    assert service.storekeeping.loaded == [(content, "")]


def test_load_under_a_name(client: falcon.testing.TestClient, service: FakeService) -> None:
    result = client.simulate_post(
        "/models/load", query_string="reference=me/x:v1", body=b"tar", headers={"Accept": "application/json"}
    )
    assert result.json["tags"] == ["docker.io/me/x:v1"]
    assert result.headers["content-type"] == "application/json"
    assert service.storekeeping.loaded == [(b"tar", "me/x:v1")]


@pytest.mark.parametrize(
    ("failure", "status"), [(InvalidModelFile("no tar archive"), 400), (StoreError("the disk is full"), 500)]
)
def test_a_load_that_fails(
    client: falcon.testing.TestClient, service: FakeService, failure: Exception, status: int
) -> None:
    service.failure = failure
    result = client.simulate_post("/models/load", body=b"junk")
    assert (result.status_code, result.text) == (status, f"error while loading model: {failure}\n")


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [({"content-encoding": "gzip"}, b"x", 415), ({"content-type": "multipart/form-data"}, b"x", 415), ({}, b"", 400)],
)
def test_load_of_something_else(
    client: falcon.testing.TestClient, headers: dict[str, str], body: bytes, status: int
) -> None:
    assert client.simulate_post("/models/load", body=body, headers=headers).status_code == status


@pytest.mark.parametrize("name", ["ai/smollm2", "ai/smollm2:135M-Q4_1", ID])
def test_export(client: falcon.testing.TestClient, service: FakeService, name: str) -> None:
    result = client.simulate_get(f"/models/{name}/export")
    assert result.status_code == 200
    assert result.headers["content-type"] == "application/x-tar"
    assert result.headers["content-disposition"] == f'attachment; filename="{name}.tar"'
    assert int(result.headers["content-length"]) == len(result.content) == 2048
    assert result.content.startswith(b"manifest.json\0")


def test_only_the_head_of_an_export(client: falcon.testing.TestClient, service: FakeService) -> None:
    result = client.simulate_head("/models/ai/smollm2/export")
    assert (result.status_code, result.headers["content-length"], result.content) == (200, "2048", b"")


def test_an_export_of_what_is_not_there_fails_before_anything_is_sent(client: falcon.testing.TestClient) -> None:
    result = client.simulate_get("/models/nope/export")
    assert (result.status_code, result.text) == (404, "error while exporting model: model not found\n")


def test_a_model_may_be_called_like_the_action(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.models.append(model_record("docker.io/me/export:latest"))
    assert client.simulate_get("/models/me/export").json["tags"] == ["docker.io/me/export:latest"]
    service.models.append(model_record("docker.io/me:latest"))
    assert client.simulate_get("/models/me/export").headers["content-type"] == "application/x-tar"


def test_a_name_that_is_none_with_the_action_behind_it(
    client: falcon.testing.TestClient, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = service.get_model

    def get_model(name: str) -> ModelRecord:
        if name.endswith("/export"):
            raise InvalidReference(name)  # as for `smollm2:v1/export`
        return known(name)

    monkeypatch.setattr(service, "get_model", get_model)
    assert client.simulate_get("/models/ai/smollm2/export").headers["content-type"] == "application/x-tar"


def test_repackage(client: falcon.testing.TestClient, service: FakeService) -> None:
    body: dict[str, Any] = {"target": "me/big", "context_size": 4096}
    result = client.simulate_post("/models/ai/smollm2/repackage", json=body)
    assert result.status_code == 201
    assert result.json == {
        "message": 'Model repackaged successfully as "me/big"',
        "source": "ai/smollm2",
        "target": "me/big",
    }
    more = {"chat_template": "{{ x }}", "licenses": ["a", "b"], "mmproj": ID, "format": "cncf"}
    assert client.simulate_post("/models/ai/smollm2/repackage", json={"target": "y", **more}).status_code == 201
    assert service.storekeeping.repackaged == [
        ("ai/smollm2", Repackaging("me/big", 4096)),
        ("ai/smollm2", Repackaging("y", None, "{{ x }}", ID, ("a", "b"), "cncf")),
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("ai/smollm2", b"{}", 400, "error while repackaging model: target is required\n"),
        ("ai/smollm2", b'{"target":7}', 400, "invalid request body: Expected `str`"),
        ("ai/smollm2", b'{"target":"x","context_size":"much"}', 400, "invalid request body"),
        ("ai/smollm2", b"{", 400, "not valid JSON"),
        ("nope", b'{"target":"x"}', 404, "error while repackaging model: model not found\n"),
    ],
)
def test_wrong_wishes(client: falcon.testing.TestClient, path: str, body: bytes, status: int, text: str) -> None:
    result = client.simulate_post(f"/models/{path}/repackage", body=body)
    assert result.status_code == status
    assert text in result.text


@pytest.mark.parametrize(("query", "force"), [("", False), ("force", True), ("force=true", True), ("force=0", False)])
def test_purge(client: falcon.testing.TestClient, service: FakeService, query: str, force: bool) -> None:
    result = client.simulate_delete("/models/purge", query_string=query)
    assert (result.status_code, result.content) == (200, b"")
    assert service.storekeeping.purged == [force]


def test_a_purge_while_a_model_is_in_use(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.failure = Conflict("In use: 'x'.")
    result = client.simulate_delete("/models/purge")
    assert (result.status_code, result.text) == (409, "error while purging models: In use: 'x'.\n")


def test_a_model_of_that_name_is_not_purged_by_accident(
    client: falcon.testing.TestClient, service: FakeService
) -> None:
    assert client.simulate_delete("/models/ai/purge").status_code == 404
    assert service.storekeeping.purged == []
