"""Load that is more than a server can compute at once, beside llama-server: what is accepted, what is refused, at what
price.

    python benchmarks/overload.py [--only streams,requests,idle] [--seconds 60] [--rounds 1]
                                  [--peer LLAMA_SERVER] [--out FILE]

streams   256 clients, each of which asks for a stream again as soon as it has one.
requests  2,000 short requests a second, by the clock, each on a connection of its own, whether others are answered or
          not. 2,000 may be open at a time; who arrives while there are so many is counted, and not sent. Then how long
          it takes until a lone client is answered as fast as before: behind those who still wait for their answers, and
          ("recovery") after a second, short load, whose clients all leave at once. Memory is judged in the last round:
          all threads of a server have then had requests in those before.
idle      8 streams: alone, beside 500 that are read so slowly that all of them was computed long before it is sent, and
          beside 500 connections that are kept without a request; a quarter of the seconds each, and one more alone.

A request is accepted if it is answered with 200, and has failed unless its answer is whole: its finish reason, its
usage, its end, and all the tokens that it asked for. It is refused by 429 or 503 with `Retry-After`, or when no
connection can be opened. All else has failed, also what breaks off or never ends.

The tiny model is made here. Both servers run at the same time, idle while the other is measured, and take turns. A part
or a side that is measured again takes its old place in --out. Servers listen on loopback ports of their own and are
ended in the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from pressure.crowd import measure_crowd
from pressure.flood import measure_flood
from pressure.idle import measure_idle
from pressure.side import OUR_SETTINGS, PEER_FLAGS, Side, our_side, peer_side
from pressure.table import OURS, lines_of, verdicts_of
from versus.machine import load_average, read_cpu_times, read_machine, read_versions

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from tiny_models import model_file  # noqa: E402

PARTS = ("streams", "requests", "idle")


def measure(part: str, side: Side, options: argparse.Namespace, seed: str) -> dict[str, Any]:
    """One round."""
    if part == "streams":
        figures, reasons = measure_crowd(side, options.streams, options.seconds, seed)
        return {"figures": figures, "reasons": reasons}
    if part == "requests":
        figures, reasons, samples = measure_flood(side, options.rate, options.open, options.seconds, seed)
        return {"figures": figures, "reasons": reasons, "memory": samples}
    return {"figures": measure_idle(side, options.busy, options.idle, options.seconds, seed)}


def measure_part(part: str, sides: Sequence[Side], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """The rounds of each side."""
    rounds: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
    for side in sides:
        measure_crowd(side, 8, 1.0, f"warm {part}")
    for number in range(options.rounds):
        start = number % len(sides)
        for side in [*sides[start:], *sides[:start]]:
            before, times = load_average(), read_cpu_times()
            found = measure(part, side, options, f"{part} {number}")
            busy, stolen = read_cpu_times().since(times)
            machine = {"load_average": round(before, 2), "busy": round(busy, 3), "stolen": round(stolen, 3)}
            rounds[side.name].append({**found, "machine": machine})
            side.wait_at_rest(30.0)
    return rounds


@contextlib.contextmanager
def all_sides(options: argparse.Namespace, folder: Path) -> Any:
    weights = model_file("tiny-random", folder)
    settings = dict(each.split("=", 1) for each in options.dmr_set)
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(our_side(weights, folder, settings))] if not options.without_dmr else []
        if options.peer:
            sides.append(stack.enter_context(peer_side(options.peer, weights, folder)))
        yield sides


def keep(out: Path, part: str, result: dict[str, Any]) -> None:
    """Beside the other parts and sides that are there."""
    kept: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    before = kept.get(part, {})
    kept[part] = {**before, **result, "sides": {**before.get("sides", {}), **result["sides"]}}
    ordered = {name: kept[name] for name in PARTS if name in kept}
    out.write_text(json.dumps(_finite(ordered), indent=1) + "\n")


def _finite(value: Any) -> Any:
    """What JSON has a word for; seconds have fewer digits than floats."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="which parts")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each part and side")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--streams", type=int, default=256, help="at the same time")
    parser.add_argument("--rate", type=float, default=2000.0, help="requests a second")
    parser.add_argument("--open", type=int, default=2000, help="requests that may be open at the same time")
    parser.add_argument("--busy", type=int, default=8, help="streams beside the idle ones")
    parser.add_argument("--idle", type=int, default=500, help="streams, and connections, without work")
    parser.add_argument("--peer", type=Path, help="the program llama-server ('make bench-peer' builds it)")
    parser.add_argument("--without-dmr", action="store_true")
    parser.add_argument("--dmr-set", action="append", default=[], metavar="NAME=VALUE", help="to try something out")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    all_kept = True
    for part in options.only.split(","):
        # Sockets are in there, and their paths must be short.
        with tempfile.TemporaryDirectory(prefix="dmr-load-") as name, all_sides(options, Path(name)) as sides:
            rounds = measure_part(part, sides, options)
        print("\n".join(lines_of(part, rounds)), flush=True)
        all_kept = all_kept and not any("BROKEN" in words for words in verdicts_of(part, rounds))
        if options.out is not None:
            keep(options.out, part, described(part, rounds, options))
    return 0 if all_kept else 1


def described(part: str, rounds: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> dict[str, Any]:
    """What was measured, with what, and where."""
    ours = [*(f"{name}={value}" for name, value in OUR_SETTINGS.items()), *options.dmr_set]
    settings = {OURS: ours, "llama-server": ["-t", str(os.cpu_count()), *PEER_FLAGS]}
    where = {
        "versions": msgspec.to_builtins(read_versions()),
        "machine": msgspec.to_builtins(read_machine()),
        "asked": {name: getattr(options, name) for name in ("seconds", "streams", "rate", "open", "busy", "idle")},
    }
    sides = {name: {"settings": settings[name], **where, "rounds": found} for name, found in rounds.items()}
    return {"promises": verdicts_of(part, rounds), "sides": sides} if OURS in rounds else {"sides": sides}


if __name__ == "__main__":
    sys.exit(main())
