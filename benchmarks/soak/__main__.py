"""`python -m benchmarks.soak [--seconds 3600] [--clients 32] [--kill-every 10] [--gguf FILE]... [--out FILE]`.

Exit status 1: a request hung, broke off without a reason, or got an answer that is none; a model did not recover; a
process was left. Memory and open files after a quarter of the time and at the end are told, to be compared.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

import msgspec

from dmr.store.store import ModelStore

from .server import SoakedServer
from .soak import SETTINGS, Soak

STARTER_MODEL = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--kill-every", type=float, default=10, help="seconds; 0 = nothing is killed")
    parser.add_argument("--gguf", type=Path, action="append", help="a model; several may be given")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--out", type=Path, help="a file for the report as JSON")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server ends too
    with tempfile.TemporaryDirectory(prefix="dmr-soak-") as name:
        folder = Path(name)
        store = ModelStore(folder / "models")
        models = [f"soak/model-{number}" for number, _ in enumerate(options.gguf or [STARTER_MODEL])]
        for model, file in zip(models, options.gguf or [STARTER_MODEL], strict=True):
            store.import_gguf(file, model)
        server = SoakedServer(folder / "models", folder, free_port(), **SETTINGS)
        try:
            report = Soak(server, models, options.clients, options.kill_every, options.seed).run(options.seconds)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ending it takes a moment
            status, left = server.stop()
        if status != 0 or left:
            report.problems.append(f"the server ended with {status} and left {left}")
        print("\n".join(report.lines()))
        if report.problems:
            print(server.log.read_text(errors="replace")[-8000:], file=sys.stderr)
    if options.out:
        options.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
