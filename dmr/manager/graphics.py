"""Whether engines compute on a GPU, so that the host's memory does not bound them."""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

from dmr.config import EngineSettings

COMMAND = (sys.executable, "-m", "dmr.engine.devices")  # a process: the native library is no part of the manager
TIMEOUT = 30.0  # seconds

logger = logging.getLogger("dmr.manager")


class Graphics:
    """Asks once, and only where there is something that could be a GPU."""

    def __init__(self, root: Path = Path("/"), command: tuple[str, ...] = COMMAND) -> None:
        self._may_compute = _has_device(root)
        self._command = command
        self._answer: bool | None = None

    async def computes(self, settings: EngineSettings) -> bool:
        """Whether an engine with these settings computes on a GPU."""
        if not self._may_compute or settings.num_gpu_layers == 0 or settings.weights.devices == ("none",):
            return False
        if self._answer is None:
            self._answer = await self._ask()
        return self._answer

    async def _ask(self) -> bool:
        process = None
        try:
            process = await asyncio.create_subprocess_exec(*self._command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
            output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT)
        except (OSError, asyncio.TimeoutError):
            if process is not None and process.returncode is None:
                process.kill()
            output = b""
        if process is None or process.returncode != 0:
            logger.warning("it could not be found out whether there is a GPU: the host's memory is not counted")
            return True
        return bool({b"gpu", b"igpu"} & set(output.split()))


def _has_device(root: Path) -> bool:
    if sys.platform == "darwin":
        return True
    return any((root / "dev" / name).exists() for name in ("nvidiactl", "nvidia0", "kfd", "dri", "dxg"))
