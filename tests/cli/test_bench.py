"""`dmr bench`: against a scripted server, and the engine alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import Run
from cli.scripted_server import CHAT, Reply, ScriptedServer, answer, event
from cli.terminal import Terminal
from tiny_models import model_file

COMPLETIONS = "/engines/v1/completions"
USAGE = {"prompt_tokens": 20, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}


def completion(*texts: str) -> Reply:
    pieces = [event(choices=[{"index": 0, "text": text}]) for text in texts]
    return Reply(pieces=[*pieces, event(choices=[], usage=USAGE), b"data: [DONE]\n\n"])


@pytest.fixture
def bench_server(server: ScriptedServer) -> ScriptedServer:
    """Has the model smollm2 and answers every completion."""
    server.on("GET /models/smollm2", {"id": "sha256:1", "tags": ["smollm2"]})
    server.on("POST /engines/v1/tokenize", {"tokens": list(range(100, 400))})
    server.on(f"POST {CHAT}", {})
    return server


def completions(server: ScriptedServer) -> list[Any]:
    return [asked.json for asked in server.asked if asked.path == COMPLETIONS]


def test_each_level_is_a_row(dmr: Run, bench_server: ScriptedServer) -> None:
    bench_server.on(f"POST {COMPLETIONS}", completion("a", "b", "c"))
    result = dmr("bench", "smollm2", "--concurrency", "1,3", "--requests", "6", "--output-tokens", "4")
    assert (result.exit_code, result.stderr) == (0, "")
    first, _, header, *rows, _, last = result.stdout.splitlines()
    assert first == f"smollm2 at {bench_server.url}: 128 prompt tokens, 4 output tokens"
    assert header.split()[:8] == ["CONCURRENCY", "REQUESTS", "FAILED", "OUTPUT", "TOK/S", "PROMPT", "TOK/S", "CACHED"]
    assert [(row.split()[0], *row.split()[1:3], row.split()[5]) for row in rows] == [
        ("1", "6", "0", "25%"),
        ("3", "6", "0", "25%"),
    ]
    assert last.startswith("Fastest: ")


def test_what_is_asked(dmr: Run, bench_server: ScriptedServer) -> None:
    bench_server.on(f"POST {COMPLETIONS}", completion("a"))
    flags = ("--prompt-tokens", "50", "--shared-prefix", "30", "--output-tokens", "4", "--warmup", "2", "--seed", "7")
    assert dmr("bench", "smollm2", "--concurrency", "2,2", "--requests", "3", *flags).exit_code == 0
    asked = completions(bench_server)
    prompts = [body.pop("prompt") for body in asked]
    assert len(prompts) == 2 + 3 + 3
    assert {len(prompt) for prompt in prompts} == {50}
    warmup, first, second = ({tuple(p[:30]) for p in part} for part in (prompts[:2], prompts[2:5], prompts[5:]))
    assert len(warmup) == len(first) == len(second) == 1  # each level has a prefix of its own, for all its requests
    assert len(warmup | first | second) == 3
    assert len({tuple(prompt[30:]) for prompt in prompts}) == 8
    assert asked[0] == {
        "model": "smollm2",
        "max_tokens": 4,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_the_model_is_loaded_before_anything_is_measured(dmr: Run, bench_server: ScriptedServer) -> None:
    bench_server.on(f"POST {COMPLETIONS}", completion("a"))
    dmr("bench", "smollm2", "--concurrency", "1")
    paths = [asked.path for asked in bench_server.asked]
    assert paths.index(CHAT) < paths.index(COMPLETIONS)
    assert bench_server.asked[paths.index(CHAT)].headers["X-Preload-Only"] == "true"


def test_json(dmr: Run, bench_server: ScriptedServer) -> None:
    bench_server.on(f"POST {COMPLETIONS}", completion("a", "b"))
    result = dmr("bench", "smollm2", "--concurrency", "1", "--requests", "2", "--seed", "7", "--json")
    report = json.loads(result.stdout)
    (level,) = report.pop("results")
    assert report == {
        "model": "smollm2",
        "server": bench_server.url,
        "prompt": None,
        "prompt_tokens": 128,
        "output_tokens": 64,
        "shared_prefix_tokens": 0,
        "seed": 7,
        "interrupted": False,
    }
    counts = {name: value for name, value in level.items() if isinstance(value, int)}
    assert counts == {
        "concurrency": 1,
        "requests": 2,
        "failures": 0,
        "prompt_tokens": 40,
        "cached_tokens": 10,
        "output_tokens": 8,
    }
    assert level["errors"] == {}
    assert level["seconds"] > 0
    assert level["output_tokens_per_second"] == pytest.approx(8 / level["seconds"])
    assert level["prompt_tokens_per_second"] == pytest.approx(40 / level["seconds"])
    assert level["requests_per_second"] == pytest.approx(2 / level["seconds"])
    assert set(level["ttft_seconds"]) == set(level["inter_token_seconds"]) == {"p50", "p95", "p99"}
    assert 0 < level["ttft_seconds"]["p50"] <= level["ttft_seconds"]["p99"]


def test_the_help_documents_every_field_of_the_json(dmr: Run, bench_server: ScriptedServer) -> None:
    bench_server.on(f"POST {COMPLETIONS}", completion("a", "b"))
    report = json.loads(dmr("bench", "smollm2", "--concurrency", "1", "--json").stdout)
    text = dmr("bench", "--help").stdout
    for name in (*report, *report["results"][0], *report["results"][0]["ttft_seconds"]):
        assert name in text


def test_a_prompt_of_ones_own_is_a_chat(dmr: Run, bench_server: ScriptedServer) -> None:
    bench_server._replies[f"POST {CHAT}"] = [Reply(b"{}"), answer("Big ", "fish", usage=USAGE)]
    result = dmr("bench", "smollm2", "--prompt", "Whales?", "--concurrency", "1", "--json")
    report = json.loads(result.stdout)
    assert (report["prompt"], report["prompt_tokens"]) == ("Whales?", None)
    assert report["results"][0]["requests"] == 8
    assert bench_server.asked[-1].json["messages"] == [{"role": "user", "content": "Whales?"}]
    assert "a chat, 64 output tokens" in dmr("bench", "smollm2", "--prompt", "x", "--concurrency", "1").stdout


def test_a_model_that_is_not_there(dmr: Run) -> None:
    result = dmr("bench", "smollm9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: no such model: smollm9 ")


def test_no_server(lonely_dmr: Run, nowhere: str) -> None:
    result = lonely_dmr("bench", "smollm2")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: No server answers at {nowhere}. Start it with `dmr serve`.\n"


def test_a_server_that_refuses_everything_is_told_in_its_words(dmr: Run, bench_server: ScriptedServer) -> None:
    bench_server.on(f"POST {COMPLETIONS}", Reply(b'{"error":{"message":"The prompt is too long."}}', 400))
    for flags in ((), ("--warmup", "0", "--requests", "2")):
        result = dmr("bench", "smollm2", *flags)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "Error: No request succeeded: 400: The prompt is too long.\n"


def test_failures_are_counted_and_told(dmr: Run, bench_server: ScriptedServer) -> None:
    busy = Reply(b'{"error":{"message":"Try again."}}', 503)
    bench_server.on(f"POST {COMPLETIONS}", completion("a"), completion("b"), busy, completion("c"))
    result = dmr("bench", "smollm2", "--concurrency", "1", "--requests", "4")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[3].split()[:3] == ["1", "4", "1"]
    assert result.stderr == "Failed with concurrency 1: 503: Try again.\n"


def test_a_level_that_fails_whole_does_not_hide_the_others(dmr: Run, bench_server: ScriptedServer) -> None:
    busy = Reply(b'{"error":{"message":"Try again."}}', 503)
    bench_server.on(f"POST {COMPLETIONS}", completion("a"), completion("b"), completion("c"), busy)
    result = dmr("bench", "smollm2", "--concurrency", "1,2", "--requests", "2")
    assert result.exit_code == 0
    assert [row.split()[:3] for row in result.stdout.splitlines()[3:5]] == [["1", "2", "0"], ["2", "2", "2"]]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "Give the name of a model, or --engine and a file."),
        (["m", "--engine", __file__], "or --engine and a file."),
        (["m", "--threads", "2"], "--threads is for --engine only."),
        (["--engine", __file__, "--shared-prefix", "2"], "--shared-prefix is for a running server"),
        (["--engine", __file__, "--concurrency", "300"], "256 sequences at a time at most"),
        (["--engine", "nothing.gguf"], "does not exist"),
        (["m", "--concurrency", "1,x"], "'1,x' is not a list of numbers"),
        (["m", "--concurrency", "0"], "range 1 to 1024"),
        (["m", "--shared-prefix", "128"], "--shared-prefix must be smaller than --prompt-tokens."),
        (["m", "--requests", "3", "--duration", "3s"], "not both"),
        (["m", "--duration", "0"], "--duration must be longer than 0."),
        (["m", "--timeout", "-1"], "--timeout must be longer than 0."),
        (["m", "--prompt", "Hi", "--prompt-tokens", "3"], "--prompt-tokens goes not with --prompt"),
    ],
)
def test_wrong_usage(dmr: Run, server: ScriptedServer, flags: list[str], words: str) -> None:
    result = dmr("bench", *flags)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert server.asked == []


def test_a_terminal_sees_progress_and_ctrl_c_prints_what_there_is(bench_server: ScriptedServer) -> None:
    released = threading.Event()

    def hang() -> Iterator[bytes]:
        yield event(choices=[{"index": 0, "text": "a"}])
        released.wait(30)

    done = [completion("a") for _ in range(4)]
    bench_server.on(f"POST {COMPLETIONS}", *done, Reply(pieces=hang(), drop=True))
    flags = ("--concurrency", "1,2", "--requests", "2")
    with Terminal("--server", bench_server.url, "bench", "smollm2", *flags, term="xterm") as shell:
        shell.expect("concurrency 2 ")
        shell.interrupt()
        shell.expect("OUTPUT TOK/S")
        shell.expect(r"\n1 +2 +0 ")
        shell.expect(r"\n2 +1 +0 ")
        shell.expect("Interrupted: the last level is incomplete.")
        assert shell.exit_status() == 130
    released.set()


def test_the_engine_alone(dmr: Run, server: ScriptedServer, tmp_path: Path) -> None:
    file = model_file("tiny-random", tmp_path)
    flags = ("--threads", "1", "--concurrency", "1,3", "--prompt-tokens", "20", "--output-tokens", "5")
    result = dmr("bench", "--engine", str(file), *flags)
    assert (result.exit_code, result.stderr) == (0, "")
    first, _, header, *rows = result.stdout.splitlines()
    assert first.startswith(f"{file} (")
    assert first.endswith("20 prompt tokens, 5 steps, threads: 1")
    assert header.split()[:3] == ["CONCURRENCY", "PREFILL", "TOK/S"]
    assert [row.split()[0] for row in rows] == ["1", "3"]
    assert all(row.endswith("%") for row in rows)
    assert server.asked == []


def test_the_engine_alone_as_json(dmr: Run, tmp_path: Path) -> None:
    file = model_file("tiny-random", tmp_path)
    flags = ("--threads", "1", "--concurrency", "2", "--prompt-tokens", "20", "--output-tokens", "5", "--seed", "3")
    report = json.loads(dmr("bench", "--engine", str(file), *flags, "--json").stdout)
    (level,) = report.pop("results")
    assert report.pop("description")
    assert report == {
        "file": str(file),
        "threads": 1,
        "context_size": 256,
        "prompt_tokens": 20,
        "output_tokens": 5,
        "seed": 3,
        "interrupted": False,
    }
    assert level["concurrency"] == 2
    assert level["decode"]["steps"] == 5
    assert level["decode"]["tokens"] >= 10
    assert 0 < level["decode"]["host_share"] < 1
    text = dmr("bench", "--help").stdout
    assert all(name in text for name in (*report, *level, *level["prefill"], *level["prefill"]["step_seconds"]))


def test_a_file_that_the_engine_cannot_load(dmr: Run, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"no model")
    result = dmr("bench", "--engine", str(file))
    assert (result.exit_code, result.stdout) == (1, "")
    assert str(file) in result.stderr
    assert len(result.stderr.splitlines()) == 1
