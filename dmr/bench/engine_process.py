"""Runs the engine's own bench in a process of its own: a damaged file can end that one only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Sequence

import msgspec

from dmr.bench.engine_figures import EngineNews, EngineOrder, Failed
from dmr.errors import InternalError, InvalidRequest, Unavailable

COMMAND = (sys.executable, "-m", "dmr.engine.bench")


def run_engine_bench(order: EngineOrder, command: Sequence[str] = COMMAND) -> Generator[EngineNews, None, None]:
    """What the process tells, as it comes. When the iterator is closed, or fails, the process is ended.

    Raises:
        InvalidRequest: in the words of the process.
        InternalError: it ended in the middle.
        Unavailable: no process can be started.
    """
    try:
        process = subprocess.Popen(
            [*command, msgspec.json.encode(order).decode()],
            stdin=subprocess.PIPE,  # its life line
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours, and what was measured so far is shown
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # an abort of ggml would start a debugger
        )
    except OSError as error:
        raise Unavailable(f"No process can be started: {error}.") from error
    assert process.stdout is not None
    with process:
        try:
            for line in process.stdout:
                news = msgspec.json.decode(line, type=EngineNews)
                if isinstance(news, Failed):
                    raise InvalidRequest(news.message)
                yield news
            status = process.wait()
        finally:
            process.kill()
    if status != 0:
        raise InternalError(f"The engine ended with status {status}.")
