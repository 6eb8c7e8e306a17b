"""The manager's sign of life for whoever started it: a byte a second, from the event loop that does all the work."""

from __future__ import annotations

import asyncio
import contextlib
import os

from dmr.wire import BEAT_INTERVAL

BEAT = b"."


async def beat_for_ever(pipe: int) -> None:
    """Runs for ever. `pipe`: the writing end, which becomes this process's alone."""
    os.set_inheritable(pipe, False)  # no child may keep it open: its end tells that this process has ended
    os.set_blocking(pipe, False)
    while True:
        with contextlib.suppress(OSError):  # full or closed: who does not listen is not waited for
            os.write(pipe, BEAT)
        await asyncio.sleep(BEAT_INTERVAL)
