"""`_configure`: what is asked and how it is understood, what is shown, and in what words it is refused."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest
from fakes import FakeService
from msgspec import UNSET

from dmr.errors import Conflict, Unsupported
from dmr.types import ConfigurationChange, ConfiguredModel, Mode, ModelConfiguration

PATH = "/engines/_configure"
MODEL = "ai/smollm2"
Client = falcon.testing.TestClient


def sent(client: Client, service: FakeService, **body: Any) -> ConfigurationChange:
    answer = client.simulate_post(PATH, json={"model": MODEL, **body})
    assert (answer.status_code, answer.content) == (202, b"")
    return service.configurations.changes[-1][2]


@pytest.mark.parametrize(
    ("body", "change"),
    [
        ({}, {}),
        ({"context-size": 4096}, {"context_size": 4096}),
        ({"context-size": -1}, {"context_size": -1}),
        ({"context-size": 0}, {"context_size": None}),
        ({"context-size": None}, {"context_size": None}),
        ({"runtime-flags": ["--temp", "1"]}, {"runtime_flags": ("--temp", "1")}),
        ({"raw-runtime-flags": "--temp '1'"}, {"runtime_flags": ("--temp", "1")}),
        ({"runtime-flags": ["--jinja"], "raw-runtime-flags": "--temp 1"}, {"runtime_flags": ("--jinja",)}),
        ({"runtime-flags": []}, {"runtime_flags": None, "drops_flags": True}),
        ({"runtime-flags": None}, {"runtime_flags": None, "drops_flags": True}),
        ({"runtime-flags": [], "raw-runtime-flags": "--jinja"}, {"runtime_flags": ("--jinja",), "drops_flags": True}),
        ({"raw-runtime-flags": ""}, {}),
        (
            {"speculative": {"draft_model": "small", "num_tokens": 4, "min_acceptance_rate": 0.5}},
            {"draft_model": "small", "max_draft_tokens": 4, "least_draft_probability": 0.5},
        ),
        ({"speculative": {"num_tokens": 4}}, {"max_draft_tokens": 4}),
        (
            {"speculative": {"draft_model": "", "num_tokens": 0, "min_acceptance_rate": 0}},
            {"draft_model": None, "max_draft_tokens": None, "least_draft_probability": None},
        ),
        (
            {"speculative": None},
            {"draft_model": None, "max_draft_tokens": None, "least_draft_probability": None},
        ),
        ({"keep_alive": "1h30m"}, {"keep_alive": 5400.0}),
        ({"keep_alive": "0"}, {"keep_alive": 0.0}),
        ({"keep_alive": "-1"}, {"keep_alive": -1.0}),
        ({"keep_alive": "-5m"}, {"keep_alive": -1.0}),
        ({"keep_alive": "-0s"}, {"keep_alive": 0.0}),
        ({"keep_alive": "1.5s"}, {"keep_alive": 1.5}),
        ({"keep_alive": "9999999h"}, {"keep_alive": -1.0}),
        ({"keep_alive": None}, {"keep_alive": None}),
        ({"llamacpp": {"reasoning-budget": 0}}, {"reasoning_budget": 0}),
        ({"llamacpp": {"reasoning-budget": None}}, {"reasoning_budget": None}),
        ({"llamacpp": None}, {"reasoning_budget": None}),
        ({"llamacpp": {}, "speculative": {}, "vllm": {}}, {}),
    ],
    ids=str,
)
def test_only_what_is_named_is_changed(
    client: Client, service: FakeService, body: dict[str, Any], change: dict[str, Any]
) -> None:
    assert sent(client, service, **body) == ConfigurationChange(**change)


def test_a_field_that_is_not_named_is_not_set(client: Client, service: FakeService) -> None:
    change = sent(client, service, keep_alive="5m")
    assert (change.context_size, change.runtime_flags, change.reasoning_budget) == (UNSET, UNSET, UNSET)


@pytest.mark.parametrize(
    ("path", "mode", "expected"),
    [(PATH, None, None), ("/engines/llama.cpp/_configure", "embedding", Mode.EMBEDDING), (PATH, "", None)],
)
def test_the_mode(client: Client, service: FakeService, path: str, mode: str | None, expected: Mode | None) -> None:
    answer = client.simulate_post(path, json={"model": MODEL, "mode": mode})
    assert answer.status_code == 202
    assert service.configurations.changes == [(MODEL, expected, ConfigurationChange())]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": ""}, "invalid request: model is missing"),
        ({"mode": "dancing"}, 'invalid request: unknown mode "dancing"'),
        ({"context_size": 512}, "invalid request: Object contains unknown field `context_size`"),
        ({"mode": "image-generation"}, "invalid request: no model makes pictures here"),
        ({"mode": 3}, "invalid request: Expected `str | null`"),
        ({"keep_alive": 300}, "invalid request: "),
        ({"keep_alive": "soon"}, 'invalid request: invalid keep_alive "soon"'),
        ({"keep_alive": "5"}, 'invalid request: invalid keep_alive "5"'),
        ({"keep_alive": ""}, 'invalid request: invalid keep_alive ""'),
        ({"context-size": "many"}, "invalid request: Expected `int | null`"),
        ({"runtime-flags": "--temp 1"}, "invalid request: Expected `array | null`"),
        ({"raw-runtime-flags": "--temp '1"}, "invalid runtime flags: No closing quotation"),
        ({"vllm": {"gpu-memory-utilization": 0.5}}, "the vllm settings have no effect"),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_400_in_upstreams_words(
    client: Client, service: FakeService, body: dict[str, Any], message: str
) -> None:
    answer = client.simulate_post(PATH, json={"model": MODEL, **body})
    assert answer.status_code == 400
    assert answer.text.startswith(message)
    assert answer.headers["content-type"].startswith("text/plain")
    assert service.configurations.changes == []


def test_what_is_no_json(client: Client) -> None:
    assert client.simulate_post(PATH, body=b"{").status_code == 400


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_another_backend_is_not_found(client: Client, method: str) -> None:
    answer = client.simulate_request(method, "/engines/vllm/_configure", json={"model": MODEL})
    assert (answer.status_code, answer.text) == (404, "backend not found\n")


def test_an_unknown_model_is_not_found(client: Client) -> None:
    answer = client.simulate_post(PATH, json={"model": "missing"})
    assert (answer.status_code, answer.text) == (404, "model not found\n")


@pytest.mark.parametrize(("error", "status"), [(Conflict("taken"), 409), (Unsupported('runtime flag "-x" …'), 400)])
def test_refusals_of_the_manager(client: Client, service: FakeService, error: Exception, status: int) -> None:
    service.failure = error
    answer = client.simulate_post(PATH, json={"model": MODEL})
    assert (answer.status_code, answer.text) == (status, f"{error}\n")


FULL = ConfiguredModel(
    "docker.io/ai/smollm2:latest",
    "sha256:1",
    Mode.COMPLETION,
    ModelConfiguration(8192, ("--temp", "0.7"), "small", 4, 0.5, 600.0, 0),
)


def test_configurations_are_shown_as_upstream_does(client: Client, service: FakeService) -> None:
    service.configurations.entries = [
        FULL,
        ConfiguredModel("other", "sha256:2", Mode.EMBEDDING, ModelConfiguration(keep_alive=-1.0)),
    ]
    shown = client.simulate_get(PATH).json
    assert shown == [
        {
            "Backend": "llama.cpp",
            "Model": "docker.io/ai/smollm2:latest",
            "ModelID": "sha256:1",
            "Mode": "completion",
            "Config": {
                "context-size": 8192,
                "runtime-flags": ["--temp", "0.7"],
                "speculative": {"draft_model": "small", "num_tokens": 4, "min_acceptance_rate": 0.5},
                "keep_alive": "10m0s",
                "llamacpp": {"reasoning-budget": 0},
            },
        },
        {
            "Backend": "llama.cpp",
            "Model": "other",
            "ModelID": "sha256:2",
            "Mode": "embedding",
            "Config": {"keep_alive": "-1"},
        },
    ]
    assert client.simulate_get(PATH, params={"model": "other"}).json == shown[1:]
    assert client.simulate_get(PATH, params={"model": "missing"}).json == []


def test_what_is_shown_can_be_sent_back(client: Client, service: FakeService) -> None:
    service.configurations.entries = [FULL]
    config = client.simulate_get(PATH).json[0]["Config"]
    assert sent(client, service, **config) == ConfigurationChange(
        8192,
        ("--temp", "0.7"),
        draft_model="small",
        max_draft_tokens=4,
        least_draft_probability=0.5,
        keep_alive=600.0,
        reasoning_budget=0,
    )


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, (None, None)),
        ({"model": MODEL}, (MODEL, None)),
        ({"model": MODEL, "mode": "reranking"}, (MODEL, Mode.RERANKING)),
    ],
)
def test_configurations_are_reset(client: Client, service: FakeService, params: Any, expected: Any) -> None:
    assert client.simulate_delete(PATH, params=params).json == {"reset": 1}
    assert service.configurations.resets == [expected]
    assert client.simulate_delete(PATH, params={"mode": "dancing"}).status_code == 400
