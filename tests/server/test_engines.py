"""What is said of engines, and of installing them."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest
from fakes import FakeService

from dmr.config import UpstreamEngine
from dmr.service.upstreams import Upstreams
from dmr.types import ManagerStatistics, ModelLifecycle


@pytest.mark.parametrize(
    ("action", "body", "status", "text"),
    [
        ("install", {"backend": "llama.cpp"}, 200, ""),
        ("install", {"backend": "llama.cpp", "version": "latest"}, 200, ""),
        ("install", {"backend": "llama.cpp", "version": "b1"}, 400, "another version cannot be had"),
        ("install", {"backend": "cluster"}, 200, ""),
        ("install", {"backend": "vllm"}, 400, "[engines.vllm]"),
        ("install", {"backend": "nonsense"}, 404, "backend not found"),
        ("install", {}, 400, "invalid request: backend is required"),
        ("install", {"backend": 7}, 400, "invalid request: "),
        ("uninstall", {"backend": "llama.cpp"}, 400, "it cannot be removed"),
        ("uninstall", {"backend": "cluster"}, 400, "is an engine of the settings"),
        ("uninstall", {"backend": "mlx"}, 400, "mlx is not installed"),
        ("uninstall", {"backend": "nonsense"}, 404, "backend not found"),
        ("uninstall", {"backend": ""}, 400, "invalid request: backend is required"),
    ],
)
def test_what_is_installed(
    client: falcon.testing.TestClient, service: FakeService, action: str, body: Any, status: int, text: str
) -> None:
    service.upstreams = Upstreams([UpstreamEngine("cluster", "http://127.0.0.1:1")])
    answer = client.simulate_post(f"/engines/{action}-backend", json=body)
    assert answer.status_code == status
    assert text in answer.text
    assert bool(answer.text) is bool(text)


def test_status(client: falcon.testing.TestClient) -> None:
    assert client.simulate_get("/engines/status").json == {"llama.cpp": "Running: llama.cpp 0c1e570"}


def test_status_tells_which_models_are_held_back(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.lived = ManagerStatistics(
        (
            ModelLifecycle("sha256:1", "ai/good", "ready"),
            ModelLifecycle("sha256:2", "ai/bad", "quarantined", num_crashes=5, retry_after=590.2),
        )
    )
    assert client.simulate_get("/engines/status").json == {
        "llama.cpp": "Running: llama.cpp 0c1e570; held back after crashes: ai/bad (quarantined, 590 s)"
    }
