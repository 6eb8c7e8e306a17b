"""dmr with a private store: its settings, and how it is started. All but the port and the folders are its defaults."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from dmr.store.store import ModelStore

from .processes import Process, answers, free_port
from .row import Setup

START_TIMEOUT = 60.0
_OF_DMR = ("DMR_", "MODELS_PATH", "MODEL_RUNNER_", "LOG_LEVEL", "OMP_", "GOMP_")


def dmr_environ(setup: Setup, given: Mapping[str, str]) -> dict[str, str]:
    """The settings that a row asks for, and those `given` to try something out."""
    return {**({"DMR_CONTEXT_SIZE": str(setup.context)} if setup.context else {}), **given}


def start_dmr(models_path: Path, runtime_dir: Path, settings: Mapping[str, str], log: Path) -> tuple[Process, str]:
    """A ready `dmr serve` and its URL. Raises DidNotStart."""
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_OF_DMR)}
    environ |= {"MODELS_PATH": str(models_path), "DMR_RUNTIME_DIR": str(runtime_dir), "MODEL_RUNNER_PORT": str(port)}
    environ |= {"DMR_KEEP_ALIVE": "-1", **settings}
    process = Process([sys.executable, "-m", "dmr", "serve"], log, environ)
    url = f"http://127.0.0.1:{port}"
    process.wait_ready(lambda: answers(url + "/ready"), START_TIMEOUT)
    return process, url


def import_model(models_path: Path, file: Path, name: str) -> str:
    """The name by which dmr serves the file."""
    ModelStore(models_path).import_gguf(file, name)
    return name


def copy_under_another_name(file: Path, copy: Path) -> None:
    """The same weights as another model: one byte of the name in the metadata differs.

    Raises:
        ValueError: the file does not say its name.
    """
    data = bytearray(file.read_bytes())
    key = b"general.name"
    at = data.find(key, 0, 1 << 20)
    # Behind the key: the type, 8 for a string, in 4 bytes, then the length in 8, then the text.
    begin = at + len(key) + 12
    kind, length = data[begin - 12 : begin - 8], int.from_bytes(data[begin - 8 : begin], "little")
    if at < 0 or int.from_bytes(kind, "little") != 8 or length == 0:
        raise ValueError(f"{file.name} has no general.name among its metadata, so no second model can be made of it.")
    data[begin] ^= 1  # an ASCII letter stays one character
    copy.write_bytes(data)
