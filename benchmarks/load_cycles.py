"""What the manager keeps of a model that was loaded and unloaded: nothing.

    python benchmarks/load_cycles.py [--cycles 1000] [--out FILE]

Loads a tiny model, which is made here, and unloads it, over and over, in a real manager process with real engines.
After each cycle the manager's memory, descriptors, threads and children are looked at. Between the first fifth and the
end nothing may grow. The manager listens on a socket in a folder of its own and is ended in the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from versus.machine import read_versions
from versus.telling import tell

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from tiny_models import model_file  # noqa: E402

from dmr.client import ManagerClient  # noqa: E402
from dmr.errors import Unavailable  # noqa: E402
from dmr.store.store import ModelStore  # noqa: E402

NAME = "bench/model"
MAY_GROW = 2.0  # MB, between the first fifth of the cycles and the end
AT_ONCE = 5  # samples that are looked at together
START_TIMEOUT = 60.0  # seconds


class Sample(NamedTuple):
    """Of the manager, with no engine. MB are 10^6 bytes."""

    rss: float
    anon: float
    num_files: int
    num_threads: int
    num_children: int


def sample(pid: int) -> Sample:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return Sample(
        int(fields["VmRSS"].split()[0]) * 1024 / 1e6,
        int(fields["RssAnon"].split()[0]) * 1024 / 1e6,
        sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        int(fields["Threads"]),
        len(children),
    )


@contextmanager
def running_manager(folder: Path) -> Iterator[tuple[ManagerClient, int]]:
    """A manager whose store has the tiny model, and its process id."""
    store = ModelStore(folder / "models")
    store.import_gguf(model_file("tiny-random", folder), NAME)
    environment = {
        **os.environ,
        "DMR_RUNTIME_DIR": str(folder),
        "MODELS_PATH": str(store.root),
        "DMR_HOST_CACHE": "0",
        "LOG_LEVEL": "error",
    }
    command = [sys.executable, "-m", "dmr.manager"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as process:
        try:
            client = ManagerClient(folder / "manager.sock")
            wait_for_answer(client)
            yield client, process.pid
        finally:
            process.terminate()


def wait_for_answer(client: ManagerClient) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        with contextlib.suppress(Unavailable):
            client.ping()
            return
        time.sleep(0.05)
    raise SystemExit("the manager does not answer")


def cycle(client: ManagerClient) -> float:
    """Load, unload, wait until it is gone; the seconds of the load."""
    began = time.perf_counter()
    *_, lease = client.acquire(NAME, None)
    seconds = time.perf_counter() - began
    assert lease is not None
    lease.close()
    while client.unload_models(None) == 0:  # the lease's end is still on its way
        time.sleep(0.001)
    return seconds


def least(samples: list[Sample]) -> Sample:
    """Of the last few, the least of each: a connection that was just closed may still be there."""
    return Sample(*(min(values) for values in zip(*samples[-AT_ONCE:], strict=True)))


def measure(num_cycles: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name, running_manager(Path(name)) as (client, pid):
        loads, samples = [], []
        for number in range(1, num_cycles + 1):
            loads.append(cycle(client))
            samples.append(sample(pid))
            if number % max(1, num_cycles // 10) == 0:
                print(f"{number:6} cycles: {samples[-1]}", flush=True)
        (life,) = client.lifecycle().models
    first, last = least(samples[: num_cycles // 5]), least(samples)
    growth = {field: round(getattr(last, field) - getattr(first, field), 3) for field in Sample._fields}
    return {
        "versions": msgspec.to_builtins(read_versions()),
        "cycles": num_cycles,
        "counted": {"loads": life.num_loads, "failures": life.num_load_failures, "crashes": life.num_crashes},
        "load_seconds_median": round(statistics.median(loads), 4),
        "first_fifth": first._asdict(),
        "end": last._asdict(),
        "growth": growth,
        "passed": growth["rss"] <= MAY_GROW
        and growth["num_files"] == growth["num_threads"] == growth["num_children"] == 0
        and life.num_loads == num_cycles,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    arguments = parser.parse_args()
    figures = measure(max(5, arguments.cycles))
    tell(figures, arguments.out)
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
