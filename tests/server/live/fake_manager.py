"""A manager that only beats and accepts connections: ends with its life line, or as the environment says."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

DEATH = os.environ.get("FAKE_MANAGER", "")
BEAT_INTERVAL = 0.05  # seconds


def accept_for_ever(listener: socket.socket) -> None:
    while True:
        listener.accept()[0].close()


def beat_for_ever(pipe: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            os.write(pipe, b".")
            time.sleep(BEAT_INTERVAL)


if DEATH == "at_once":
    sys.exit(3)
if DEATH != "mute":
    threading.Thread(target=beat_for_ever, args=(int(sys.argv[sys.argv.index("--beat-fd") + 1]),), daemon=True).start()
if DEATH != "deaf":
    path = Path(os.environ["DMR_RUNTIME_DIR"]) / "manager.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    threading.Thread(target=accept_for_ever, args=(listener,), daemon=True).start()
sys.stdin.buffer.read()
if DEATH == "stubborn":
    signal.pause()
