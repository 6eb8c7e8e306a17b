from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from unit.manager.conftest import Bench, is_running, until
from unit.manager.fake_engine import INFO

from dmr.config import EngineSettings
from dmr.errors import ModelLoadFailed, Unavailable
from dmr.manager import engine_process
from dmr.manager.engine_process import EngineProcess, _describe
from dmr.wire import EngineSpec

Scene = Callable[[EngineProcess], Coroutine[Any, Any, None]]


def make_spec(bench: Bench) -> EngineSpec:
    return EngineSpec("ai/x", ("a.gguf",), None, str(bench.folder / "engine.sock"), EngineSettings(max_queue=7))


def play(bench: Bench, mode: str, scene: Scene) -> None:
    async def main() -> None:
        process = await EngineProcess.start(make_spec(bench), bench.command)
        try:
            await asyncio.wait_for(scene(process), 20)
        finally:
            await process.stop()
            await asyncio.sleep(0.01)
        assert not process.is_alive
        assert not is_running(process.pid)

    bench.set_mode(mode)
    asyncio.run(main())


def test_an_engine_gets_its_spec_and_becomes_ready(bench: Bench) -> None:
    async def scene(process: EngineProcess) -> None:
        assert await process.ready == INFO
        assert process.is_alive
        assert not process.has_failed
        assert process.progress == 0.5
        assert (bench.folder / "spec").read_bytes() == msgspec.json.encode(make_spec(bench))
        await process.stop()
        assert not (bench.folder / "engine.sock").exists()

    play(bench, "ready", scene)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("refuses", "'ai/x' cannot be loaded: the tensors are wrong"),
        ("refuses and stays", "'ai/x' cannot be loaded: the tensors are wrong"),
        ("dies", r"ended while loading \(exit status 1\): these are my last words"),
        ("dies silently", r"ended while loading \(signal SIGKILL\): it said nothing"),
        ("garbage", "no message"),
    ],
)
def test_a_failure_to_load_tells_the_reason(bench: Bench, mode: str, words: str) -> None:
    async def scene(process: EngineProcess) -> None:
        with pytest.raises(ModelLoadFailed, match=words):
            await process.ready
        assert process.has_failed

    play(bench, mode, scene)


def test_whatever_an_engine_says_is_read(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    """An engine whose standard error is full stands still."""

    async def scene(process: EngineProcess) -> None:
        await process.ready
        await until(lambda: "last" in process.last_words)
        assert len(process.last_words) < 30_000

    play(bench, "talks", scene)
    assert "line" in capfd.readouterr().err


def test_stopping_an_engine_that_loads_is_no_failure_of_the_model(bench: Bench) -> None:
    async def scene(process: EngineProcess) -> None:
        await until(lambda: process.progress == 0.5)
        await process.stop()
        with pytest.raises(Unavailable, match="unloaded while it was loading"):
            await process.ready

    play(bench, "hangs", scene)


def test_an_engine_that_does_not_listen_is_killed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "STOP_TIMEOUT", 0.1)

    async def scene(process: EngineProcess) -> None:
        await process.ready
        began = time.monotonic()
        await asyncio.gather(process.stop(), process.stop())
        assert time.monotonic() - began < 5
        await process.stop()  # harmless

    play(bench, "stubborn", scene)


def test_a_death_is_noticed_and_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(process: EngineProcess) -> None:
        await process.ready
        os.kill(process.pid, signal.SIGSEGV)
        await process.wait_ended()
        assert not process.is_alive
        assert not (bench.folder / "engine.sock").exists()

    play(bench, "ready", scene)
    assert "ai/x died (signal SIGSEGV)" in caplog.text


def test_an_engine_that_says_nothing_more_is_killed_and_that_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "BEAT_INTERVAL", 0.05)

    async def scene(process: EngineProcess) -> None:
        process.spec = msgspec.structs.replace(process.spec, settings=EngineSettings(hang_timeout=0.2))
        await process.ready
        await process.wait_ended()
        assert process.has_crashed
        assert process.epitaph == "(it hung and was killed after 0.2 seconds of silence)"

    play(bench, "stubborn", scene)


@pytest.mark.parametrize(("mode", "patience"), [("beats", 0.2), ("ready", 0.0)])
def test_an_engine_that_is_heard_lives_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, mode: str, patience: float
) -> None:
    monkeypatch.setattr(engine_process, "BEAT_INTERVAL", 0.05)

    async def scene(process: EngineProcess) -> None:
        process.spec = msgspec.structs.replace(process.spec, settings=EngineSettings(hang_timeout=patience))
        await process.ready
        await asyncio.sleep(0.6)
        assert process.is_alive

    play(bench, mode, scene)


def test_the_first_reason_stays(bench: Bench) -> None:
    async def scene(process: EngineProcess) -> None:
        process.give_up(ModelLoadFailed("too slow"))
        process.give_up(ModelLoadFailed("something else"))
        with pytest.raises(ModelLoadFailed, match="too slow"):
            await process.ready

    play(bench, "ready", scene)


def num_open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_a_command_that_is_not_there(bench: Bench) -> None:
    before = num_open_files()
    with pytest.raises(OSError):
        asyncio.run(EngineProcess.start(make_spec(bench), [str(bench.folder / "absent")]))
    assert num_open_files() == before


def test_names_of_exits() -> None:
    assert _describe(0) == "exit status 0"
    assert _describe(-9) == "signal SIGKILL"
    assert _describe(-42) == "signal 42"  # real-time signals have no names
