"""The quantizing process: `python -m dmr.engine.quantize SOURCE TARGET --file-type N`.

Writes `done BYTES` lines (bytes of the source that are through) to standard output, and `error TEXT` before it fails.
Standard input is its life line: when it closes, nobody wants the result any more and the process ends.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading

from dmr import _core
from dmr.engine.native_options import num_usable_cores

NICENESS = 10  # those who are answered meanwhile come first
MAX_BUFFER_BYTES = 1 << 30  # of tensor rows in memory
LOG_INTERVAL = 0.2  # seconds

# llama.cpp writes a line for each tensor when it is done, with its size before and perhaps after.
_TENSOR = re.compile(r"\[ *\d+/ *\d+\] .*?size = +([0-9]+\.[0-9]+) MiB")


class Progress:
    """Sums up what the log tells."""

    def __init__(self) -> None:
        self.num_bytes = 0

    def read(self, lines: list[tuple[int, str]]) -> bool:
        """Whether something was added."""
        before = self.num_bytes
        for _, line in lines:
            if found := _TENSOR.search(line):
                self.num_bytes += int(float(found[1]) * (1 << 20))
        return self.num_bytes > before


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def end_with_parent() -> None:
    """A native call cannot be interrupted; the process can."""
    while os.read(0, 1):
        pass
    os._exit(1)


def tell_progress(done: threading.Event) -> None:
    progress = Progress()
    while not done.is_set():
        if progress.read(_core.take_log(LOG_INTERVAL)):
            say(f"done {progress.num_bytes}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--file-type", type=int, required=True)
    options = parser.parse_args(arguments)
    os.nice(NICENESS)
    threading.Thread(target=end_with_parent, daemon=True).start()
    done = threading.Event()
    teller = threading.Thread(target=tell_progress, args=(done,))
    teller.start()
    try:
        _core.quantize(
            options.source,
            options.target,
            file_type=options.file_type,
            num_threads=num_usable_cores(),
            max_buffer_bytes=MAX_BUFFER_BYTES,
        )
    except (_core.Error, ValueError) as error:
        reason = str(error).rpartition("failed to quantize: ")[2]
        say("error " + " ".join(reason.split()))
        return 1
    finally:
        done.set()
        teller.join()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
