"""Docker Model Runner's pull, push and tag: lines while it goes, true status codes before it begins."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing
import pytest
from fakes import FakeService, Step

from dmr.errors import InvalidReference, RegistryError, RemoteModelNotFound, StoreError, Unauthorized, Unsupported
from dmr.types import Tick, TransferProgress

LAYER = TransferProgress("", 3_000_000, "sha256:aa", 2_000_000, 1_500_000)
SUCCESS = {"type": "success", "total": 0, "layer": {"size": 0, "current": 0}}


def lines(result: falcon.testing.Result) -> list[Any]:
    return [json.loads(line) for line in result.text.splitlines()]


def test_a_pull_is_told_line_by_line(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(Tick(), TransferProgress("Found 1 file", 3_000_000), LAYER, Tick())
    result = client.simulate_post("/models/create", json={"from": "ai/x:1", "bearer-token": "t"})
    assert result.status_code == 200
    assert service.transfers == [("pull", "ai/x:1", "ai/x:1", "t", False)]
    assert lines(result) == [
        {
            "type": "progress",
            "message": "Found 1 file",
            "total": 3_000_000,
            "layer": {"size": 0, "current": 0},
            "mode": "pull",
        },
        {
            "type": "progress",
            "message": "Downloaded: 1.50 MB",
            "total": 3_000_000,
            "layer": {"id": "sha256:aa", "size": 2_000_000, "current": 1_500_000},
            "mode": "pull",
        },
        {**SUCCESS, "message": "Model pulled successfully", "mode": "pull"},
    ]


def test_what_is_there_already_is_one_line(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(Tick())
    result = client.simulate_post("/models/create", json={"from": "ai/x"}, headers={"Accept": "application/json"})
    assert lines(result) == [{**SUCCESS, "message": "Using cached model", "mode": "pull"}]
    assert result.headers["content-type"] == "application/json"
    service.enqueue(Tick())
    result = client.simulate_post("/models/create", json={"from": "ai/smollm2"})
    assert lines(result) == [{**SUCCESS, "message": "Using cached model: 91.73MiB", "mode": "pull"}]
    assert result.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (RemoteModelNotFound("there is none"), 404, "Model not found: there is none"),
        (Unauthorized("log in"), 401, "Unauthorized: log in"),
        (InvalidReference("bad tag"), 400, "Invalid model reference: bad tag"),
        (RegistryError("cannot be reached"), 500, "error while pulling model: cannot be reached"),
        (StoreError("the disk is full"), 500, "error while pulling model: the disk is full"),
        (Unsupported("config of another type"), 422, "config of another type"),
    ],
)
def test_what_fails_at_once_has_its_status(
    client: falcon.testing.TestClient, service: FakeService, error: Exception, status: int, text: str
) -> None:
    service.enqueue(Tick(), error)
    result = client.simulate_post("/models/create", json={"from": "ai/x"})
    assert (result.status_code, result.text) == (status, f"{text}\n")


def test_a_warning_is_a_line_of_its_own(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(TransferProgress("nobody answers", is_warning=True))
    warning, success = lines(client.simulate_post("/models/create", json={"from": "ai/smollm2"}))
    assert (warning["type"], warning["message"]) == ("warning", "nobody answers")
    assert (success["type"], success["message"]) == ("success", "Using cached model: 91.73MiB")


def test_an_insecure_registry_is_a_wish_of_the_request(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(LAYER)
    client.simulate_post("/models/create", json={"from": "ai/x", "insecure": True})
    service.enqueue(LAYER)
    client.simulate_post("/models/ai/smollm2/push", json={"insecure": True})
    assert [transfer[-1] for transfer in service.transfers] == [True, True]


def test_what_fails_later_is_the_last_line(client: falcon.testing.TestClient, service: FakeService) -> None:
    steps: tuple[Step, ...] = (LAYER, RegistryError("broke off"))
    service.enqueue(*steps)
    last = lines(client.simulate_post("/models/create", json={"from": "ai/x"}))[-1]
    assert (last["type"], last["message"]) == ("error", "Error: broke off")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"from": 5}', b"[]", b"nonsense"])
def test_a_bad_body_is_a_400(client: falcon.testing.TestClient, body: bytes) -> None:
    assert client.simulate_post("/models/create", body=body).status_code == 400


def test_a_push_goes_to_the_models_own_name(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.enqueue(LAYER)
    result = client.simulate_post("/models/ai/smollm2/push")
    assert lines(result)[-1] == {**SUCCESS, "message": "Model pushed successfully", "mode": "push"}
    assert lines(result)[0]["message"] == "Uploaded: 1.50 MB"
    assert service.transfers == [("push", "ai/smollm2", "ai/smollm2", None, False)]
    assert client.simulate_post("/models/ai/none/push").status_code == 404


def test_a_model_gets_one_more_name(client: falcon.testing.TestClient, service: FakeService) -> None:
    result = client.simulate_post("/models/ai/smollm2/tag", params={"repo": "me/copy", "tag": "v1"})
    assert result.status_code == 201
    assert result.json == {"message": 'Model tagged successfully with "me/copy:v1"', "target": "me/copy:v1"}
    assert service.copied == [("ai/smollm2", "me/copy:v1")]
    assert client.simulate_post("/models/ai/smollm2/tag").status_code == 400
    assert client.simulate_post("/models/ai/none/tag", params={"repo": "a", "tag": "b"}).status_code == 404
