"""Pulling a model from a registry on loopback: dmr beside skopeo, which fetches the same into an OCI layout.

    python benchmarks/pull.py [--mib 100] [--pairs 7] [--process] [--out benchmarks/results/pull.json]

Needs `docker-registry` and `skopeo` (Debian has both). A model of so many MiB of random bytes in one layer is pushed
once. Then both fetch it in turns, each from nothing: dmr through `POST /models/create` of a server that runs already,
until the last line has come and the model has its name; skopeo as a process, `skopeo copy`, until it ends. With
`--process` dmr does it as a process of its own as well. A ratio is dmr's seconds divided by skopeo's, the median over
pairs; at most 1.1 is wanted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import urllib3

from dmr.store.pull import RegistryOptions
from dmr.store.store import ModelStore
from dmr.store.transfers import push
from versus.machine import read_machine, read_versions

TARGET = 1.1
NAME = "bench/model:v1"
SINGLE = "import sys; from dmr.store.store import ModelStore; from dmr.store.transfers import pull; " + (
    "from dmr.store.pull import RegistryOptions; from pathlib import Path; "
    "pull(ModelStore(Path(sys.argv[1])), sys.argv[2], RegistryOptions(), lambda _: None)"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_model(path: Path, mib: int) -> None:
    """A GGUF file with one tensor of random bytes."""
    count = mib << 20

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    header = struct.pack("<4sIQQ", b"GGUF", 3, 1, 1)
    header += text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    header += text(b"t") + struct.pack("<IQIQ", 1, count // 4, 0, 0)
    path.write_bytes(header + bytes(-len(header) % 32) + os.urandom(count))


@contextmanager
def process(command: list[str], url: str, environ: dict[str, str] | None = None) -> Iterator[None]:
    """Runs while its address answers with 200."""
    http = urllib3.PoolManager(retries=False)
    started = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(urllib3.exceptions.HTTPError):
                if http.request("GET", url).status == 200:
                    break
            if time.monotonic() > deadline or started.poll() is not None:
                raise SystemExit(f"{command[0]} does not start")
            time.sleep(0.02)
        yield
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(60)


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    host = f"127.0.0.1:{free_port()}"
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": host, "secret": "of no account"},
    }
    (folder / "registry.json").write_text(json.dumps(config))  # which is YAML as well
    with process(["docker-registry", "serve", str(folder / "registry.json")], f"http://{host}/v2/"):
        yield host


@contextmanager
def server(models_path: Path) -> Iterator[str]:
    port = free_port()
    environ = {**os.environ, "MODELS_PATH": str(models_path), "MODEL_RUNNER_PORT": str(port), "LOG_LEVEL": "error"}
    url = f"http://127.0.0.1:{port}"
    with process([sys.executable, "-m", "dmr", "serve"], url + "/ready", environ):
        yield url


def pull_by_server(url: str, name: str) -> float:
    http = urllib3.PoolManager(retries=False)
    http.request("DELETE", f"{url}/models/{name}")
    began = time.perf_counter()
    lines = http.request("POST", f"{url}/models/create", json={"from": name}).data.splitlines()
    elapsed = time.perf_counter() - began
    if json.loads(lines[-1]).get("message") != "Model pulled successfully":
        raise SystemExit(f"dmr: {lines[-1].decode()}")
    return elapsed


def run(command: list[str], folder: Path) -> float:
    """Seconds of a process that fills `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    with ExitStack() as stack:
        host = stack.enter_context(registry(folder))
        url = stack.enter_context(server(folder / "models"))
        name, layout, single = f"{host}/{NAME}", folder / "layout", folder / "single"
        write_model(folder / "model.gguf", options.mib)
        source = ModelStore(folder / "source")
        source.import_gguf(folder / "model.gguf", name, move=True)
        push(source, name, name, RegistryOptions(), lambda _: None)
        sides: dict[str, Callable[[], float]] = {
            "dmr": lambda: pull_by_server(url, name),
            "skopeo": lambda: run(
                ["skopeo", "copy", "--src-tls-verify=false", f"docker://{name}", f"oci:{layout}:v1"], layout
            ),
        }
        if options.process:
            sides["dmr process"] = lambda: run([sys.executable, "-c", SINGLE, str(single), name], single)
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(-1, options.pairs):  # the first round is not counted
            for side, fetch in list(sides.items()) if number % 2 else list(sides.items())[::-1]:
                elapsed = fetch()
                if number >= 0:
                    seconds[side].append(elapsed)
        return seconds


def summary(seconds: dict[str, list[float]], mib: int) -> dict[str, Any]:
    ratios = {
        side: statistics.median(mine / theirs for mine, theirs in zip(values, seconds["skopeo"], strict=True))
        for side, values in seconds.items()
        if side != "skopeo"
    }
    return {
        "machine": msgspec.to_builtins(read_machine()),
        "versions": msgspec.to_builtins(read_versions()),
        "peer": subprocess.run(["skopeo", "--version"], capture_output=True, text=True, check=True).stdout.strip(),
        "mib": mib,
        "seconds": seconds,
        "medians": {side: statistics.median(values) for side, values in seconds.items()},
        "ratios": ratios,
        "target": TARGET,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--process", action="store_true", help="dmr as a process of its own, too")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    options = parser.parse_args()
    missing = [program for program in ("docker-registry", "skopeo") if shutil.which(program) is None]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        result = summary(measure(options, Path(folder)), options.mib)
    for side, values in result["seconds"].items():
        middle, least, most = (round(pick(values) * 1000) for pick in (statistics.median, min, max))
        print(f"{side:12} {middle:7} ms, {least} to {most}")
    for side, ratio in result["ratios"].items():
        print(f"{side:12} {ratio:7.2f} times skopeo's (target: {TARGET})")
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
