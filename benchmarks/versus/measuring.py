"""Rounds in turns: every side gets the same work, one after the other, and never two at once."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from .dmr_server import copy_under_another_name, dmr_environ, import_model
from .figures import Figures, RoundFailed
from .machine import load_average, read_cpu_times, read_machine, read_versions
from .peer import peer_environ, peer_flags
from .processes import DidNotStart, spinning_neighbour
from .results import Round, RowResult
from .row import Row, Setup
from .side import DMR, Side, dmr_side, peer_side

ROUND_TIMEOUT = 660.0
SPINS = 0.05  # cores; an idle server that takes more disturbs the others

Say = Callable[[str], None]


class Plan(NamedTuple):
    """What to measure with."""

    binary: Path  # llama-server
    model: Path
    embedding_model: Path | None
    settings: tuple[str, ...]  # of the peer; may be none
    with_dmr: bool
    num_pairs: int | None  # of rounds; None: what each row has in the short set
    num_threads: int  # of the peer; dmr finds out by itself
    dmr_settings: Mapping[str, str] = {}  # variables, to try something out; its defaults are what counts


def describe_settings(setup: Setup, plan: Plan) -> dict[str, list[str]]:
    """By side, in the order in which they take turns."""
    peers = {
        setting: [f"{name}={value}" for name, value in peer_environ(setting).items()]
        + peer_flags(setting, setup, plan.num_threads)
        for setting in plan.settings
    }
    ours = (
        {DMR: [f"{name}={value}" for name, value in dmr_environ(setup, plan.dmr_settings).items()]}
        if plan.with_dmr
        else {}
    )
    first = dict(list(peers.items())[:1])
    return {**first, **ours, **peers}


def turns(sides: Sequence[Side], number: int) -> list[Side]:
    """Each pair begins with another side, so that what slowly changes on the machine hits all alike."""
    start = number % len(sides)
    return [*sides[start:], *sides[:start]]


@contextlib.contextmanager
def sides_of(setup: Setup, plan: Plan, folder: Path) -> Iterator[list[Side]]:
    """All sides of a row, ended in the end. Files go into `folder`. Raises RoundFailed when a model is missing."""
    file = plan.embedding_model if setup.embeds else plan.model
    if file is None:
        raise RoundFailed("it needs a model for embeddings (DMR_BENCH_EMBED_GGUF or --embed-gguf)")
    files = [file]
    if setup.num_models == 2:
        files.append(folder / "second.gguf")
        copy_under_another_name(file, files[1])
    names = []
    if plan.with_dmr:
        names = [import_model(folder / "models", file, f"bench/model-{n}") for n, file in enumerate(files)]
    with contextlib.ExitStack() as stack:
        sides = []
        for name in describe_settings(setup, plan):
            if name == DMR:
                side = dmr_side(folder / "models", names, setup, dmr_environ(setup, plan.dmr_settings), folder)
            else:
                side = peer_side(name, plan.binary, files, setup, plan.num_threads, folder)
            sides.append(stack.enter_context(side))
        yield sides


def measure(row: Row, plan: Plan, say: Say) -> RowResult:
    """All rounds of a row. What fails is noted in its round; the others go on."""
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    settings = describe_settings(row.setup, plan)
    result = RowResult(row.name, row.title, date, read_machine(), read_versions(), settings)
    num_pairs = plan.num_pairs or row.short_pairs or 1
    # Sockets are in there, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="dmr-bench-") as text:
        folder = Path(text)
        with sides_of(row.setup, plan, folder) as sides:
            for number in range(num_pairs):
                for side in turns(sides, number):
                    others = [other for other in sides if other is not side]
                    result.rounds.append(measure_round(row, side, others, number, folder))
                    say(_told(result.rounds[-1], row))
    return result


def measure_round(row: Row, side: Side, others: Sequence[Side], number: int, folder: Path) -> Round:
    assert row.run is not None
    seed = f"row {row.name} pair {number}"
    load = load_average()
    figures: Figures = {}
    failure = None
    began, cpu, idle = time.perf_counter(), read_cpu_times(), _cpu_seconds(others)
    try:
        target = side.load
        side.come_to_rest()
        target = side.load  # another one, if it did not
        began, cpu, idle = time.perf_counter(), read_cpu_times(), _cpu_seconds(others)
        with spinning_neighbour(folder / "neighbour.log") if row.has_neighbour else contextlib.nullcontext():
            figures = asyncio.run(asyncio.wait_for(row.run(target, seed), ROUND_TIMEOUT))
    except (RoundFailed, DidNotStart) as error:
        failure = str(error)
    except asyncio.TimeoutError:
        failure = f"it took longer than {ROUND_TIMEOUT:.0f} s"
    seconds = time.perf_counter() - began
    busy, stolen = read_cpu_times().since(cpu)
    idle_cores = max(0.0, _cpu_seconds(others) - idle) / seconds
    return Round(side.name, number, seed, load, seconds, dict(figures), failure, busy, stolen, idle_cores)


def _cpu_seconds(sides: Sequence[Side]) -> float:
    return sum(side.cpu_seconds() for side in sides)


def _told(round: Round, row: Row) -> str:
    shown = [
        f"{metric.label} {round.figures[metric.name]:.{metric.digits}f} {metric.unit}"
        for metric in row.metrics[:4]
        if metric.name in round.figures
    ]
    warning = f"  !! idle servers took {round.idle_cores:.2f} cores" if round.idle_cores > SPINS else ""
    words = f"failed: {round.failure}" if round.failure else ", ".join(shown)
    return f"  {round.number + 1} {round.side:12} {round.seconds:5.1f} s  {words}{warning}"
