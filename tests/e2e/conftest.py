"""A real server: `dmr serve` in processes of its own, on a free loopback port, over a store in a temporary folder."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import urllib3
from openai import OpenAI
from tiny_models import model_file

from dmr.store.store import ModelStore

START_TIMEOUT = 30.0
CALLS_TIMEOUT = 100.0  # seconds for all calls of one program of another client
ROOT = Path(__file__).parents[2]
STARTER_MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
CLIENTS_PYTHON = ROOT / "build" / "litellm" / "bin" / "python"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def children_of(pid: int) -> list[int]:
    """Living descendants, found by parent ids."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(folder.name)] = int(parent)
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def end_with_parent() -> None:
    """In a new child: SIGTERM when the test process dies, however it does."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def wait_until(condition: Callable[[], Any], timeout: float = 10.0) -> Any:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout} s: {condition}")


class Server:
    """One running `dmr serve`."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.runtime_dir = folder / "run"
        self.log = folder / "server.log"
        settings = {
            "MODELS_PATH": str(folder / "models"),
            "MODEL_RUNNER_PORT": str(self.port),
            "DMR_RUNTIME_DIR": str(self.runtime_dir),
            "DMR_THREADS": "1",
            **environ,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dmr", "serve"],
                env={**os.environ, **settings},
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self.pool = urllib3.PoolManager(retries=False, maxsize=128, timeout=60.0)
        self._clients: list[OpenAI] = []  # to be closed: a collected one may lose its socket before it closes itself
        try:
            wait_until(self.is_ready, START_TIMEOUT)
        except AssertionError:
            self.stop()
            raise AssertionError(self.log.read_text()) from None

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.get("/ready").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def get(self, path: str) -> urllib3.BaseHTTPResponse:
        return self.pool.request("GET", self.url + path)

    def post(self, path: str, body: Any, **headers: str) -> urllib3.BaseHTTPResponse:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.pool.request("POST", self.url + path, body=data, headers=headers)

    def chat(self, model: str, text: str = "hi", **fields: Any) -> dict[str, Any]:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        response = self.post("/v1/chat/completions", body)
        assert response.status == 200, response.data
        answer: dict[str, Any] = response.json()
        return answer

    def engine_pids(self) -> list[int]:
        def is_engine(pid: int) -> bool:
            try:
                return b"dmr.engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                return False

        return [pid for pid in children_of(self.process.pid) if is_engine(pid)]

    def client(self, **options: Any) -> OpenAI:
        """An official client, closed when the server stops."""
        client = OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0, **options)
        self._clients.append(client)
        return client

    def stop(self) -> int:
        """SIGTERM, then the exit status; kills what is left of it after a while."""
        family = [self.process.pid, *children_of(self.process.pid)]
        self.pool.clear()
        for client in self._clients:
            client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(40.0)
        finally:
            for pid in family:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)


class CallsInOtherEnvironment:
    """The replies of one program of `clients/`, which ran as a whole; skips where its environment is missing."""

    def __init__(self, program: str, url: str, names: Sequence[str]) -> None:
        if not CLIENTS_PYTHON.exists():
            pytest.skip("'make test-litellm' brings this client")
        path = Path(__file__).parent / "clients" / program
        environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
        found = subprocess.run(
            [CLIENTS_PYTHON, path, url, *names], env=environ, capture_output=True, text=True, timeout=CALLS_TIMEOUT
        )
        assert found.returncode == 0, found.stderr
        self._replies: dict[str, dict[str, Any]] = json.loads(found.stdout.splitlines()[-1])

    def value(self, name: str) -> Any:
        reply = self._replies[name]
        assert "error" not in reply, reply["error"]
        return reply["value"]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


def add_tiny_models(models_path: Path, tiny_folder: Path) -> None:
    store = ModelStore(models_path)
    for name in ("tiny-script", "tiny-think", "tiny-random", "tiny-embed", "tiny-rerank"):
        store.import_gguf(model_file(name, tiny_folder), f"test/{name}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Server]:
    """A server with the tiny models, and the starter model if it was brought; for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("server")
    add_tiny_models(folder / "models", tiny_folder)
    if STARTER_MODEL.exists():
        store = ModelStore(folder / "models")
        store.import_gguf(STARTER_MODEL, "ai/smollm2:135M-Q4_1")
        store.tag("ai/smollm2:135M-Q4_1", "ai/smollm2:latest")
    running = Server(folder, DMR_CONTEXT_SIZE="2048")
    yield running
    running.stop()


@pytest.fixture
def own_server(tmp_path: Path, tiny_folder: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers for one test, which may do with them what it likes."""
    started: list[Server] = []

    def start(**environ: str) -> Server:
        folder = tmp_path / f"server{len(started)}"
        add_tiny_models(folder / "models", tiny_folder)
        started.append(Server(folder, **environ))
        return started[-1]

    yield start
    for running in started:
        running.stop()
