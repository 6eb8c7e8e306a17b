"""Memory of our processes: beside llama-server's at equal context, and over many requests.

    python benchmarks/memory.py [--peer LLAMA_SERVER] [--gguf FILE] [--requests 10000] [--out FILE] [--plot FILE.png]

beside  what the engine's process holds after a few requests, and what llama-server holds with the same model, context
        and number of sequences; resident (RSS) and without pages of files (RssAnon). Skipped without --peer.
curve   resident memory and open files of all our processes together over many requests with the tiny model, which is
        made here. Between the first fifth and the end nothing may grow.

Neither saves KV cells in host memory: that is a cache, which grows until it is as large as it may be. Servers listen on
loopback ports of their own and are ended in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from versus.holding import Held, held_by
from versus.machine import read_versions
from versus.processes import Process, answers, free_port

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from tiny_models import model_file  # noqa: E402

from dmr.bench.load import LoadClient  # noqa: E402
from dmr.store.store import ModelStore  # noqa: E402

STARTER_MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "bench/model"
CONTEXT = 8192  # cells in all
NUM_SEQUENCES = 32
MORE_THAN_PEER = 60.0  # MB that the engine may hold more than llama-server
MAY_GROW = 8.0  # MB of all processes, between the first fifth of the requests and the end
CONCURRENCY = 16
NUM_SAMPLES = 100
SEED = 5

Say = Callable[[str], None]


class Sample(NamedTuple):
    num_requests: int  # so far
    all: Held  # processes together
    engine: Held


def engines_of(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            if b"dmr.engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


@contextmanager
def our_server(weights: Path, folder: Path) -> Iterator[tuple[Process, str]]:
    ModelStore(folder / "models").import_gguf(weights, NAME)
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DMR_")}
    environ |= {"MODELS_PATH": str(folder / "models"), "MODEL_RUNNER_PORT": str(port), "DMR_THREADS": "1"}
    environ |= {"DMR_RUNTIME_DIR": str(folder / "run"), "DMR_CONTEXT_SIZE": str(CONTEXT)}
    environ |= {"DMR_MAX_SEQUENCES": str(NUM_SEQUENCES), "DMR_HOST_CACHE": "0"}
    url = f"http://127.0.0.1:{port}"
    with Process([sys.executable, "-m", "dmr", "serve"], folder / "server.log", environ) as process:
        process.wait_ready(lambda: answers(url + "/ready"), 60.0)
        yield process, url


@contextmanager
def peer_server(binary: Path, weights: Path, folder: Path) -> Iterator[tuple[Process, str]]:
    port = free_port()
    command = [str(binary), "-m", str(weights), "--host", "127.0.0.1", "--port", str(port), "-t", "1"]
    command += ["-c", str(CONTEXT), "-np", str(NUM_SEQUENCES), "-kvu", "--cache-ram", "0"]
    url = f"http://127.0.0.1:{port}"
    with Process(command, folder / "peer.log", os.environ) as process:
        process.wait_ready(lambda: answers(url + "/health"), 60.0)
        yield process, url


async def ask(url: str, bodies: list[dict[str, Any]]) -> None:
    """`CONCURRENCY` requests at a time. Raises RuntimeError when one fails."""
    client = LoadClient(url)
    left = iter(bodies)

    async def one_after_the_other() -> None:
        for body in left:
            outcome = await client.complete({"model": NAME, "temperature": 0, **body})
            if outcome.error is not None:
                raise RuntimeError(outcome.error)

    await asyncio.gather(*(one_after_the_other() for _ in range(CONCURRENCY)))


def bodies_of(number: int, dice: random.Random, max_tokens: int) -> list[dict[str, Any]]:
    def text() -> str:
        return " ".join("".join(dice.choices("abcdefgh", k=4)) for _ in range(dice.randrange(1, 12)))

    return [{"prompt": text(), "max_tokens": dice.randrange(1, max_tokens)} for _ in range(number)]


def measure_beside(peer: Path, weights: Path, say: Say) -> dict[str, Any]:
    """After the same few requests to each."""
    found: dict[str, Held] = {}
    for name in ("engine", "llama-server"):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            serving = our_server(weights, folder) if name == "engine" else peer_server(peer, weights, folder)
            with serving as (process, url):
                asyncio.run(ask(url, bodies_of(3 * CONCURRENCY, random.Random(SEED), 24)))
                family = process.family()
                found[name] = held_by(engines_of(family) if name == "engine" else family)
                if name == "engine":
                    found["our other processes"] = held_by([pid for pid in family if pid not in engines_of(family)])
    for name, held in found.items():
        say(f"  {name:<22} {held.rss:8.1f} MB resident, {held.anon:8.1f} MB without pages of files")
    more = {kind: getattr(found["engine"], kind) - getattr(found["llama-server"], kind) for kind in ("rss", "anon")}
    met = more["rss"] <= MORE_THAN_PEER
    say(
        f"  the engine holds {more['rss']:+.1f} MB (without files {more['anon']:+.1f}), "
        f"target <= {MORE_THAN_PEER:+g}: {verdict(met)}"
    )
    return {"processes": {name: held._asdict() for name, held in found.items()}, "more": more, "met": met}


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def measure_curve(num_requests: int, say: Say) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dice = random.Random(SEED)
        with our_server(model_file("tiny-random", folder), folder) as (process, url):
            samples: list[Sample] = []
            done = 0
            while done < num_requests:
                count = max(1, min(num_requests // NUM_SAMPLES, num_requests - done))
                asyncio.run(ask(url, bodies_of(count, dice, 16)))
                done += count
                family = process.family()
                samples.append(Sample(done, held_by(family), held_by(engines_of(family))))
    fifth = max(1, len(samples) // 5)
    late = samples[-1].all
    growth = {kind: getattr(late, kind) - getattr(samples[fifth - 1].all, kind) for kind in ("rss", "anon")}
    growth["num_files"] = fewest_files(samples[-fifth:]) - fewest_files(samples[:fifth])
    met = growth["anon"] <= MAY_GROW and growth["num_files"] <= 0
    say(
        f"  {num_requests} requests: {late.rss:.1f} MB resident in the end; since the first fifth "
        f"{growth['anon']:+.2f} MB without files and {growth['num_files']:+d} open files, "
        f"target <= {MAY_GROW:+g} MB and none: {verdict(met)}"
    )
    rows = [{"requests": each.num_requests, **each.all._asdict(), "engine": each.engine._asdict()} for each in samples]
    return {"samples": rows, "growth": growth, "met": met}


def fewest_files(samples: list[Sample]) -> int:
    """A sample may fall on the moment when a connection is about to be closed."""
    return min(sample.all.num_files for sample in samples)


def plot(curve: dict[str, Any], path: Path) -> None:
    """Raises ImportError without matplotlib, which is in the extra `bench`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    samples = curve["samples"]
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for kind, label in (("rss", "resident"), ("anon", "without pages of files")):
        axes.plot([s["requests"] for s in samples], [s[kind] for s in samples], label=label)
    axes.set(xlabel="requests", ylabel="MB, all processes", ylim=(0, None))
    axes.plot([s["requests"] for s in samples], [s["engine"]["anon"] for s in samples], label="of it, the engine's")
    files = axes.twinx()
    files.plot([s["requests"] for s in samples], [s["num_files"] for s in samples], color="grey", linewidth=0.8)
    files.set(ylabel="open files (grey)", ylim=(0, None))
    axes.legend(loc="lower right")
    axes.set_title("Memory over requests")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a llama-server of the same sources")
    parser.add_argument("--gguf", type=Path, default=STARTER_MODEL, help="what both of them serve")
    parser.add_argument("--requests", type=int, default=10_000, help="of the curve; 0 = no curve")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("--plot", type=Path, help="draw the curve there")
    options = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)

    results: dict[str, Any] = {"versions": msgspec.to_builtins(read_versions())}
    if options.peer is None or not options.gguf.exists():
        say("beside: skipped, it needs --peer and a model (--gguf)")
    else:
        say(f"beside: context of {CONTEXT} cells, {NUM_SEQUENCES} sequences")
        results["beside"] = measure_beside(options.peer, options.gguf, say)
    if options.requests:
        say("curve:")
        results["curve"] = measure_curve(options.requests, say)
        if options.plot is not None:
            plot(results["curve"], options.plot)
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(results[name]["met"] for name in ("beside", "curve") if name in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
