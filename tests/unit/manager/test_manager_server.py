"""The manager as its clients see it: over its socket, and as a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.manager.conftest import Bench, is_running, until
from unit.manager.fake_engine import INFO

from dmr import client as dmr_client
from dmr.client import Lease, ManagerClient
from dmr.config import EngineSettings, Settings
from dmr.errors import Conflict, EngineCrashed, InvalidReference, ModelLoadFailed, ModelNotFound, Unavailable
from dmr.manager import __main__ as manager_main
from dmr.manager import model_manager
from dmr.manager.__main__ import SOCKET_NAME, ManagerServer
from dmr.manager.model_manager import ModelManager
from dmr.manager.store_changes import StoreChanges
from dmr.manager.transfers import Transfers
from dmr.wire import WireError, manager_reply_decoder

Talk = Callable[[ManagerClient], Any]
PROGRAM = """
import asyncio, sys
from dmr.config import read_settings
from dmr.manager.__main__ import run_manager
settings = read_settings()
asyncio.run(run_manager(settings, settings.runtime_dir, sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def quick_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_main, "PROGRESS_INTERVAL", 0.02)
    monkeypatch.setattr(model_manager, "CANCEL_AFTER", 0.05)


def serve(bench: Bench, talk: Talk, **settings: Any) -> ModelManager:
    """Run `talk` on a thread against a manager's socket; returns the manager afterwards."""
    managers: list[ModelManager] = []

    async def scene(manager: ModelManager) -> None:
        managers.append(manager)
        path = bench.folder / SOCKET_NAME
        transfers = Transfers(bench.store, Settings(), {})
        server = ManagerServer(manager, transfers, StoreChanges(bench.store, manager))
        listener = await asyncio.start_unix_server(server.serve, path)
        try:
            await asyncio.to_thread(talk, ManagerClient(path))
            await until(lambda: all(model.num_active == 0 for model in manager.running()))
        finally:
            listener.close()

    bench.run(scene, **settings)
    return managers[0]


def acquire(client: ManagerClient, reference: str = "one", keep_alive: float | None = None) -> Lease:
    *_, lease = client.acquire(reference, keep_alive)
    assert lease is not None
    return lease


def answers(client: ManagerClient) -> bool:
    """A socket's name is there a moment before anybody listens."""
    with contextlib.suppress(Unavailable):
        client.ping()
        return True
    return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.005)


def test_a_lease_lasts_as_long_as_its_connection(bench: Bench) -> None:
    model_id = bench.add_model()

    def talk(client: ManagerClient) -> None:
        client.ping()
        lease = acquire(client)
        assert (lease.model_id, lease.info) == (model_id, INFO)
        assert Path(lease.socket).exists()
        with contextlib.closing(acquire(client, keep_alive=7.0)):
            (shown,) = client.running_models()
            assert (shown.num_active, shown.state, shown.keep_alive) == (2, "ready", 7.0)
        wait_for(lambda: client.running_models()[0].num_active == 1)
        with pytest.raises(Conflict):
            client.remove_model("one", False)
        assert client.unload_models(None) == 0
        with pytest.raises(Conflict, match="In use"):
            client.unload_models(("one",))
        lease.close()
        wait_for(lambda: client.unload_models(None) == 1)
        assert client.remove_model("one", False).deleted

    serve(bench, talk)


def test_commands_that_fail_say_why(bench: Bench) -> None:
    def talk(client: ManagerClient) -> None:
        with pytest.raises(ModelNotFound):
            acquire(client, "absent")
        with pytest.raises(InvalidReference):
            client.remove_model("a//b", False)
        with pytest.raises(ModelNotFound):
            client.unload_models(("absent",))

    serve(bench, talk)


@pytest.mark.parametrize("mode", ["refuses", "dies", "garbage"])
def test_a_failed_load_is_the_answer(bench: Bench, mode: str) -> None:
    bench.add_model()
    bench.set_mode(mode)

    def talk(client: ManagerClient) -> None:
        with pytest.raises(ModelLoadFailed, match="'one'"):
            acquire(client)

    serve(bench, talk)


def test_a_lease_is_granted_as_soon_as_the_model_is_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add_model()
    monkeypatch.setattr(manager_main, "PROGRESS_INTERVAL", 1000.0)  # not at the next line about progress
    serve(bench, lambda client: acquire(client).close())


def test_who_holds_a_lease_is_told_why_the_engine_is_gone(bench: Bench) -> None:
    bench.add_model()

    def talk(client: ManagerClient) -> None:
        with contextlib.closing(acquire(client)) as lease:
            os.kill(client.running_models()[0].pid, signal.SIGABRT)
            error = lease.post_mortem()
            assert isinstance(error, EngineCrashed)
            assert "SIGABRT" in error.message
        (life,) = client.lifecycle().models
        assert (life.num_crashes, life.state) == (1, "unloaded")
        with contextlib.closing(acquire(client)) as lease:
            os.kill(client.running_models()[0].pid, signal.SIGABRT)
            assert lease.post_mortem()
        with pytest.raises(EngineCrashed, match="in a row") as caught:
            acquire(client)
        assert caught.value.retry_after == 1.0

    serve(bench, talk)


def test_a_lease_on_an_engine_that_lives_has_no_post_mortem(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add_model()
    monkeypatch.setattr(dmr_client, "POST_MORTEM_TIMEOUT", 0.0)

    def talk(client: ManagerClient) -> None:
        with contextlib.closing(acquire(client)) as lease:
            assert lease.post_mortem() is None
        assert client.lifecycle().models[0].state == "ready"

    serve(bench, talk)


def test_a_load_that_hangs_is_answered_in_time_and_not_in_silence(bench: Bench) -> None:
    bench.add_model()
    bench.set_mode("hangs")

    def talk(client: ManagerClient) -> None:
        leases = client.acquire("one", None)
        assert [next(leases) for _ in range(3)] == [None] * 3
        with pytest.raises(ModelLoadFailed, match=r"within 0\.5 seconds"):
            list(leases)

    serve(bench, talk, load_timeout=0.5)


def test_who_leaves_while_the_model_loads_holds_it_no_longer(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.add_model()
    bench.set_mode("hangs")

    def talk(client: ManagerClient) -> None:
        leases = client.acquire("one", None)
        assert [next(leases), next(leases)] == [None, None]
        assert client.running_models()[0].num_active == 1
        leases.close()
        wait_for(lambda: client.running_models() == ())
        preload = client.acquire("one", None, preload=True)
        assert [next(preload), next(preload)] == [None, None]
        preload.close()
        wait_for(lambda: client.running_models()[0].num_active == 0)
        assert client.unload_models(None) == 1

    serve(bench, talk)
    assert "failed" not in caplog.text


def test_a_wish_for_more_context_waits_and_can_be_given_up(bench: Bench) -> None:
    bench.add_model()

    def talk(client: ManagerClient) -> None:
        with contextlib.closing(acquire(client)) as lease:
            assert lease.info.context_size == 64
            given_up = client.acquire("one", None, 400)
            assert [next(given_up), next(given_up)] == [None, None]
            given_up.close()
            with contextlib.closing(acquire(client)) as other:  # is not held up by the one that has left
                assert other.socket == lease.socket
        *_, larger = client.acquire("one", None, 400)
        assert larger is not None
        assert larger.info.context_size == 400
        larger.close()

    serve(bench, talk, engine=EngineSettings(context_size=64))
    assert len(bench.pids("started")) == 2


def test_a_name_can_be_added(bench: Bench) -> None:
    model_id = bench.add_model()

    def talk(client: ManagerClient) -> None:
        assert client.tag_model("one", "two").id == model_id
        assert bench.store.get("two").id == model_id
        with pytest.raises(ModelNotFound):
            client.tag_model("absent", "two")

    serve(bench, talk)


@pytest.mark.parametrize("data", [b"\0\0\0\1\xc1", b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n" * 5])
def test_garbage_is_answered_with_an_error(bench: Bench, data: bytes) -> None:
    def talk(client: ManagerClient) -> None:
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(5)
            raw.connect(str(bench.folder / SOCKET_NAME))
            raw.sendall(data)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while more := raw.recv(1000):
                    answer += more
        assert isinstance(manager_reply_decoder.decode(answer[4:]), WireError)
        client.ping()

    serve(bench, talk)


def test_who_connects_and_says_nothing_harms_nobody(bench: Bench) -> None:
    def talk(client: ManagerClient) -> None:
        for data in (b"", b"\0\0"):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(str(bench.folder / SOCKET_NAME))
                raw.sendall(data)
        client.ping()

    serve(bench, talk)


# --- the process -----------------------------------------------------------------------------------------------------


@pytest.fixture
def process(bench: Bench) -> Iterator[subprocess.Popen[bytes]]:
    """`run_manager` in a process of its own, with fake engines."""
    bench.add_model()
    environment = {**os.environ, "DMR_RUNTIME_DIR": str(bench.folder), "MODELS_PATH": str(bench.store.root)}
    command = [sys.executable, "-c", PROGRAM, *bench.command]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as started:
        try:
            wait_for(lambda: answers(ManagerClient(bench.folder / SOCKET_NAME)))
            yield started
        finally:
            started.kill()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()


def terminate(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)


def hang_up(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize("end", [kill, terminate, hang_up])
def test_engines_do_not_outlive_their_manager(bench: Bench, process: subprocess.Popen[bytes], end: Any) -> None:
    client = ManagerClient(bench.folder / SOCKET_NAME)
    lease = acquire(client)
    (pid,) = bench.pids("started")
    assert is_running(pid)
    end(process)
    wait_for(lambda: not is_running(pid))
    process.wait(10)
    with pytest.raises(Unavailable):
        client.ping()
    if end is not kill:
        assert process.returncode == 0
        assert not (bench.folder / SOCKET_NAME).exists()
    lease.close()


def test_a_manager_takes_the_place_of_one_that_was_killed(bench: Bench, process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(10)
    assert (bench.folder / SOCKET_NAME).exists()

    def talk(client: ManagerClient) -> None:
        client.ping()

    (bench.folder / SOCKET_NAME).unlink()
    serve(bench, talk)


def test_without_a_runtime_folder_it_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(manager_main, "read_settings", Settings)
    assert manager_main.main() == 2
    assert "DMR_RUNTIME_DIR" in caplog.text
