"""The command line against a running server: what upstream's tests of its own command line ask for, and more."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import Server
from e2e.examples import blocks
from loopback_registry import LoopbackRegistry, running
from tiny_models import SCRIPT_ANSWER, model_file
from transfer_models import NOBODY

from dmr.store.store import ModelStore
from dmr.store.transfers import push

ROOT = Path(__file__).parents[2]


class CommandLine:
    """`dmr ARGUMENTS`, each in a process of its own, with an empty home folder."""

    def __init__(self, server: Server, home: Path) -> None:
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DMR_", "MODEL"))},
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'server'}",
            "MODEL_RUNNER_HOST": server.url,
        }

    def run(self, *arguments: str, stdin: bytes = b"", status: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [sys.executable, "-m", "dmr", *arguments],
            cwd=ROOT,
            env=self._environment,
            input=stdin,
            capture_output=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == status, (arguments, done.stdout[-2000:], done.stderr[-2000:])
        return done

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "dmr", *arguments]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(program, cwd=ROOT, env=self._environment, **pipes)

    def text(self, *arguments: str, **settings: Any) -> str:
        """What went to stdout; nothing may have gone to stderr."""
        done = self.run(*arguments, **settings)
        assert done.stderr == b"", (arguments, done.stderr)
        return done.stdout.decode()

    def shell(self, code: str) -> str:
        """What bash code prints in which `dmr` is called."""
        function = f'dmr() {{ {shlex.quote(sys.executable)} -m dmr "$@"; }}'
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{function}\n{code}"],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, (code, done.stdout, done.stderr)
        return done.stdout

    def error(self, *arguments: str, **settings: Any) -> str:
        done = self.run(*arguments, status=1, **settings)
        assert done.stdout == b""
        return done.stderr.decode()


@pytest.fixture
def registry() -> Iterator[LoopbackRegistry]:
    with running(LoopbackRegistry()) as server:
        yield server


@pytest.fixture
def name(registry: LoopbackRegistry, tmp_path: Path, tiny_folder: Path) -> str:
    """A model of the registry that can be run."""
    store, name = ModelStore(tmp_path / "source"), f"{registry.host}/test/tiny:v1"
    store.import_gguf(model_file("tiny-script", tiny_folder), name)
    push(store, name, name, NOBODY, lambda _: None)
    return name


@pytest.fixture
def dmr(tmp_path: Path) -> Iterator[CommandLine]:
    """With a server that has no models yet."""
    (tmp_path / "server").mkdir()
    (tmp_path / "home").mkdir()
    started = Server(
        tmp_path / "server", HOME=str(tmp_path), DMR_RECORD="bodies", MODEL_RUNNER_LOG_DIR=str(tmp_path / "logs")
    )
    yield CommandLine(started, tmp_path / "home")
    started.stop()


def test_a_day_of_a_model(dmr: CommandLine, name: str, registry: LoopbackRegistry) -> None:
    assert dmr.text("pull", name) == "Model pulled successfully\n"
    assert dmr.text("pull", name).startswith("Using cached model: ")
    assert name in dmr.text("ls")
    assert dmr.text("run", name, "Say hi in one word.") == f"{SCRIPT_ANSWER}\n"
    row = dmr.text("ps").splitlines()[1]
    assert name in row
    assert row.endswith(" from now")
    assert f"Tags:        {name}" in dmr.text("show", name)
    assert json.loads(dmr.text("inspect", name))["tags"] == [name]
    assert json.loads(dmr.text("inspect", "--openai", name))["object"] == "model"
    assert "tags" not in json.loads(dmr.text("inspect", "--remote", name))
    (record,) = json.loads(dmr.text("requests"))[0]["records"]
    assert "Say hi" in json.dumps(record)

    assert "Listening at: http://127.0.0.1:" in dmr.text("logs")

    copy = f"{registry.host}/test/copy:v2"
    assert dmr.text("tag", name, copy) == f'Model "{name}" tagged successfully with "{copy}"\n'
    assert dmr.text("push", copy) == "Model pushed successfully\n"
    assert registry.manifests["test/copy:v2"][0] == registry.manifests["test/tiny:v1"][0]
    assert dmr.text("rm", copy) == f"Untagged: {copy}\n"

    assert dmr.text("unload", name) == "Unloaded 1 model(s).\n"
    assert len(dmr.text("ps").splitlines()) == 1
    assert dmr.text("rm", "-f", name).startswith(f"Untagged: {name}\nDeleted: sha256:")
    assert json.loads(dmr.text("ls", "--json")) == []


def test_requests_are_followed_until_ctrl_c(dmr: CommandLine, tiny_folder: Path) -> None:
    dmr.run("import", str(model_file("tiny-script", tiny_folder)), "tiny")
    with dmr.start("requests", "--follow") as following:
        assert following.stdout is not None
        assert following.stderr is not None
        assert following.stderr.readline().startswith(b"Connected to request stream.")
        dmr.run("run", "tiny", "Hello")
        (event,) = json.loads(following.stdout.readline())
        assert event["records"][0]["model"] == "tiny"
        following.send_signal(signal.SIGINT)
        assert following.communicate(timeout=20) == (b"", b"")
    assert following.returncode == 130


def test_run_pulls_what_is_missing(dmr: CommandLine, name: str) -> None:
    done = dmr.run("run", name, "Hello")
    assert done.stdout.decode() == f"{SCRIPT_ANSWER}\n"
    assert done.stderr.decode() == (
        f"Unable to find model '{name}' locally. Pulling from the server.\nModel pulled successfully\n"
    )
    told = json.loads(dmr.text("run", "--json", name, "Hello"))
    assert (told["content"], told["finish_reason"]) == (SCRIPT_ANSWER, "stop")


def test_a_model_is_packaged_carried_and_purged(dmr: CommandLine, tmp_path: Path, tiny_folder: Path) -> None:
    weights = model_file("tiny-script", tiny_folder)
    (tmp_path / "LICENSE").write_text("Free for all.")
    made = dmr.text("package", "--gguf", str(weights), "-l", str(tmp_path / "LICENSE"), "--context-size", "512", "mine")
    assert made == "docker.io/ai/mine:latest\n"
    assert dmr.text("run", "mine", "Hello") == f"{SCRIPT_ANSWER}\n"
    assert dmr.text("package", "--from", "mine", "--context-size", "256", "mine:short") == "docker.io/ai/mine:short\n"
    assert json.loads(dmr.text("inspect", "mine:short"))["config"]["context_size"] == 256

    before = json.loads(dmr.text("inspect", "mine"))
    dmr.text("export", "mine", "-o", str(tmp_path / "mine.tar"))
    dmr.run("unload", "--all")
    dmr.run("rm", "mine")
    assert dmr.text("load", str(tmp_path / "mine.tar")) == "docker.io/ai/mine:latest\n"
    assert json.loads(dmr.text("inspect", "mine"))["id"] == before["id"]
    piped = (tmp_path / "mine.tar").read_bytes()
    assert "docker.io/ai/again:v1" in dmr.text("load", "--tag", "again:v1", stdin=piped)

    assert dmr.text("purge", "--yes") == "All models are removed.\n"
    assert json.loads(dmr.text("ls", "--json")) == []


def test_the_examples_of_the_manual(dmr: CommandLine, tiny_folder: Path, tmp_path: Path) -> None:
    dmr.run("package", "--gguf", str(model_file("tiny-script", tiny_folder)), "smollm2")
    examples = [block for block in blocks("docs/command-line.md") if block.language == "bash"]
    assert len(examples) >= 2
    for block in examples:
        assert SCRIPT_ANSWER[:10] in dmr.shell(block.code), block.code


ERRORS = {
    "rm nosuch": "no such model: nosuch",
    "rm -f nosuch": "no such model: nosuch",
    "inspect nosuch": "no such model: nosuch",
    "show nosuch": "no such model: nosuch",
    "tag nosuch x": "no such model: nosuch",
    "export nosuch": "no such model: nosuch",
    "package --from nosuch x": "no such model: nosuch",
    "push nosuch": "no such model: nosuch",
    "rm invalid:reference:format": "invalid:reference:format",
    "pull invalid:reference:format": "reference",
    "load": "archive",
}


def test_every_error_is_one_line_that_names_what_is_wrong(dmr: CommandLine) -> None:
    told = {arguments: dmr.error(*arguments.split()) for arguments in ERRORS}
    assert not [told[arguments] for arguments, message in ERRORS.items() if message not in told[arguments]]
    assert not [text for text in told.values() if not text.startswith("Error: ") or text.count("\n") != 1]
