"""Main of the process that converts: llama.cpp's own script, run so that it dies with whoever started it.

    python -m dmr.store.conversion_process SCRIPT ARGUMENT...

Its standard input is its life line: when that closes, the process ends. It gives way to everybody else on the machine.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import threading

NICENESS = 10


def _end_with_starter() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(1)


def main(script: str, arguments: list[str]) -> None:
    threading.Thread(target=_end_with_starter, daemon=True).start()
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    folder = os.path.dirname(os.path.abspath(script))  # noqa: PTH100, PTH120
    sys.path[0] = folder  # as if the script had been started: it imports what lies beside it
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
