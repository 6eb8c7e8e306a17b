"""The manager's sign of life: it comes from its loop, and waits for nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from dmr.manager import beats
from dmr.manager.beats import beat_for_ever


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beats, "BEAT_INTERVAL", 0.01)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    for end in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(end)


@contextlib.asynccontextmanager
async def beating(writing: int) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.ensure_future(beat_for_ever(writing))
    try:
        yield task
    finally:
        task.cancel()


def test_it_beats_while_its_loop_goes_on_and_only_then(pipe: tuple[int, int]) -> None:
    reading, writing = pipe

    async def scene() -> None:
        async with beating(writing):
            await asyncio.sleep(0.1)
            assert len(os.read(reading, 100)) > 1
            time.sleep(0.1)  # it hangs
            with pytest.raises(BlockingIOError):
                os.read(reading, 100)
            await asyncio.sleep(0.05)
            assert os.read(reading, 100)

    asyncio.run(scene())


def test_who_does_not_listen_is_not_waited_for(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"." * 65536)

    async def scene() -> None:
        async with beating(writing) as task:
            await asyncio.sleep(0.05)
            os.close(reading)
            await asyncio.sleep(0.05)
            assert not task.done()

    asyncio.run(scene())


def test_no_child_keeps_the_pipe_open(pipe: tuple[int, int]) -> None:
    _, writing = pipe
    os.set_inheritable(writing, True)

    async def scene() -> None:
        async with beating(writing):
            await asyncio.sleep(0)
            assert not os.get_inheritable(writing)

    asyncio.run(scene())
