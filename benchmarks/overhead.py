"""What we add to the native computation: time to the first token, CPU time of each token, the host's share of a step.

    python benchmarks/overhead.py [--only ttft,cpu,host,growth] [--threads 1] [--out FILE]

Four tables with their targets:

ttft    what HTTP, the processes between and the scheduler add to the time to the first token: the client's, less that
        of the request's native call. One request after the other, tiny model.
cpu     CPU time of all our processes together for each streamed token, less that of the native calls, which a probe in
        the engine's process tells. From answers of two lengths, so that a request's own cost is told apart. Tiny model,
        1, 16 and 64 streams.
host    the part of a step that is spent outside of native code. A real model (--gguf).
growth  what a step costs from 1 to 256 sequences. Tiny model.

All of it is CPU time or depends on it, so beside other work on the machine the figures are larger: the load average and
a yardstick stand above each table. The tiny model is made here; servers listen on a loopback port of their own and are
ended in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from first_token import KeptConnection, first_token
from versus.machine import load_average, read_machine, read_versions
from versus.processes import Process, answers, free_port

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from tiny_models import model_file  # noqa: E402

from dmr.bench.engine_figures import EngineOrder, MeasuredStep  # noqa: E402
from dmr.bench.load import LoadClient, Outcome  # noqa: E402
from dmr.bench.prompts import PromptMaker  # noqa: E402
from dmr.config import EngineSettings  # noqa: E402
from dmr.engine.bench import EngineBench  # noqa: E402
from dmr.store.store import ModelStore  # noqa: E402

STARTER_MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "bench/tiny"
PROMPT_TOKENS = 16
SHORT, LONG = 32, 160  # tokens of an answer
SEED = 3
CPU_LEVELS = (1, 16, 64)  # streams
HOST_LEVELS = (1, 8, 64)  # sequences
GROWTH_LEVELS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GREEDY = {"temperature": 0, "ignore_eos": True, "model": NAME}

Say = Callable[[str], None]


class Line(NamedTuple):
    """One line of a table: a figure, and its target if it has one."""

    what: str
    value: float
    unit: str
    target: float | None = None

    def __str__(self) -> str:
        text = f"  {self.what:<58} {self.value:>10.3f} {self.unit:<14}"
        if self.target is None:
            return text
        return f"{text} target <= {self.target:g}: {'met' if self.value <= self.target else 'MISSED'}"


# --- an engine without a server --------------------------------------------------------------------------------------


def engine_bench(weights: Path, threads: int, levels: tuple[int, ...], output_tokens: int) -> EngineBench:
    order = EngineOrder(
        weights=(str(weights),),
        settings=EngineSettings(num_threads=threads),
        concurrency=levels,
        prompt_tokens=PROMPT_TOKENS,
        output_tokens=output_tokens,
        seed=SEED,
    )
    bench = EngineBench(order, lambda fraction: True)
    bench.warm_up()
    return bench


def decode_steps(bench: EngineBench, concurrency: int) -> list[MeasuredStep]:
    """Steps in which every sequence generates. Nothing is parked in the KV memory: it would make steps longer."""
    bench._engine._scheduler._kv_cache.drop_parked()
    return bench._decode([tuple(bench._prompts.make()) for _ in range(concurrency)])


def undisturbed(values: Iterable[float]) -> float:
    """The first quartile: others on the machine can only make a step longer."""
    return statistics.quantiles(values, n=4)[0]


# --- a server --------------------------------------------------------------------------------------------------------


# Goes into the engine's process before all else, and tells through a file of the thread that steps: its CPU time in
# native calls, all its CPU time, and the seconds that native calls took by the clock on the wall.
PROBE = """
import os, struct, sys, time

if "dmr.engine.worker" in sys.orig_argv:
    from dmr import _core

    step, told = _core.step, os.open(os.environ["BENCH_PROBE"], os.O_RDWR | os.O_CREAT)
    native = wall = 0.0

    def measured(*arguments):
        global native, wall
        began, began_wall = time.thread_time(), time.perf_counter()
        try:
            return step(*arguments)
        finally:
            wall += time.perf_counter() - began_wall
            ended = time.thread_time()
            native += ended - began
            os.pwrite(told, struct.pack("ddd", native, ended, wall), 0)

    _core.step = measured
"""


class Served(NamedTuple):
    process: Process
    url: str
    probe: Path

    def spent(self) -> Spent:
        """So far."""
        family = self.process.family()
        native, stepping, _ = struct.unpack("ddd", self.probe.read_bytes())
        engine = sum(cpu_seconds(pid) for pid in family if _is_engine(pid))
        others = sum(cpu_seconds(pid) for pid in family if not _is_engine(pid))
        return Spent(native, stepping - native, engine - stepping, others)

    def native_seconds(self) -> float:
        """That native calls have taken so far."""
        return float(struct.unpack("ddd", self.probe.read_bytes())[2])


@contextmanager
def server(weights: Path, threads: int, folder: Path) -> Iterator[Served]:
    """`dmr serve` with its defaults and the one model, loaded."""
    ModelStore(folder / "models").import_gguf(weights, NAME)
    (folder / "sitecustomize.py").write_text(PROBE)
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DMR_")}
    environ |= {"MODELS_PATH": str(folder / "models"), "MODEL_RUNNER_PORT": str(port), "DMR_THREADS": str(threads)}
    environ |= {"DMR_RUNTIME_DIR": str(folder / "run"), "DMR_MAX_SEQUENCES": "64", "DMR_CONTEXT_SIZE": "16384"}
    environ |= {"PYTHONPATH": str(folder), "BENCH_PROBE": str(folder / "probe")}
    url = f"http://127.0.0.1:{port}"
    with Process([sys.executable, "-m", "dmr", "serve"], folder / "server.log", environ) as process:
        process.wait_ready(lambda: answers(url + "/ready"), 60.0)
        asyncio.run(stream(url, 1, 4))
        yield Served(process, url, folder / "probe")


async def stream(url: str, concurrency: int, num_tokens: int, seed: int = SEED) -> list[Outcome]:
    """So many answers at the same time. Raises RuntimeError when one fails."""
    client = LoadClient(url)
    prompts = PromptMaker(range(4, 200), seed, PROMPT_TOKENS)
    bodies = [{**GREEDY, "prompt": prompts.make(), "max_tokens": num_tokens} for _ in range(concurrency)]
    outcomes = await asyncio.gather(*(client.complete(body) for body in bodies))
    for outcome in outcomes:
        if outcome.error is not None:
            raise RuntimeError(outcome.error)
    return list(outcomes)


def cpu_seconds(pid: int) -> float:
    """What a process has computed so far, in all its threads; finer than the ticks of /proc/PID/stat."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


# --- the tables ------------------------------------------------------------------------------------------------------


def measure_ttft(served: Served, num_requests: int) -> list[Line]:
    """One request for one token after the other, so that nobody waits for anybody and each has one native call.

    On a connection that is kept, as SDKs do it, and on new ones, as in the other benchmarks.
    """
    times: dict[str, list[tuple[float, float]]] = {}
    prompts = PromptMaker(range(4, 200), SEED + 1, PROMPT_TOKENS)
    letters = PromptMaker([ord(letter) for letter in "abcdefgh "], SEED, 16)
    ways: dict[str, Callable[[str, dict[str, Any]], float]] = {
        "kept": KeptConnection(served.url).first_token,
        "new": lambda path, body: asyncio.run(first_token(served.url, path, body)),
    }
    for _ in range(num_requests):
        for way, ask in ways.items():
            content = "".join(map(chr, letters.make()))
            asked = {
                "/v1/completions": {"prompt": prompts.make()},
                "/v1/chat/completions": {"messages": [{"role": "user", "content": content}]},
            }
            for path, body in asked.items():
                native = served.native_seconds()
                ttft = ask(path, {**GREEDY, "max_tokens": 1, "stream": True, **body})
                times.setdefault(f"{path}, {way}", []).append((ttft, served.native_seconds() - native))
    lines: list[Line] = []
    for what, pairs in times.items():
        target = 3.0 if what.startswith("/v1/completions") else None
        lines += [
            Line(f"{what}: time to the first token, p50", statistics.median(ttft for ttft, _ in pairs) * 1e3, "ms"),
            Line(f"{what}: of it, the native call, p50", statistics.median(native for _, native in pairs) * 1e3, "ms"),
            Line(f"{what}: added, p50", statistics.median(ttft - native for ttft, native in pairs) * 1e3, "ms", target),
        ]
    return lines


def measure_cpu(served: Served, num_tokens: int) -> list[Line]:
    """From answers of two lengths: what they differ by is the tokens' part, the rest the requests'."""
    lines = []
    for concurrency in CPU_LEVELS:
        rounds = max(2, num_tokens // (LONG * concurrency))
        asyncio.run(stream(served.url, concurrency, SHORT))
        short, long = (cpu_of_streams(served, concurrency, length, rounds) for length in (SHORT, LONG))
        added = rounds * concurrency * (LONG - SHORT)
        token = Spent(*((late - early) / added for early, late in zip(short, long, strict=True)))
        request = sum(short) / (rounds * concurrency) - SHORT * sum(token)
        lines += [
            Line(f"{concurrency} streams: native computation", token.native * 1e6, "us/token"),
            Line(f"{concurrency} streams: engine, the thread that steps", token.steps * 1e6, "us/token"),
            Line(f"{concurrency} streams: engine, its other threads", token.engine * 1e6, "us/token"),
            Line(f"{concurrency} streams: workers and manager", token.others * 1e6, "us/token"),
            Line(
                f"{concurrency} streams: all but the computation", (sum(token) - token.native) * 1e6, "us/token", 40.0
            ),
            Line(f"{concurrency} streams: a request, its prompt's computation too", request * 1e3, "ms"),
        ]
    return lines


class Spent(NamedTuple):
    """CPU seconds."""

    native: float  # of the thread that steps, in native calls
    steps: float  # of the same thread, besides
    engine: float  # of all the other threads of the engine
    others: float  # of all the other processes


def cpu_of_streams(served: Served, concurrency: int, length: int, rounds: int) -> Spent:
    before = served.spent()
    for number in range(rounds):
        outcomes = asyncio.run(stream(served.url, concurrency, length, seed=1000 * length + number))
        assert all(outcome.num_completion_tokens == length for outcome in outcomes)
    return Spent(*(late - early for early, late in zip(before, served.spent(), strict=True)))


def _is_engine(pid: int) -> bool:
    try:
        return b"dmr.engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def measure_host(weights: Path, threads: int, output_tokens: int) -> list[Line]:
    bench = engine_bench(weights, threads, HOST_LEVELS, output_tokens)
    lines = []
    for concurrency in HOST_LEVELS:
        steps = decode_steps(bench, concurrency)
        host = undisturbed(step.seconds - step.native_seconds for step in steps)
        whole = undisturbed(step.seconds for step in steps)
        lines += [
            Line(f"{concurrency} sequences: a step", whole * 1e3, "ms"),
            Line(f"{concurrency} sequences: of it, the host's", host * 1e6 / concurrency, "us/sequence"),
            Line(f"{concurrency} sequences: the host's share", 100 * host / whole, "%", 10.0),
        ]
    return lines


def measure_growth(weights: Path, threads: int, output_tokens: int) -> list[Line]:
    """Linear growth is an exponent of 1; a little more is noise. Few sequences share what every step costs, so the
    exponent is that from 16 sequences on.
    """
    bench = engine_bench(weights, threads, GROWTH_LEVELS, output_tokens)
    lines: list[Line] = []
    known: dict[int, tuple[float, float]] = {}
    for concurrency in GROWTH_LEVELS:
        steps = decode_steps(bench, concurrency)
        host = undisturbed(step.seconds - step.native_seconds for step in steps)
        whole = undisturbed(step.seconds for step in steps)
        known[concurrency] = whole, host
        lines.append(Line(f"{concurrency} sequences: a step", whole * 1e6 / concurrency, "us/sequence"))
        lines.append(Line(f"{concurrency} sequences: of it, the host's", host * 1e6 / concurrency, "us/sequence"))
    few, many = 16, GROWTH_LEVELS[-1]
    for index, name in enumerate(("a step", "the host's part of a step")):
        exponent = math.log(known[many][index] / known[few][index]) / math.log(many / few)
        lines.append(Line(f"{name}, from {few} to {many} sequences", exponent, "exponent", 1.1))
    return lines


def yardstick() -> float:
    """CPU seconds of a fixed piece of Python: others on the same core make everything cost more, this too."""
    found = []
    for _ in range(5):
        began, total = time.process_time(), 0
        for number in range(200_000):
            total += number
        found.append(time.process_time() - began)
    return statistics.median(found)


# --- the script ------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace, say: Say) -> dict[str, list[Line]]:
    wanted = options.only.split(",")
    results: dict[str, list[Line]] = {}

    def table(name: str, measure: Callable[[], list[Line]]) -> None:
        if name in wanted:
            say(f"{name}  (load average {load_average():.1f}, yardstick {yardstick() * 1e3:.1f} ms)")
            results[name] = measure()
            for line in results[name]:
                say(str(line))

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tiny = model_file("tiny-random", folder)
        threads = options.threads
        if {"ttft", "cpu"} & set(wanted):
            with server(tiny, threads, folder) as served:
                table("ttft", lambda: measure_ttft(served, options.requests))
                table("cpu", lambda: measure_cpu(served, options.tokens))
        if options.gguf.exists():
            table("host", lambda: measure_host(options.gguf, threads, options.steps))
        elif "host" in wanted:
            say(f"host: skipped, there is no {options.gguf}")
        table("growth", lambda: measure_growth(tiny, threads, options.steps))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="ttft,cpu,host,growth", help="tables to make, by name")
    parser.add_argument("--gguf", type=Path, default=STARTER_MODEL, help="a real model, for the host's share")
    parser.add_argument("--threads", type=int, default=1, help="compute threads")
    parser.add_argument("--requests", type=int, default=200, help="for the time to the first token")
    parser.add_argument("--tokens", type=int, default=8192, help="streamed at each level")
    parser.add_argument("--steps", type=int, default=60, help="measured at each level")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    results = run(options, lambda text: print(text, flush=True))
    if options.out is not None:
        document = {
            "machine": msgspec.to_builtins(read_machine()),
            "versions": msgspec.to_builtins(read_versions()),
            "threads": options.threads,
            "tables": {name: [line._asdict() for line in lines] for name, lines in results.items()},
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    targets = [line for lines in results.values() for line in lines if line.target is not None]
    return 0 if all(line.value <= (line.target or 0) for line in targets) else 1


if __name__ == "__main__":
    raise SystemExit(main())
