"""A manager that only accepts connections: ends with its life line, or as the environment says."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from pathlib import Path

DEATH = os.environ.get("FAKE_MANAGER", "")


def accept_for_ever(listener: socket.socket) -> None:
    while True:
        listener.accept()[0].close()


if DEATH == "at_once":
    sys.exit(3)
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
