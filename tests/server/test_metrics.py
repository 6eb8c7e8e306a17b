"""GET /metrics: the text is parsed back, and the page lists what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple, cast

import falcon.testing
import msgspec
import pytest
from fakes import FakeService

from dmr.config import Settings, UpstreamEngine
from dmr.errors import Unavailable
from dmr.service.upstreams import Upstreams
from dmr.types import (
    Embeddings,
    Histogram,
    ManagerStatistics,
    ModelLifecycle,
    ModelStatistics,
    RunningModel,
    Scores,
    Statistics,
)
from dmr_server.app import create_app
from dmr_server.lifecycle_metrics import FREE, LIVED, LOADED, REACHED
from dmr_server.metrics import METRICS, STARTED, UP, exposition
from dmr_server.served_metrics import SECONDS, SERVED

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
BOUNDS = (0.5, 2.0)
HISTOGRAM = Histogram(BOUNDS, (1, 2, 3), 12.5)
COUNTS = (name for name in Statistics.__struct_fields__ if isinstance(getattr(Statistics(), name), int))
NUMBERS = {name: number for number, name in enumerate(COUNTS, 1000)}  # each field has a value of its own
FULL = Statistics(
    **NUMBERS,
    prompt_seconds=8.0,
    generation_seconds=2.0,
    time_to_first_token=HISTOGRAM,
    inter_token_latency=Histogram(BOUNDS, (0, 0, 7), 70.0),
    queue_time=Histogram(),
    step_time=HISTOGRAM,
    batch_tokens=HISTOGRAM,
)

Labels = frozenset[tuple[str, str]]


class Exposition(NamedTuple):
    kinds: dict[str, str]
    samples: dict[tuple[str, Labels], float]


def parse(text: str) -> Exposition:
    """As the format is described: every sample below the HELP and the TYPE of its metric, and none twice."""
    kinds: dict[str, str] = {}
    samples: dict[tuple[str, Labels], float] = {}
    family, helped = "", set()
    assert text == "" or text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, text_of_help = line.split(" ", 3)
            assert text_of_help
            assert name not in helped
            helped.add(name)
        elif line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            assert family in helped
            assert family not in kinds
            kinds[family] = kind
        else:
            found = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.+)\})? (\S+)", line)
            assert found, line
            name, written, value = found[1], found[2] or "", found[3]
            suffixes = ("_bucket", "_sum", "_count") if kinds[family] == "histogram" else ("",)
            assert name in {family + suffix for suffix in suffixes}
            pairs = re.findall(r'([a-z_]+)="((?:[^"\\\n]|\\.)*)"(?:,|$)', written)
            assert ",".join(f'{label}="{text}"' for label, text in pairs) == written
            labels = frozenset((label, unescaped(text)) for label, text in pairs)
            assert (name, labels) not in samples
            samples[name, labels] = float(value)
    assert kinds.keys() == helped
    return Exposition(kinds, samples)


def unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), text)


def running(name: str, id: str = "", loaded_at: float = 1700000000.5) -> RunningModel:
    return RunningModel(id or name, name, "ready", 0, loaded_at, 2.0, 300.0, 99)


def labels(model: str = "ai/x", **others: str) -> Labels:
    return frozenset({"model": model, **others}.items())


def test_every_count_is_told() -> None:
    told = parse(exposition([ModelStatistics(running("ai/x"), True, FULL)])).samples
    ours = {value for (name, _), value in told.items() if name.startswith("dmr_")}
    unseen = {name for name, number in NUMBERS.items() if number not in ours}
    assert unseen == {"num_step_sequences"}  # told as an average
    assert {told["dmr_prompt_seconds_total", labels()], told["dmr_generation_seconds_total", labels()]} == {8.0, 2.0}


@pytest.mark.parametrize(
    ("name", "others", "field"),
    [
        ("dmr_requests_total", {"outcome": "completed"}, "num_completed"),
        ("dmr_requests_total", {"outcome": "failed"}, "num_failed"),
        ("dmr_requests_total", {"outcome": "aborted"}, "num_aborted"),
        ("dmr_requests_total", {"outcome": "refused"}, "num_refused"),
        ("dmr_steps_total", {"outcome": "completed"}, "num_steps"),
        ("dmr_steps_total", {"outcome": "interrupted"}, "num_interrupted_steps"),
        ("dmr_steps_total", {"outcome": "no_room"}, "num_full_steps"),
        ("dmr_prompt_tokens_total", {}, "num_prompt_tokens"),
        ("dmr_reused_graphs_total", {}, "num_reused_graphs"),
        ("dmr_kv_parked_cells", {}, "num_parked_cells"),
        ("llamacpp:prompt_tokens_total", {}, "num_computed_prompt_tokens"),
        ("llamacpp:prompt_tokens_cached_total", {}, "num_cached_tokens"),
        ("llamacpp:tokens_predicted_total", {}, "num_generated_tokens"),
        ("llamacpp:n_decode_total", {}, "num_decodes"),
        ("llamacpp:requests_processing", {}, "num_running"),
        ("llamacpp:requests_deferred", {}, "num_waiting"),
        ("llamacpp:spec_decode_num_draft_tokens_total", {}, "num_drafted_tokens"),
        ("llamacpp:spec_decode_num_accepted_tokens_total", {}, "num_accepted_tokens"),
    ],
)
def test_a_count_has_its_name(name: str, others: dict[str, str], field: str) -> None:
    told = parse(exposition([ModelStatistics(running("ai/x"), True, FULL)])).samples
    runner = {"backend": "llama.cpp", "mode": "completion"} if name.startswith("llamacpp:") else {}
    assert told[name, labels(**others, **runner)] == NUMBERS[field]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("llamacpp:n_busy_slots_per_decode", 2.5),
        ("llamacpp:prompt_tokens_seconds", 4.0),
        ("llamacpp:predicted_tokens_seconds", 25.0),
    ],
)
def test_averages(name: str, value: float) -> None:
    figures = msgspec.structs.replace(
        FULL, num_steps=4, num_step_sequences=10, num_computed_prompt_tokens=32, num_generated_tokens=50
    )
    ours = labels(backend="llama.cpp", mode="completion")
    told = parse(exposition([ModelStatistics(running("ai/x"), True, figures)])).samples
    assert told[name, ours] == value
    told = parse(exposition([ModelStatistics(running("ai/x"), True, Statistics())])).samples
    assert told[name, ours] == 0.0


def test_a_histogram_is_cumulative() -> None:
    told = parse(exposition([ModelStatistics(running("ai/x"), True, FULL)]))
    name = "dmr_time_to_first_token_seconds"
    assert told.kinds[name] == "histogram"
    buckets = [told.samples[f"{name}_bucket", labels(le=bound)] for bound in ("0.5", "2.0", "+Inf")]
    assert buckets == [1, 3, 6]
    assert told.samples[f"{name}_sum", labels()] == 12.5
    assert told.samples[f"{name}_count", labels()] == 6


def test_models_are_told_apart_and_an_engine_that_does_not_answer_is_left_out() -> None:
    up = ModelStatistics(running("one"), True, Statistics(num_generated_tokens=5))
    down = ModelStatistics(running("two"), False)
    embeds = ModelStatistics(running("three"), True)
    told = parse(exposition([up, down, embeds])).samples
    assert [told["dmr_engine_up", labels(name)] for name in ("one", "two", "three")] == [1, 0, 1]
    assert told["dmr_engine_start_time_seconds", labels("two")] == 1700000000.5
    assert told["dmr_generated_tokens_total", labels("one")] == 5
    counted = {dict(found)["model"] for name, found in told if name not in (UP[0], STARTED[0])}
    assert counted == {"one"}


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "\\n", 'a",x="1', "grün", "a}b"])
def test_names_of_models_hold_anything(name: str) -> None:
    told = parse(exposition([ModelStatistics(running(name), True, FULL)])).samples
    assert {dict(found)["model"] for _, found in told} == {name}


def test_a_model_has_one_name_however_it_was_asked_for() -> None:
    """The same as in the figures of the manager and of HTTP, or nobody could put them side by side."""
    old = ModelStatistics(running("x", "sha256:old", 1.0), True, FULL)
    new = ModelStatistics(running("x", "sha256:new", 2.0), True, Statistics())
    told = parse(exposition([new, old], {"sha256:new": "ai/x:latest"})).samples
    assert told["dmr_engine_start_time_seconds", labels("ai/x:latest")] == 2.0
    assert told["dmr_engine_start_time_seconds", labels("sha256:old")] == 1.0


def test_without_models_there_is_nothing_to_tell() -> None:
    assert exposition([]) == ""


def test_the_route(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.measured = [ModelStatistics(running("ai/x"), True, FULL)]
    result = client.simulate_get("/metrics")
    assert result.status_code == 200
    assert result.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert result.text.startswith(exposition(service.measured))
    head = client.simulate_head("/metrics")
    assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", result.headers["content-type"])
    assert not service.preloaded
    assert client.simulate_post("/metrics").status_code == 405


def test_without_a_manager_the_route_says_so(client: falcon.testing.TestClient, service: FakeService) -> None:
    service.failure = Unavailable("The model manager is not running.")
    result = client.simulate_get("/metrics")
    assert (result.status_code, result.text) == (503, "The model manager is not running.\n")


def test_the_page_lists_every_metric_with_its_type_and_no_other() -> None:
    rows = re.findall(r"^\| `(\S+)` \| (\w+) \| .+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    metrics = {UP[0]: UP[1], STARTED[0]: STARTED[1], **{metric.name: metric.kind for metric in METRICS}}
    metrics |= {served.name: "counter" for served in SERVED} | {lived.name: lived.kind for lived in LIVED}
    metrics |= {name: kind for name, kind, _ in (SECONDS, LOADED, FREE, REACHED)}
    assert len(rows) == len(dict(rows))
    assert dict(rows) == metrics


def told_by(client: falcon.testing.TestClient) -> dict[tuple[str, Labels], float]:
    text = client.simulate_get("/metrics").text
    assert text.startswith("# No active runners\n")
    return parse(text.partition("\n")[2]).samples


def test_requests_are_counted_by_address_and_status_and_by_model(
    client: falcon.testing.TestClient, service: FakeService, answer: tuple[Any, ...]
) -> None:
    chat = {"model": "ai/smollm2:135M-Q4_1", "messages": [{"role": "user", "content": "Hello!"}]}
    for stream in (False, True):
        service.enqueue(*answer)
        client.simulate_post("/v1/chat/completions", json={**chat, "stream": stream})
    client.simulate_post("/v1/chat/completions", json={**chat, "messages": 7})
    service.replies.append(Embeddings((b"\0\0\0\0", b"\0\0\0\0"), (4, 3)))
    client.simulate_post("/api/embed", json={"model": "ai/smollm2", "input": ["a", "b"]})
    service.replies.append(Scores((0.5,), 6))
    client.simulate_post("/rerank", json={"model": "ai/smollm2", "query": "a", "documents": ["b"]})
    client.simulate_get("/no/such/address")
    told = told_by(client)
    chat_route = {"route": "/v1/chat/completions", "method": "POST"}
    http = {
        frozenset({**chat_route, "status": "200"}.items()): 2,
        frozenset({**chat_route, "status": "400"}.items()): 1,
        frozenset({"route": "none", "method": "GET", "status": "404"}.items()): 1,
    }
    assert {key: told["dmr_http_requests_total", key] for key in http} == http
    assert told["dmr_http_request_seconds_count", frozenset({"route": "/v1/chat/completions"}.items())] == 3
    name = "ai/smollm2:latest"
    assert told["dmr_model_requests_total", labels(name, mode="completion", status="200")] == 2
    assert told["dmr_model_input_tokens_total", labels(name, mode="completion")] == 10
    assert told["dmr_model_output_tokens_total", labels(name, mode="completion")] == 4
    assert told["dmr_model_input_tokens_total", labels(name, mode="embedding")] == 7
    assert told["dmr_model_input_tokens_total", labels(name, mode="reranking")] == 6


def test_what_is_counted_is_not_one_workers_own(service: FakeService, tmp_path: Path) -> None:
    settings = Settings(runtime_dir=tmp_path)
    workers = [falcon.testing.TestClient(create_app(cast(Any, service), settings)) for _ in range(3)]
    for worker in workers:
        worker.simulate_get("/version")
        told_by(worker)
    key = "dmr_http_requests_total", frozenset({"route": "/version", "method": "GET", "status": "200"}.items())
    assert [told_by(worker)[key] for worker in workers] == [3, 3, 3]


def test_what_the_manager_counts(client: falcon.testing.TestClient, service: FakeService) -> None:
    id = service.models[0].id
    mine = ModelLifecycle(id, "smollm2", "ready", 3, 1, 4.5, 2, {"idle": 2}, 1000)
    service.lived = ManagerStatistics((mine, ModelLifecycle("sha256:gone", "smollm2", "quarantined")), 5000)
    service.upstreams = Upstreams([UpstreamEngine("cluster", "http://127.0.0.1:1", connect_timeout=1)])
    told = told_by(client)
    name = "ai/smollm2:latest"
    assert told["dmr_model_loads_total", labels(name)] == 3
    assert told["dmr_model_load_failures_total", labels(name)] == 1
    assert told["dmr_model_load_seconds_total", labels(name)] == 4.5
    assert told["dmr_model_crashes_total", labels(name)] == 2
    assert told["dmr_model_evictions_total", labels(name, reason="idle")] == 2
    assert told["dmr_model_evictions_total", labels(name, reason="memory")] == 0
    assert told["dmr_model_memory_bytes", labels(name)] == 1000
    assert told["dmr_model_state", labels("sha256:gone", state="quarantined")] == 1
    assert told["dmr_loaded_models", frozenset()] == 1
    assert told["dmr_free_memory_bytes", frozenset()] == 5000
    assert told["dmr_upstream_up", frozenset({"engine": "cluster"}.items())] == 0


def test_metrics_can_be_left_out(service: FakeService) -> None:
    app = create_app(cast(Any, service), Settings(disable_metrics=True))
    assert falcon.testing.TestClient(app).simulate_get("/metrics").status_code == 404
