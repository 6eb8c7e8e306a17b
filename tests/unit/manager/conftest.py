from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.config import Settings
from dmr.manager.model_manager import ModelManager
from dmr.store.store import ModelStore


class Bench:
    """Fake engines that do as `mode` says, a store, and managers over both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ModelStore(folder / "models")
        self.command = (sys.executable, str(Path(__file__).with_name("fake_engine.py")), str(folder))
        self.set_mode("ready")

    def set_mode(self, mode: str) -> None:
        (self.folder / "mode").write_text(mode)

    def add_model(self, name: str = "one", fill: int = 0) -> str:
        """Put a small model into the store; a different one for each `fill`. Returns its id."""
        path = self.folder / f"{name}.gguf"
        path.write_bytes(gguf_bytes(tensors=[Tensor("weight", data=bytes([fill]) * 128)]))
        return self.store.import_gguf(path, name).id

    def manager(self, **settings: Any) -> ModelManager:
        return ModelManager(Settings(**settings), self.store, self.folder, self.command)

    def run(self, scene: Callable[[ModelManager], Coroutine[Any, Any, None]], **settings: Any) -> None:
        """Play a scene with a manager; afterwards all its engines must have ended."""

        async def play() -> None:
            manager = self.manager(**settings)
            try:
                await asyncio.wait_for(scene(manager), 20)
            finally:
                await manager.stop()
                # The loop must not close before it has seen its children's pipes close.
                await asyncio.sleep(0.01)

        asyncio.run(play())
        assert not [pid for pid in self.pids("started") if is_running(pid)]

    def pids(self, what: str) -> list[int]:
        """Process ids of the engines that have "started" or "ended", in order."""
        return [int(pid) for pid, _ in self._notes(what)]

    def times(self, what: str) -> list[float]:
        return [float(seconds) for _, seconds in self._notes(what)]

    def _notes(self, what: str) -> list[list[str]]:
        path = self.folder / what
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:  # a zombie has ended
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in another process."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        await asyncio.sleep(0.005)


async def ready(
    manager: ModelManager, reference: str, keep_alive: float | None = None, context_size: int | None = None
) -> Any:
    """A lease on a model that is loaded."""
    model = await manager.acquire(reference, keep_alive, context_size)
    wait: Awaitable[Any] = manager.wait_ready(model)
    try:
        await wait
    except BaseException:
        manager.release(model)
        raise
    return model


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
