"""Makes weights smaller in a process of its own: a damaged file can end that one only. Blocks its caller's thread."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dmr.errors import InvalidModelFile, Unavailable
from dmr.store.registry.transport import Cancelled, TransferCancelled

COMMAND = (sys.executable, "-m", "dmr.engine.quantize")
POLL_INTERVAL = 0.2  # seconds between two looks whether somebody still wants it
MAX_LINE = 4096  # bytes

Report = Callable[[int], None]


class Quantizer:
    """Has the form of `dmr.store.draft.Quantize`."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command

    def __call__(self, source: Path, target: Path, file_type: int, report: Report, cancelled: Cancelled) -> None:
        """Write `source`'s weights to `target`; `report` is told the bytes of the source that are through.

        Raises:
            InvalidModelFile: with the process's own reason, or how it ended.
            Unavailable: no process can be started.
            TransferCancelled: the process has ended when this is raised.
        """
        error = ""
        with self._process(source, target, file_type) as process:
            for line in _lines(process, cancelled):
                kind, _, rest = line.partition(" ")
                if kind == "done" and rest.isdigit():
                    report(int(rest))
                elif kind == "error":
                    error = rest
            status = process.wait()
        if status != 0:
            raise InvalidModelFile(f"The weights cannot be quantized: {error or f'the process ended with {status}'}.")

    @contextlib.contextmanager
    def _process(self, source: Path, target: Path, file_type: int) -> Iterator[subprocess.Popen[bytes]]:
        """The running process, whose standard input is its life line; nothing is left of it afterwards."""
        command = [*self._command, str(source), str(target), "--file-type", str(file_type)]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # An abort of ggml would start a debugger.
                env={**os.environ, "GGML_NO_BACKTRACE": "1"},
            )
        except OSError as error:
            raise Unavailable(f"No process can be started: {error}.") from error
        with process:
            try:
                yield process
            finally:
                process.kill()


def _lines(process: subprocess.Popen[bytes], cancelled: Cancelled) -> Iterator[str]:
    """What the process says, until it closes its output."""
    assert process.stdout is not None
    output, rest = process.stdout.fileno(), b""
    while True:
        if cancelled():
            raise TransferCancelled
        if not select.select([output], [], [], POLL_INTERVAL)[0]:
            continue
        piece = os.read(output, MAX_LINE)
        if not piece:
            return
        *whole, rest = (rest + piece).split(b"\n")
        rest = rest[-MAX_LINE:]
        yield from (line.decode(errors="replace") for line in whole)
