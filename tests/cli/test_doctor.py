"""`dmr doctor` on machines that are well, and on those that are not."""

from __future__ import annotations

import http.server
import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_models import model_file

from dmr.cli.main import cli
from dmr.doctor.engine import check_engine
from dmr.doctor.finding import Finding
from dmr.doctor.machine import check_machine
from dmr.doctor.network import check_port
from dmr.doctor.store import check_store
from dmr.store.store import ModelStore

BUILD = {
    "llama_cpp_commit": "abc1234",
    "flavour": "native",
    "compiler": "gcc",
    "cpu_features": ["AVX2", "FMA", "F16C", "AVX512"],
}
CPU = {"name": "CPU", "description": "A processor", "kind": "cpu", "total_bytes": 2**33, "free_bytes": 0}


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments])


def findings(result: Result) -> list[dict[str, str]]:
    told: list[dict[str, str]] = json.loads(result.stdout)["findings"]
    return told


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """With one model, `tiny`."""
    store = ModelStore(tmp_path / "models")
    store.import_gguf(model_file("tiny-random", tmp_path), "tiny")
    return store


def one_blob(store: ModelStore) -> Path:
    return max((store.root / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_machine_that_is_well(free_port: int) -> None:
    result = doctor("--offline", "--port", str(free_port), "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 0
    assert told["healthy"] is True
    checks = [finding["check"] for finding in told["findings"]]
    assert checks[:2] == ["settings", "engine"]
    assert {"device", "processor", "memory", "processors", "files", "disk", "port", "store"} <= set(checks)
    assert not {"registry", "hub"} & set(checks)
    assert all(bool(finding["advice"]) == (finding["level"] != "ok") for finding in told["findings"])


def test_a_port_that_another_program_has_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = doctor("--offline", "--port", str(port))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("FAIL  port:"))
    assert f"127.0.0.1:{port}" in lines[at]
    assert lines[at + 1].strip().startswith("-> ")


def test_wrong_settings_are_said_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DMR_KEEP_ALIVE", "soon")
    result = doctor("--json")
    assert result.exit_code == 1
    assert [(each["check"], each["level"]) for each in findings(result)] == [("settings", "failure")]
    assert "DMR_KEEP_ALIVE" in findings(result)[0]["message"]


def test_registries_that_cannot_be_reached_are_warnings(
    monkeypatch: pytest.MonkeyPatch, free_port: int, nowhere: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", nowhere)
    monkeypatch.setenv("MODEL_RUNNER_REGISTRY_MIRRORS", nowhere)
    monkeypatch.setenv("DEFAULT_REGISTRY", nowhere)
    result = doctor("--json", "--port", str(free_port))
    found = [each for each in findings(result) if each["check"] in ("registry", "hub")]
    assert result.exit_code == 0
    assert [each["check"] for each in found] == ["registry", "registry", "hub"]
    assert all(each["level"] == "warning" and nowhere in each["message"] for each in found)


# --- the port --------------------------------------------------------------------------------------------------------


class Answering(http.server.BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def answering() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("body", "level"),
    [
        (b'{"version": "1.2.3", "llama_cpp_version": "b1"}', "ok"),
        (b'{"version": "0.9"}', "failure"),  # Ollama, for one
        (b"<html>", "failure"),
        (b"", "failure"),
    ],
)
def test_whose_server_it_is(
    answering: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, body: bytes, level: str
) -> None:
    monkeypatch.setattr(Answering, "body", body)
    found = check_port("127.0.0.1", answering.server_port)
    assert found.level == level
    assert ("1.2.3" in found.message) == (level == "ok")


def test_an_address_of_another_machine() -> None:
    assert check_port("192.0.2.1", 12434).level == "failure"  # of RFC 5737: nobody's
    assert check_port("no.such.host.invalid", 12434).level == "failure"


# --- the engine ------------------------------------------------------------------------------------------------------


def engine(told: object, flags: str, tmp_path: Path) -> list[Finding]:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    return list(check_engine([sys.executable, "-c", f"print({json.dumps(told)!r})"], tmp_path))


@pytest.mark.parametrize(
    ("flags", "level", "said"),
    [
        ("avx2 fma f16c avx512f", "ok", "AVX512"),
        ("avx2 fma f16c avx512f amx_int8", "warning", "AMX_INT8"),
        ("sse2", "warning", "no avx2, fma, f16c"),
    ],
)
def test_what_the_processor_can_and_the_build_uses(tmp_path: Path, flags: str, level: str, said: str) -> None:
    found = engine([BUILD, [CPU]], flags, tmp_path)[-1]
    assert (found.check, found.level) == ("processor", level)
    assert said in found.message


def test_nothing_to_compute_on(tmp_path: Path) -> None:
    assert [each.check for each in engine([BUILD, []], "avx2", tmp_path) if each.level == "failure"] == ["device"]


@pytest.mark.parametrize("code", ["raise ImportError('no such file: libcuda.so')", "import os; os.abort()", "print()"])
def test_an_engine_that_cannot_be_loaded(code: str) -> None:
    (found,) = check_engine([sys.executable, "-c", code])
    assert (found.check, found.level) == ("engine", "failure")
    assert ("libcuda.so" in found.message) == ("libcuda" in code)


# --- the machine and the store ---------------------------------------------------------------------------------------


def test_little_memory(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable:  524288 kB\n")
    found = next(each for each in check_machine(tmp_path, tmp_path) if each.check == "memory")
    assert (found.level, found.message) == ("warning", "0.5 GiB free of the machine's memory")


def test_a_models_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = next(each for each in check_machine(tmp_path / "file" / "models") if each.check == "disk")
    assert found.level == "failure"


def test_a_whole_store(store: ModelStore) -> None:
    for deep in (False, True):
        (found,) = check_store(store.root, deep=deep)
        assert (found.level, found.message.split(" ", 1)[0]) == ("ok", "1")


def test_a_damaged_file_is_found_by_looking_deep(store: ModelStore) -> None:
    blob = one_blob(store)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    assert [each.level for each in check_store(store.root, deep=False)] == ["ok"]
    found = next(iter(check_store(store.root, deep=True)))
    assert found.level == "failure"
    assert blob.name in found.message
    assert "dmr rm" in found.advice


def test_a_missing_file_is_found_at_once(store: ModelStore) -> None:
    one_blob(store).unlink()
    assert [each.level for each in check_store(store.root, deep=False)] == ["failure"]


def test_a_store_that_cannot_be_read(store: ModelStore) -> None:
    (store.root / "models.json").write_text("{")
    (found,) = check_store(store.root, deep=False)
    assert found.level == "failure"
