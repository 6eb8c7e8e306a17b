"""Models that are configured, on a real server: what counts, when it counts, and that nobody loses an answer by it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import Server, add_tiny_models, wait_until
from e2e.examples import blocks

MODEL = "test/tiny-random"
FULL_NAME = f"docker.io/{MODEL}:latest"
PATH = "/engines/_configure"
EXAMPLES = [block for block in blocks("docs/model-configuration.md") if block.language == "bash"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("configured")
    add_tiny_models(folder / "models", tiny_folder)
    server = Server(folder)
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def nothing_configured(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "running" in request.fixturenames:
        reset(request.getfixturevalue("running"))


def configure(server: Server, model: str = MODEL, **fields: Any) -> None:
    answer = server.post(PATH, {"model": model, **fields})
    assert (answer.status, answer.data) == (202, b"")


def reset(server: Server) -> None:
    assert server.pool.request("DELETE", server.url + PATH).status == 200


def shown(server: Server) -> Any:
    return server.get(PATH).json()


def loaded(server: Server, model: str = MODEL) -> list[Any]:
    models = server.get("/api/ps").json()["models"]
    return [each for each in models if each["name"].startswith(model)]


def context_of(server: Server, model: str = MODEL) -> int:
    """Tokens, once the engine is there."""
    return int(wait_until(lambda: [each["context_length"] for each in loaded(server, model)])[0])


def completion(server: Server, **fields: Any) -> Any:
    answer = server.post("/v1/completions", {"model": MODEL, "prompt": "hello", "max_tokens": 12, **fields})
    assert answer.status == 200, answer.data
    return answer.json()


def text_of(server: Server, **fields: Any) -> str:
    return str(completion(server, **fields)["choices"][0]["text"])


def test_an_engine_runs_as_configured(running: Server) -> None:
    configure(running, **{"context-size": 768, "keep_alive": "17m"})
    wait_until(lambda: context_of(running) == 768)
    (runner,) = [each for each in running.get("/engines/ps").json() if each["model_name"] == MODEL]
    assert runner["keep_alive"] == "17m0s"
    assert shown(running) == [
        {
            "Backend": "llama.cpp",
            "Model": FULL_NAME,
            "ModelID": running.get(f"/models/{MODEL}").json()["id"],
            "Mode": "completion",
            "Config": {"context-size": 768, "keep_alive": "17m0s"},
        }
    ]


@pytest.mark.parametrize(
    "flags",
    [
        "-ctk q8_0 -ctv q8_0 -fa on",
        "-ctk q4_0 -ctv iq4_nl",
        "--no-mmap --mlock",
        "--direct-io --check-tensors --no-repack --no-host",
        "--rope-scaling yarn --rope-scale 4 --yarn-orig-ctx 64",
        "--no-cache-prompt --cache-ram 0 --parallel 2 -ub 64",
        "-t 1 -tb 2 --poll 50",
        "--device none --no-kv-offload --no-op-offload --split-mode none --cpu-moe",
        "--spec-type ngram-simple --draft-max 4",
        "--spec-type none -v",
    ],
)
def test_every_kind_of_flag_answers(running: Server, flags: str) -> None:
    configure(running, **{"raw-runtime-flags": flags})
    assert text_of(running, temperature=0)
    assert running.chat(MODEL, max_tokens=3)["choices"]


def test_sampling_flags_are_defaults_of_requests(running: Server) -> None:
    greedy = text_of(running, temperature=0)
    others = {text_of(running, temperature=2.0, seed=seed) for seed in range(3)}
    assert others != {greedy}
    pids = running.engine_pids()
    configure(running, **{"runtime-flags": ["--temp", "0"]})
    assert {text_of(running, seed=seed) for seed in range(3)} == {greedy}
    assert {text_of(running, temperature=2.0, seed=seed) for seed in range(3)} == others
    configure(running, **{"runtime-flags": ["-n", "2"]})
    assert completion(running, max_tokens=None)["usage"]["completion_tokens"] == 2
    assert running.engine_pids() == pids  # no other engine was needed


def test_thoughts_are_switched_off_unless_a_request_wants_them(running: Server) -> None:
    model = "test/tiny-think"
    assert running.chat(model)["choices"][0]["message"].get("reasoning_content")
    configure(running, model, llamacpp={"reasoning-budget": 0})
    assert not running.chat(model)["choices"][0]["message"].get("reasoning_content")
    asked = running.chat(model, enable_thinking=True)
    assert asked["choices"][0]["message"].get("reasoning_content")


def test_answers_under_way_are_not_lost(running: Server) -> None:
    """Streams that began before a change come to their ends, while the change counts for those after it."""
    text_of(running)
    began, counts = threading.Barrier(4), list[int]()

    def stream() -> None:
        body = {"model": MODEL, "prompt": "hello", "max_tokens": 200, "ignore_eos": True, "stream": True}
        body["stream_options"] = {"include_usage": True}
        with running.pool.request(
            "POST", f"{running.url}/v1/completions", body=json.dumps(body), preload_content=False
        ) as answer:
            lines = iter(answer)
            text = next(lines)
            began.wait(20)
            text += b"".join(lines)
        chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith(b"data: {")]
        counts.append(chunks[-1]["usage"]["completion_tokens"])

    threads = [threading.Thread(target=stream) for _ in range(3)]
    for thread in threads:
        thread.start()
    began.wait(20)
    for size in (512, 640, 768):
        configure(running, **{"context-size": size})
        assert text_of(running, max_tokens=5)
    for thread in threads:
        thread.join(60)
    assert counts == [200] * 3
    wait_until(lambda: [each["context_length"] for each in loaded(running)] == [768])


def test_vectors_are_made_as_configured(running: Server) -> None:
    body = {"model": MODEL, "input": "hello there"}

    def vector() -> Any:
        return running.post("/v1/embeddings", body).json()["data"][0]["embedding"]

    before = vector()
    configure(running, mode="embedding", **{"runtime-flags": ["--pooling", "mean"]})
    assert vector() != before
    assert text_of(running)
    reset(running)
    assert vector() == before


def test_scores_are_made_as_configured(running: Server) -> None:
    model = "test/tiny-rerank"
    body = {"model": model, "query": "a", "documents": ["hello", "b " * 100]}
    assert running.post("/v1/rerank", body).status == 200
    configure(running, model, mode="reranking", **{"context-size": 32})
    answer = running.post("/v1/rerank", body)
    assert answer.status == 400
    assert "the model takes 32 at most" in answer.data.decode()


def test_a_draft_model_guesses_and_changes_no_answer(running: Server) -> None:
    model = "test/tiny-script"  # of its words it is sure, whatever else is in a batch
    wanted = running.chat(model)["choices"][0]["message"]["content"]
    speculation = {"draft_model": model, "num_tokens": 4, "min_acceptance_rate": 0.01}
    configure(running, model, speculative=speculation)
    assert [running.chat(model)["choices"][0]["message"]["content"] for _ in range(8)] == [wanted] * 8
    metrics = running.get("/metrics").data.decode()
    guesses = [line for line in metrics.splitlines() if line.startswith("dmr_draft_tokens_total")]
    assert any(float(line.rpartition(" ")[2]) > 0 for line in guesses), guesses
    assert shown(running)[0]["Config"]["speculative"] == speculation
    answer = running.post(PATH, {"model": MODEL, "speculative": {"draft_model": "missing"}})
    assert answer.status == 400
    assert "The draft model 'missing' does not exist" in answer.data.decode()


def test_flags_that_are_refused_reach_no_engine(running: Server, tmp_path: Path) -> None:
    target = tmp_path / "written"
    for flags, message in [
        (["--log-file", str(target)], 'runtime flag "--log-file" is not allowed for backend "llama.cpp"'),
        (["--temp", f"1{target}"], "paths are not allowed"),
        (["--api-key", "x"], 'runtime flag "--api-key" is not supported'),
        (["--top-k=-x"], "value cannot start with '-' unless followed by a digit"),
    ]:
        answer = running.post(PATH, {"model": MODEL, "runtime-flags": flags})
        assert answer.status == 400
        assert message in answer.data.decode()
    assert shown(running) == []
    assert text_of(running)
    assert not target.exists()


def test_what_cannot_be_had_is_told_by_the_next_request(running: Server) -> None:
    configure(running, **{"runtime-flags": ["--device", "CUDA77"]})
    answer = running.post("/v1/completions", {"model": MODEL, "prompt": "a"})
    assert answer.status >= 500
    assert "there is no device named CUDA77" in answer.data.decode()
    configure(running, **{"runtime-flags": None})
    assert text_of(running)


def test_a_restarted_server_knows_them(own_server: Callable[..., Server]) -> None:
    first = own_server()
    configure(first, **{"context-size": 768, "runtime-flags": ["--temp", "0"]})
    before = shown(first)
    first.stop()
    second = Server(first.folder)
    try:
        assert shown(second) == before
        assert len({text_of(second, seed=seed) for seed in range(3)}) == 1
        assert context_of(second) == 768
    finally:
        second.stop()


def test_the_examples_of_the_page(running: Server) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    assert len(EXAMPLES) == 3
    for block in EXAMPLES:
        code = block.at(running.url).replace("dmr ", f"{sys.executable} -m dmr --server {running.url} ")
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (code, done.stderr)
    assert shown(running) == []
