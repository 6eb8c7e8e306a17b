"""What images cost those who send them, and those who do not, beside llama-server.

    python benchmarks/media.py [--peer LLAMA_SERVER] [--gguf FILE] [--rounds 3] [--seconds 20] [--out FILE]

The text model gets a projector of noise that costs what a real one costs: `--blocks` of `--width` over `--side` pixels,
of which 14 x 14 are one place in the prompt. What is said of an image is nonsense, which costs the same.

- "first" and "repeated": time to the first token (TTFT) of an image that is new, and of the same image with another
  question. "elsewhere": of an image that is known, behind other text, so that its places are new in the prompt.
- "quiet" and "images": time between two chunks of text (ITL) of four streams, alone and while images arrive: from the
  moment that one is sent until its first token. One is sent every five seconds; "whole" is of all that time, also when
  none is under way.

Both servers run at the same time, idle while the other is measured, and take turns. Without --peer only dmr is
measured. Servers listen on loopback ports of their own and are ended in the end.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import urllib3
from PIL import Image

from versus.dmr_server import start_dmr
from versus.machine import load_average, read_machine, read_versions
from versus.processes import Process, answers, free_port
from versus.telling import tell

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

import gguf  # noqa: E402
from tiny_models import write_costly_projector  # noqa: E402

from dmr.store.store import ModelStore  # noqa: E402

STARTER_MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "bench/seeing"
CONTEXT = 8192  # tokens, for all sequences
NUM_STREAMS = 4
STREAM_TOKENS = 300  # of one answer; then the stream asks anew
IMAGE_INTERVAL = 5.0  # seconds
START_TIMEOUT = 60.0
WORDS = ("river", "stone", "window", "garden", "letter", "music", "winter", "silver", "morning", "paper", "ocean")


class Side(NamedTuple):
    name: str
    url: str


class Span(NamedTuple):
    """Of time: between two chunks of a stream, or between an image and its first token."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def overlaps(self, other: Span) -> bool:
        return self.begin < other.end and other.begin < self.end


def new_image(dice: random.Random, side: int) -> dict[str, Any]:
    """A part of a message. No two are alike."""
    colours = bytes(dice.randrange(256) for _ in range(3 * 64))
    target = io.BytesIO()
    Image.frombytes("RGB", (8, 8), colours).resize((side, side)).save(target, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}"},
    }


def words(dice: random.Random, count: int) -> str:
    return " ".join(dice.choices(WORDS, k=count))


def chunk_times(side: Side, content: Any, max_tokens: int, until: float = float("inf")) -> list[float]:
    """When the request was sent, and when each chunk with text came; it is left at `until`."""
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    with urllib3.PoolManager(retries=False, timeout=300.0) as http:
        times = [time.perf_counter()]
        response = http.request("POST", f"{side.url}/v1/chat/completions", json=body, preload_content=False)
        if response.status != 200:
            raise SystemExit(f"{side.name} answered {response.status}: {response.read()[:500]!r}")
        for line in response:
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:]).get("choices") or [{}]
                if choices[0].get("delta", {}).get("content"):
                    times.append(time.perf_counter())
            if time.perf_counter() > until:
                break
        response.close()
    if len(times) == 1:
        raise SystemExit(f"{side.name} answered without text")
    return times


def first_token(side: Side, content: Any) -> float:
    times = chunk_times(side, content, 4)
    return times[1] - times[0]


def measure_first(side: Side, dice: random.Random, pixels: int) -> dict[str, float]:
    image = new_image(dice, pixels)
    return {
        "first": first_token(side, [image, {"type": "text", "text": f"What is this? {words(dice, 8)}"}]),
        "repeated": first_token(side, [image, {"type": "text", "text": f"And this? {words(dice, 8)}"}]),
        "elsewhere": first_token(
            side, [{"type": "text", "text": words(dice, 8)}, image, {"type": "text", "text": "?"}]
        ),
        "text": first_token(side, f"Say hello. {words(dice, 8)}"),
    }


def measure_streams(
    side: Side, dice: random.Random, seconds: float, pixels: int | None
) -> tuple[list[Span], list[Span]]:
    """Between the chunks of all streams, and of the images; `pixels` of an image, None = none arrives."""
    gaps: list[Span] = []
    end = time.perf_counter() + seconds
    prompts = [words(dice, 20) for _ in range(NUM_STREAMS)]

    def stream(prompt: str) -> None:
        number = 0
        while time.perf_counter() < end:
            number += 1
            times = chunk_times(side, f"{prompt} {number}", STREAM_TOKENS, until=end)[1:]
            gaps.extend(Span(earlier, later) for earlier, later in pairwise(times))

    threads = [threading.Thread(target=stream, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    time.sleep(1.0)  # prompts are computed
    shown, images = list[threading.Thread](), list[Span]()

    def show(content: Any) -> None:
        times = chunk_times(side, content, 4)
        images.append(Span(times[0], times[1]))

    while pixels is not None and time.perf_counter() < end - IMAGE_INTERVAL / 2:
        content = [new_image(dice, pixels), {"type": "text", "text": "What is this?"}]
        shown.append(threading.Thread(target=show, args=(content,)))
        shown[-1].start()
        time.sleep(IMAGE_INTERVAL)
    for thread in [*threads, *shown]:
        thread.join()
    return gaps, images


def start_peer(binary: Path, weights: Path, projector: Path, log: Path) -> tuple[Process, str]:
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_", "OMP_", "GOMP_"))}
    command = [str(binary), "-m", str(weights), "--mmproj", str(projector), "-t", str(os.cpu_count() or 1)]
    command += ["-np", str(NUM_STREAMS + 2), "-c", str(CONTEXT), "-kvu", "--host", "127.0.0.1", "--port", str(port)]
    process = Process(command, log, environ)
    url = f"http://127.0.0.1:{port}"
    process.wait_ready(lambda: answers(url + "/health"), START_TIMEOUT)
    return process, url


def summary(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(seconds), 4),
        "least": round(min(seconds), 4),
        "most": round(max(seconds), 4),
    }


def latency(gaps: Sequence[float]) -> dict[str, float]:
    """Without chunks if no stream got two: so busy was the server."""
    ordered = sorted(gaps)
    if not ordered:
        return {"chunks": 0}
    return {
        "p50": round(ordered[len(ordered) // 2], 4),
        "p99": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 4),
        "most": round(ordered[-1], 4),
        "chunks": len(ordered),
    }


def measure(sides: Sequence[Side], arguments: argparse.Namespace) -> dict[str, Any]:
    first: dict[str, dict[str, list[float]]] = {side.name: {} for side in sides}
    gaps: dict[str, dict[str, list[float]]] = {side.name: {"quiet": [], "images": [], "whole": []} for side in sides}
    for side in sides:  # the model is loaded, and all has been done once
        measure_first(side, random.Random("warm"), arguments.side)
    for number in range(arguments.rounds):
        for side in sides[number % len(sides) :] + sides[: number % len(sides)]:
            for kind, seconds in measure_first(side, random.Random(f"first {number}"), arguments.side).items():
                first[side.name].setdefault(kind, []).append(seconds)
            dice = random.Random(f"streams {number}")
            quiet, _ = measure_streams(side, dice, arguments.seconds / 2, None)
            whole, images = measure_streams(side, dice, arguments.seconds, arguments.side)
            gaps[side.name]["quiet"] += [gap.seconds for gap in quiet]
            gaps[side.name]["whole"] += [gap.seconds for gap in whole]
            gaps[side.name]["images"] += [gap.seconds for gap in whole if any(map(gap.overlaps, images))]
            print(f"round {number + 1} {side.name}: {latency(gaps[side.name]['images'])}", file=sys.stderr)
    return {
        "ttft_seconds": {side: {kind: summary(each) for kind, each in kinds.items()} for side, kinds in first.items()},
        "itl_seconds": {side: {kind: latency(each) for kind, each in kinds.items()} for side, kinds in gaps.items()},
        "all_ttft": {
            side: {kind: [round(v, 4) for v in each] for kind, each in kinds.items()} for side, kinds in first.items()
        },
    }


def text_width(weights: Path) -> int:
    reader = gguf.GGUFReader(weights)
    architecture = reader.fields["general.architecture"].contents()
    return int(reader.fields[f"{architecture}.embedding_length"].contents())


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="dmr-media-") as name, contextlib.ExitStack() as servers:
        folder = Path(name)
        projector = folder / "mmproj.gguf"
        write_costly_projector(projector, text_width(arguments.gguf), arguments.blocks, arguments.width, arguments.side)
        ModelStore(folder / "models").import_gguf(arguments.gguf, NAME, mmproj=projector)
        settings = {"DMR_CONTEXT_SIZE": str(CONTEXT)}
        process, url = start_dmr(folder / "models", folder / "run", settings, folder / "dmr.log")
        servers.enter_context(process)
        sides = [Side("dmr", url)]
        if arguments.peer:
            process, url = start_peer(arguments.peer, arguments.gguf, projector, folder / "peer.log")
            servers.enter_context(process)
            sides.append(Side("llama-server", url))
        before = load_average()
        figures = measure(sides, arguments)
    return {
        "versions": msgspec.to_builtins(read_versions()),
        "machine": msgspec.to_builtins(read_machine()),
        "load_average": [round(before, 2), round(load_average(), 2)],
        "model": arguments.gguf.name,
        "tower": {"blocks": arguments.blocks, "width": arguments.width, "pixels": arguments.side},
        "places": (arguments.side // 14) ** 2,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        **figures,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the program llama-server ('make bench-peer' builds it)")
    parser.add_argument("--gguf", type=Path, default=STARTER_MODEL, help="a text model")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--side", type=int, default=224, help="pixels, a multiple of 14")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of the streams, each time")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    arguments = parser.parse_args()
    figures = run(arguments)
    tell(figures, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
