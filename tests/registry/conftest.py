"""A real registry on loopback: the distribution project's, as Debian packages it. Tests are skipped without it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from certificates import Certificates, make_certificates
from transfer_models import whole_model

from dmr.store.store import ModelStore

USER, PASSWORD = "tester", "secret"
# Of that password, as `htpasswd -B` writes it.
HTPASSWD = f"{USER}:$2b$04$i8/.E0bnZi5pwoxOg9i2yOxjm6CRElwx0ThS9FrrgcTfzq9.ot69C\n"


class RealRegistry:
    """`folder` holds its data, `log` a line for each request."""

    def __init__(self, folder: Path, with_user: bool = False, certificates: Certificates | None = None) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.certificates = certificates
        self.host = f"127.0.0.1:{_free_port()}"
        folder.mkdir(parents=True)
        self._configure(with_user)

    @property
    def requests(self) -> list[str]:
        """ "GET /v2/… HTTP/1.1" and the status, of each request so far."""
        lines = [line.split('"') for line in self.log.read_text().splitlines() if line.count('"') >= 4]
        return [f"{parts[1]} {parts[2].split()[0]}" for parts in lines if "HTTP/" in parts[1]]

    def count(self, method: str, part: str) -> int:
        return sum(line.startswith(f"{method} ") and part in line for line in self.requests)

    @contextmanager
    def running(self) -> Iterator[RealRegistry]:
        command = ["docker-registry", "serve", str(self.folder / "config.json")]
        with self.log.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                self._wait(process)
                yield self
            finally:
                process.kill()

    def _configure(self, with_user: bool) -> None:
        http: dict[str, object] = {"addr": self.host, "secret": "of no account"}
        if self.certificates is not None:
            http["tls"] = {"certificate": str(self.certificates.certificate), "key": str(self.certificates.key)}
        config: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "data")}, "delete": {"enabled": True}},
            "http": http,
        }
        if with_user:
            (self.folder / "htpasswd").write_text(HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(self.folder / "htpasswd")}}
        (self.folder / "config.json").write_text(json.dumps(config))  # which is YAML as well

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        host, _, port = self.host.rpartition(":")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError), socket.create_connection((host, int(port)), 1):
                return
            time.sleep(0.02)
        raise AssertionError(f"the registry does not start: {self.log.read_text()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Start = Callable[..., RealRegistry]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a registry; `with_user` asks for a password, `with_tls` has a certificate of an authority of its own."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with ExitStack() as stack:

        def begin(with_user: bool = False, with_tls: bool = False) -> RealRegistry:
            made = make_certificates(tmp_path / "certificates") if with_tls else None
            return stack.enter_context(RealRegistry(tmp_path / "registry", with_user, made).running())

        yield begin


@pytest.fixture
def source(tmp_path: Path) -> ModelStore:
    """A store with a model of seven layers: `test/model`."""
    store = ModelStore(tmp_path / "source")
    whole_model(store, tmp_path, "test/model")
    return store


@pytest.fixture
def target(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "target")
