"""The servers that are put under load: dmr with its defaults, and llama-server with flags for this load."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from versus.dmr_server import import_model, start_dmr
from versus.holding import Held, held_by
from versus.processes import Process, answers, free_port

NAME = "bench/tiny"
NUM_SLOTS = 64
CONTEXT = 8192  # cells, which all sequences share
HTTP_THREADS = 1100  # of llama-server: each open stream and each kept connection takes one
# Neither saves KV cells in host memory: that is a cache, which grows until it is as large as it may be.
OUR_SETTINGS = {"DMR_CONTEXT_SIZE": str(CONTEXT), "DMR_HOST_CACHE": "0"}
PEER_FLAGS = (
    f"-np {NUM_SLOTS} -kvu -c {CONTEXT} -fa on -b 2048 -ub 512 --threads-http {HTTP_THREADS} --cache-ram 0"
).split()
START_TIMEOUT = 60.0
AT_REST = 0.1  # cores


class Side:
    def __init__(self, name: str, process: Process, url: str, model: str) -> None:
        self.name = name
        self.process = process
        self.port = int(url.rpartition(":")[2])
        self.model = model

    def held(self) -> Held:
        return held_by(self.process.family())

    def cores(self, seconds: float) -> float:
        """That its processes take, watched for so long."""
        before = self.process.cpu_seconds()
        time.sleep(seconds)
        return (self.process.cpu_seconds() - before) / seconds

    def wait_at_rest(self, timeout: float) -> bool:
        """Until its processes compute nothing any more; False: they still do after so many seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.cores(0.5) < AT_REST:
                return True
        return False


@contextlib.contextmanager
def our_side(weights: Path, folder: Path, settings: Mapping[str, str]) -> Iterator[Side]:
    """`settings`: further ones."""
    import_model(folder / "models", weights, NAME)
    process, url = start_dmr(folder / "models", folder / "run", {**OUR_SETTINGS, **settings}, folder / "dmr.log")
    with process:
        yield Side("dmr", process, url, NAME)


@contextlib.contextmanager
def peer_side(binary: Path, weights: Path, folder: Path) -> Iterator[Side]:
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_", "OMP_", "GOMP_"))}
    command = [str(binary), "-m", str(weights), "--host", "127.0.0.1", "--port", str(port)]
    process = Process([*command, "-t", str(os.cpu_count() or 1), *PEER_FLAGS], folder / "peer.log", environ)
    url = f"http://127.0.0.1:{port}"
    process.wait_ready(lambda: answers(url + "/health"), START_TIMEOUT)
    with process:
        yield Side("llama-server", process, url, weights.name)
