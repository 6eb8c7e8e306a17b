"""Weights made smaller in a process of its own, and the making of models through the manager's socket."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import model_file
from unit.manager.conftest import Bench, is_running

from dmr.client import ManagerClient
from dmr.config import Settings
from dmr.errors import InvalidModelFile, InvalidReference, ModelNotFound, Unavailable
from dmr.manager.__main__ import SOCKET_NAME, ManagerServer
from dmr.manager.quantizer import Quantizer
from dmr.manager.store_changes import StoreChanges
from dmr.manager.transfers import Transfers
from dmr.store.gguf import read_gguf_header
from dmr.store.gguf_config import describe_gguf
from dmr.store.registry.transport import TransferCancelled
from dmr.types import NewModel, TransferProgress
from dmr.wire import CreateModel

FAKE = """
import os, sys, time
folder = os.path.dirname(sys.argv[2])
open(folder + "/pid", "w").write(str(os.getpid()))
{body}
"""


def fake(body: str) -> Quantizer:
    return Quantizer((sys.executable, "-c", FAKE.format(body=body)))


def never() -> bool:
    return False


# --- the process -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file_type", "name"), [(7, "Q8_0"), (2, "Q4_0"), (15, "Q4_K_M")])
def test_weights_are_made_smaller(tmp_path: Path, file_type: int, name: str) -> None:
    source, target, told = model_file("tiny-random", tmp_path), tmp_path / "target", list[int]()
    Quantizer()(source, target, file_type, told.append, never)
    header = read_gguf_header(target)
    assert describe_gguf(header, target.stat().st_size).quantization == name
    assert header.num_parameters == read_gguf_header(source).num_parameters
    assert target.stat().st_size < source.stat().st_size
    assert told == sorted(told)
    assert source.stat().st_size * 0.9 < told[-1] <= source.stat().st_size


def test_the_processs_own_reason_is_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"GGUF and nothing more")
    with pytest.raises(InvalidModelFile, match=r"cannot be quantized: .*(read|load|GGUF|gguf)"):
        Quantizer()(source, tmp_path / "target", 7, print, never)


def test_small_weights_are_refused(tmp_path: Path) -> None:
    source, small = model_file("tiny-random", tmp_path), tmp_path / "small"
    Quantizer()(source, small, 7, print, never)
    with pytest.raises(InvalidModelFile, match="requantizing from type q8_0 is disabled"):
        Quantizer()(small, tmp_path / "target", 2, print, never)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os.abort()", "the process ended with -6"),
        ("sys.exit(3)", "the process ended with 3"),
        ("print('error out of luck'); sys.exit(1)", "out of luck"),
        ("print('x' * 100000 + '\\nerror no'); sys.exit(1)", "no"),
    ],
)
def test_a_process_that_dies_is_told(tmp_path: Path, body: str, reason: str) -> None:
    with pytest.raises(InvalidModelFile, match=reason):
        fake(body)(tmp_path / "source", tmp_path / "target", 7, print, never)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        Quantizer(("/nonexistent",))(tmp_path / "source", tmp_path / "target", 7, print, never)


def test_a_cancelled_process_is_gone(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    with pytest.raises(TransferCancelled):
        fake("time.sleep(60)")(
            tmp_path / "source", tmp_path / "target", 7, print, lambda: noted.exists() and noted.read_text() != ""
        )
    assert not is_running(int(noted.read_text()))


SLOW = """
import time
from types import SimpleNamespace
from dmr.engine import quantize
work = lambda *_, **__: time.sleep(60)
quantize._core = SimpleNamespace(Error=RuntimeError, take_log=lambda seconds: [], quantize=work)
quantize.main(["source", "target", "--file-type", "7"])
"""


def test_it_ends_with_its_life_line(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLOW], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    with process, contextlib.ExitStack() as cleanup:
        cleanup.callback(process.kill)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 1


# --- through the manager ---------------------------------------------------------------------------------------------


def serve(bench: Bench, talk: Callable[[ManagerClient], Any], quantize: Any = None) -> None:
    async def scene(manager: Any) -> None:
        transfers = Transfers(bench.store, Settings(), {}, quantize)
        path = bench.folder / SOCKET_NAME
        server = ManagerServer(manager, transfers, StoreChanges(bench.store, manager))
        listener = await asyncio.start_unix_server(server.serve, path)
        try:
            await asyncio.to_thread(talk, ManagerClient(path))
        finally:
            listener.close()
            await transfers.stop()

    bench.run(scene)


def steps(client: ManagerClient, new: NewModel) -> list[TransferProgress]:
    return [step for step in client.transfer(CreateModel(new)) if step is not None]


def test_a_model_is_made_through_the_manager(bench: Bench) -> None:
    bench.add_model("base")

    def talk(client: ManagerClient) -> None:
        told = steps(client, NewModel("new", "base", system="S", parameters={"stop": ("a",), "top_k": None}))
        assert told[-1] == TransferProgress("writing manifest")
        assert bench.store.get("new").defaults.parameters == {"stop": ("a",)}
        with pytest.raises(ModelNotFound):
            steps(client, NewModel("new", "absent"))
        with pytest.raises(InvalidReference):
            steps(client, NewModel("a//b", "base"))

    serve(bench, talk)


def test_leaving_ends_the_making(bench: Bench) -> None:
    model_file("tiny-random", bench.folder)
    bench.store.import_gguf(bench.folder / "tiny-random.gguf", "base")
    ended: list[bool] = []

    def quantize(source: Path, target: Path, file_type: int, report: Any, cancelled: Callable[[], bool]) -> None:
        target.write_bytes(b"half")
        report(1)
        deadline = time.monotonic() + 10
        while not cancelled() and time.monotonic() < deadline:
            time.sleep(0.01)
        ended.append(cancelled())
        raise TransferCancelled

    def talk(client: ManagerClient) -> None:
        with contextlib.closing(client.transfer(CreateModel(NewModel("new", "base", quantization="q8_0")))) as told:
            assert any(step is not None and step.layer_done == 1 for step in told)
        deadline = time.monotonic() + 10
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ended == [True]

    serve(bench, talk, quantize)
    assert len(bench.store.models()) == 1
    assert not list((bench.store.root / "blobs" / "sha256").glob("*.incomplete"))
