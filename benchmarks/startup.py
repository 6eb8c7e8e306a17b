"""How long dmr takes to start and to answer, and what its processes weigh.

    python benchmarks/startup.py --models-path PATH --model NAME [--runs 5]

Starts `dmr serve` on a free loopback port for each run and prints medians: from the start to ready, from the first
request to its first token (model not loaded), the same for a second request (loaded), and the resident memory of each
process afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import urllib3

NAMES = {"dmr.engine.worker": "engine", "dmr.manager": "manager", "gunicorn": "gunicorn"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def first_token(http: urllib3.PoolManager, url: str, model: str) -> float:
    """Seconds from the request to the first chunk with text."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8, "stream": True}
    began = time.perf_counter()
    response = http.request("POST", url + "/v1/chat/completions", json=body, preload_content=False)
    for line in response:
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
            elapsed = time.perf_counter() - began
            response.drain_conn()
            return elapsed
    raise SystemExit("the server answered without text")


def family(pid: int) -> list[int]:
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found


def memory(pid: int) -> tuple[str, int, int]:
    """(kind of process, resident MiB, of it not shared with files)."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
    kind = next((name for text, name in NAMES.items() if text in command), "other")
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return kind, int(fields["VmRSS"].split()[0]) // 1024, int(fields["RssAnon"].split()[0]) // 1024


def run(options: argparse.Namespace) -> tuple[float, float, float, list[tuple[str, int, int]]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environ = {**os.environ, "MODELS_PATH": options.models_path, "MODEL_RUNNER_PORT": str(port)}
    http = urllib3.PoolManager(retries=False)
    began = time.perf_counter()
    server = subprocess.Popen([sys.executable, "-m", "dmr", "serve"], env=environ, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                if http.request("GET", url + "/ready").status == 200:
                    break
            except urllib3.exceptions.HTTPError:
                time.sleep(0.005)
        ready = time.perf_counter() - began
        cold, warm = first_token(http, url, options.model), first_token(http, url, options.model)
        return ready, cold, warm, [memory(pid) for pid in family(server.pid)]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-path", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    runs = [run(options) for _ in range(options.runs)]
    for column, name in enumerate(("start to ready", "first token, cold", "first token, loaded")):
        values = [row[column] for row in runs]
        print(f"{name:20} {statistics.median(values) * 1000:7.0f} ms")
    for kind, resident, anonymous in runs[-1][3]:
        print(f"{kind:20} {resident:7} MiB resident, {anonymous} MiB of it anonymous")


if __name__ == "__main__":
    main()
