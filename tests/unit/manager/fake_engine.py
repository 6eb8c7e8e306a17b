"""An engine process without an engine: `python fake_engine.py FOLDER --status-fd N`.

It notes its start in FOLDER and behaves as the file FOLDER/mode says.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from dmr.wire import EngineBeat, EngineInfo, EngineReady, LoadProgress, WireError, engine_spec_decoder, pack

INFO = EngineInfo("fake", 512, "", "", "", False)


def read_spec() -> Any:
    stdin = sys.stdin.buffer
    (length,) = struct.unpack(">I", stdin.read(4))
    return engine_spec_decoder.decode(stdin.read(length))


def note(folder: Path, name: str, text: str) -> None:
    with (folder / name).open("a") as file:
        file.write(f"{text}\n")


def refusal(mode: str, size: int, folder: Path) -> WireError | None:
    """What it says to a context of so many tokens, if it does not load."""
    if mode == "crowded" and not (folder / "ended").exists():  # there is no room before another has gone
        return WireError("model_load_failed", "too little memory", details={"needed_bytes": 2, "free_bytes": 1})
    kind, _, number = mode.partition(" ")
    if mode == "refuses" or (kind == "fits" and size > int(number)):
        return WireError("model_load_failed", "the tensors are wrong")
    if kind == "knows" and size > int(number):  # so many tokens fit, and it says so
        return WireError("model_load_failed", "too large", details={"fitting_context": int(number)})
    return None


def main(folder: Path, status: int) -> None:
    mode = (folder / "mode").read_text()
    note(folder, "started", f"{os.getpid()} {time.monotonic()}")
    spec = read_spec()
    note(folder, "told", f"{os.getpid()} {time.monotonic()}")
    (folder / "spec").write_bytes(msgspec.json.encode(spec))

    def leave(*_: object) -> None:
        if mode == "lingers":
            time.sleep(0.3)
        note(folder, "ended", f"{os.getpid()} {time.monotonic()}")
        os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else leave)
    os.write(status, pack(LoadProgress(0.5)))
    size = spec.settings.context_size or INFO.context_size
    if error := refusal(mode, size, folder):
        os.write(status, pack(error))
        sys.exit(1)
    if mode == "refuses and stays":
        os.write(status, pack(WireError("model_load_failed", "the tensors are wrong")))
    elif mode == "dies":
        sys.exit("these are my last words")
    elif mode == "dies silently":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "talks":
        sys.stderr.write("x" * 300_000 + "\n" + "y" * 300_000)
        sys.stderr.write("\nlast \udcff line\n".encode(errors="surrogateescape").decode(errors="replace"))
        sys.stderr.flush()
    elif mode == "garbage":
        os.write(status, b"\0\0\0\3abc")
    if mode not in ("hangs", "garbage", "refuses and stays"):
        Path(spec.socket).touch()
        os.write(status, pack(EngineReady(msgspec.structs.replace(INFO, context_size=size))))
    while mode == "beats":
        os.write(status, pack(EngineBeat()))
        time.sleep(0.01)
    while os.read(0, 1):  # the life line
        pass
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[sys.argv.index("--status-fd") + 1]))
