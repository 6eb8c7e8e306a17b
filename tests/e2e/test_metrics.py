"""GET /metrics of a real server with several HTTP workers."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from e2e.conftest import Server, wait_until

MODEL = "test/tiny-random"
LABEL = f"{MODEL}:latest"


def figures(server: Server) -> dict[str, float]:
    """Samples of the model by name and labels, without that of the model and without buckets."""
    response = server.get("/metrics")
    assert response.status == 200, response.data
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = re.findall(rf'^(\S+)\{{model="{LABEL}",?([^}}]*)\}} (\S+)$', response.data.decode(), re.MULTILINE)
    return {name + labels: float(value) for name, labels, value in found if not name.endswith("_bucket")}


def test_every_worker_tells_the_true_figures_and_asking_is_no_use(own_server: Callable[..., Server]) -> None:
    server = own_server(DMR_WORKERS="3")
    assert server.get("/metrics").data.startswith(b"# No active runners\n")
    assert figures(server) == {}
    assert server.engine_pids() == []
    prompt = "a prompt of some words that is the same each time"
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    with ThreadPoolExecutor(6) as threads:
        responses = list(threads.map(lambda _: server.post("/v1/completions", body), range(12)))
    usages = [response.json()["usage"] for response in responses]
    with ThreadPoolExecutor(6) as threads:
        (told, *others) = threads.map(lambda _: figures(server), range(12))
    assert all(other["dmr_generated_tokens_total"] == told["dmr_generated_tokens_total"] for other in others)
    assert told["dmr_engine_up"] == 1
    assert told['dmr_requests_totaloutcome="completed"'] == 12
    assert told["dmr_prompt_tokens_total"] == sum(usage["prompt_tokens"] for usage in usages)
    cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    assert told["dmr_cached_prompt_tokens_total"] == cached > 0
    assert told["dmr_computed_prompt_tokens_total"] == told["dmr_prompt_tokens_total"] - cached
    assert told["dmr_generated_tokens_total"] == sum(usage["completion_tokens"] for usage in usages) == 96
    assert told["dmr_time_to_first_token_seconds_count"] == 12
    assert told["dmr_inter_token_latency_seconds_count"] == 96 - 12
    assert told["dmr_decodes_total"] >= told['dmr_steps_totaloutcome="completed"'] > 0
    assert 0 < told["dmr_reused_graphs_total"] < told["dmr_decodes_total"]
    assert told["dmr_compute_threads"] == 1
    assert told["dmr_running_sequences"] == told["dmr_waiting_sequences"] == 0

    assert server.post("/api/generate", {"model": MODEL, "keep_alive": 1}).status == 200

    def is_unloaded() -> bool:
        figures(server)  # or it would be kept by this
        return server.engine_pids() == []

    wait_until(is_unloaded, 20.0)
    left = figures(server)
    assert "dmr_engine_up" not in left
    assert left["dmr_model_loads_total"] == 1
    assert left['dmr_model_requests_totalmode="completion",status="200"'] >= 12
