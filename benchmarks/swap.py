"""The time to the first token of a model that has to take another one's place, beside llama-server's router.

    python benchmarks/swap.py [--peer LLAMA_SERVER] [--gguf FILE] [--rounds 10] [--out FILE]

Two models, of which one fits at a time: dmr with DMR_MAX_LOADED_MODELS=1, llama-server with --models-dir and
--models-max 1. Requests go to the one and the other in turn, so that each of them swaps. Both servers run at the same
time, idle while the other is measured, and are asked in turn. "loaded" is the same request to a model that is there.
Without --peer only dmr is measured. Servers listen on loopback ports of their own and are ended in the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import urllib3

from versus.dmr_server import copy_under_another_name, import_model, start_dmr
from versus.machine import load_average, read_machine, read_versions
from versus.processes import Process, answers, free_port
from versus.telling import tell

ROOT = Path(__file__).parents[1]
STARTER_MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
NAMES = ("first", "second")
PROMPT = "Say hello."
START_TIMEOUT = 60.0  # seconds


class Side(NamedTuple):
    """A server, and what it calls the two models."""

    name: str
    url: str
    models: tuple[str, ...]


def first_token(http: urllib3.PoolManager, side: Side, model: str) -> float:
    """Seconds from the request to the first chunk with text; the whole answer is read."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 4,
        "temperature": 0,
        "stream": True,
    }
    began = time.perf_counter()
    response = http.request("POST", f"{side.url}/v1/chat/completions", json=body, preload_content=False)
    seconds = None
    for line in response:
        if seconds is None and line.startswith(b"data: {"):
            choices = json.loads(line[6:]).get("choices") or [{}]
            if choices[0].get("delta", {}).get("content"):
                seconds = time.perf_counter() - began
    if response.status != 200 or seconds is None:
        raise SystemExit(f"{side.name} answered {response.status} without text")
    return seconds


def start_router(binary: Path, folder: Path, log: Path) -> tuple[Process, str]:
    """llama-server with the models of a folder, one of them loaded at a time."""
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_", "OMP_", "GOMP_"))}
    command = [str(binary), "--models-dir", str(folder), "--models-max", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    process = Process(command, log, environ)
    url = f"http://127.0.0.1:{port}"
    process.wait_ready(lambda: answers(url + "/health"), START_TIMEOUT)
    return process, url


def measure(sides: Sequence[Side], num_rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by side: "swap" of each request to the model that is not there, "loaded" of the one after it."""
    http = urllib3.PoolManager(retries=False, timeout=120.0)
    for side in sides:  # the files come into the page cache, and both have started both once
        for model in side.models:
            first_token(http, side, model)
    figures: dict[str, dict[str, list[float]]] = {side.name: {"swap": [], "loaded": []} for side in sides}
    for number in range(num_rounds):
        for side in sides:
            model = side.models[number % len(side.models)]
            figures[side.name]["swap"].append(first_token(http, side, model))
            figures[side.name]["loaded"].append(first_token(http, side, model))
    return figures


def summary(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(seconds), 4),
        "least": round(min(seconds), 4),
        "most": round(max(seconds), 4),
    }


def run(arguments: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as servers:
        folder = Path(name)
        files = folder / "files"
        files.mkdir()
        (files / f"{NAMES[0]}.gguf").write_bytes(arguments.gguf.read_bytes())
        copy_under_another_name(arguments.gguf, files / f"{NAMES[1]}.gguf")
        for model in NAMES:
            import_model(folder / "models", copied(files / f"{model}.gguf", folder), f"bench/{model}")
        process, url = start_dmr(
            folder / "models",
            folder / "run",
            {"DMR_KEEP_ALIVE": "300", "DMR_MAX_LOADED_MODELS": "1"},
            folder / "dmr.log",
        )
        servers.enter_context(process)
        sides = [Side("dmr", url, tuple(f"bench/{model}" for model in NAMES))]
        if arguments.peer:
            process, url = start_router(arguments.peer, files, folder / "peer.log")
            servers.enter_context(process)
            sides.append(Side("llama-server", url, NAMES))
        before = load_average()
        figures = measure(sides, arguments.rounds)
    return {
        "versions": msgspec.to_builtins(read_versions()),
        "machine": msgspec.to_builtins(read_machine()),
        "load_average": [round(before, 2), round(load_average(), 2)],
        "model": arguments.gguf.name,
        "rounds": arguments.rounds,
        "seconds": {side: {kind: summary(values) for kind, values in kinds.items()} for side, kinds in figures.items()},
        "all": {
            side: {kind: [round(v, 4) for v in values] for kind, values in kinds.items()}
            for side, kinds in figures.items()
        },
    }


def copied(file: Path, folder: Path) -> Path:
    """The store may take the file it is given."""
    copy = folder / file.name
    copy.write_bytes(file.read_bytes())
    return copy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the program llama-server ('make bench-peer' builds it)")
    parser.add_argument("--gguf", type=Path, default=STARTER_MODEL)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    arguments = parser.parse_args()
    figures = run(arguments)
    tell(figures, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
