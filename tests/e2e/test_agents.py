"""Coding agents against a real server: each asks, runs the command that the scripted model calls, and reports.

What they are told is what docs/clients.md tells people, in an empty home folder, with the models' names replaced.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import Server
from e2e.examples import blocks
from tiny_models import SCRIPT_TOOL_ANSWER, model_file

from dmr.store.store import ModelStore

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "tests" / "node" / "agents" / "node_modules"
CLAUDE_CODE = "@anthropic-ai/claude-code-*/claude"  # npm installs the one for this machine only
CODEX = "@openai/codex-*/vendor/*/bin/codex"
NAME_IN_THE_EXAMPLES = "ai/qwen3"
CONTEXT_TOKENS = 131072  # nearly each byte of a prompt is a token of the tiny models
TOO_FEW_TOKENS = 8192

pytestmark = [pytest.mark.agents, pytest.mark.timeout(300)]


class Desk:
    """A server with a model for an agent, and the agent's own empty home and working folder."""

    def __init__(self, server: Server, folder: Path, model: str) -> None:
        self.server = server
        self.model = model
        self.home, self.work, self.programs = (folder / name for name in ("home", "work", "programs"))
        for made in (self.home, self.work, self.programs):
            made.mkdir()

    def install(self, name: str, pattern: str) -> None:
        found = sorted(PACKAGES.glob(pattern))
        if not found:
            pytest.skip(f"{name} is not there: make test-agents")
        program = self.programs / name
        if not program.exists():
            program.symlink_to(found[0])

    def example(self, heading: str, language: str) -> str:
        """A block of the page, asking this server for this model."""
        (block,) = [b for b in blocks("docs/clients.md") if (b.heading, b.language) == (heading, language)]
        assert NAME_IN_THE_EXAMPLES in block.code or language == "bash"
        return block.at(self.server.url).replace(NAME_IN_THE_EXAMPLES, self.model)

    def run(self, code: str, more_flags: str, status: int = 0) -> list[Any]:
        """What an agent printed, one JSON value a line; nothing of this process's environment reaches it."""
        path = f"{self.programs}:{os.environ.get('PATH', os.defpath)}"
        done = subprocess.run(
            ["bash", "-euc", f"{code.rstrip()} {more_flags}"],
            cwd=self.work,
            env={"HOME": str(self.home), "PATH": path, "CI": "1", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}\n{self.server.log.read_text()[-4000:]}"
        return [json.loads(line) for line in done.stdout.splitlines()]


class ClaudeCode(Desk):
    def run_example(self, *flags: str, status: int = 0) -> list[Any]:
        self.install("claude", CLAUDE_CODE)
        code = self.example("Claude Code", "bash")
        return self.run(code, " ".join(["--output-format stream-json --verbose", *flags]), status)

    @staticmethod
    def blocks_of(events: list[Any], kind: str) -> list[Any]:
        """The content blocks of this type, in all messages."""
        messages = [event["message"] for event in events if event["type"] in ("assistant", "user")]
        return [block for message in messages for block in message["content"] if block["type"] == kind]


class Codex(Desk):
    def run_example(self, command: str = "exec", status: int = 0) -> list[Any]:
        self.install("codex", CODEX)
        settings = self.home / ".codex" / "config.toml"
        settings.parent.mkdir(exist_ok=True)
        settings.write_text(self.example("Codex", "toml"))
        return self.run(self.example("Codex", "bash").replace("exec", command), "--json", status)

    @staticmethod
    def items_of(events: list[Any], kind: str) -> list[Any]:
        items = [event["item"] for event in events if event["type"] == "item.completed"]
        return [item for item in items if item["type"] == kind]


@pytest.fixture
def desk(tmp_path: Path, tiny_folder: Path) -> Iterator[Callable[..., Any]]:
    """Makes the desk of one test."""
    started: list[Server] = []

    def start(kind: type[Desk], name: str, context: int = CONTEXT_TOKENS) -> Desk:
        folder = tmp_path / "server"
        ModelStore(folder / "models").import_gguf(model_file(name, tiny_folder), f"test/{name}")
        started.append(Server(folder, DMR_CONTEXT_SIZE=str(context)))
        return kind(started[-1], tmp_path, f"test/{name}")

    yield start
    for server in started:
        server.stop()


def test_claude_code_runs_a_command_and_reports(desk: Callable[..., ClaudeCode]) -> None:
    at = desk(ClaudeCode, "tiny-bash")
    events = at.run_example()
    (call,) = at.blocks_of(events, "tool_use")
    assert (call["name"], call["input"]) == ("Bash", {"command": "pwd"})
    (result,) = at.blocks_of(events, "tool_result")
    assert result["tool_use_id"] == call["id"]
    assert result["content"] == str(at.work)
    end = events[-1]
    assert (end["type"], end["subtype"], end["is_error"]) == ("result", "success", False)
    assert (end["result"], end["num_turns"]) == (SCRIPT_TOOL_ANSWER, 2)
    usage = end["usage"]
    print(f"Claude Code: {end['duration_ms']} ms, {usage}")
    # Both turns together: the second computed no more than what the first one did not have.
    assert usage["cache_read_input_tokens"] > 0.9 * usage["input_tokens"]

    again = at.run_example("--continue")[-1]
    print(f"Continued: {again['duration_ms']} ms, {again['usage']}")
    assert again["result"] == SCRIPT_TOOL_ANSWER
    assert again["usage"]["cache_read_input_tokens"] > 20 * again["usage"]["input_tokens"]


def test_codex_runs_a_command_and_reports(desk: Callable[..., Codex]) -> None:
    at = desk(Codex, "tiny-exec")
    events = at.run_example()
    (command,) = at.items_of(events, "command_execution")
    assert "pwd" in command["command"]
    assert (command["exit_code"], command["aggregated_output"].strip()) == (0, str(at.work))
    assert [item["text"] for item in at.items_of(events, "agent_message")] == [SCRIPT_TOOL_ANSWER]
    assert events[-1]["type"] == "turn.completed"
    usage = events[-1]["usage"]
    print(f"Codex: {usage}")
    assert usage["cached_input_tokens"] > 0.45 * usage["input_tokens"], "of two turns, the second was in the cache"

    again = at.run_example("exec resume --last")
    print(f"Continued: {again[-1]['usage']}, of all turns so far")
    assert [item["text"] for item in at.items_of(again, "agent_message")] == [SCRIPT_TOOL_ANSWER]
    assert again[-1]["usage"]["cached_input_tokens"] > 0.6 * again[-1]["usage"]["input_tokens"]


def test_claude_code_understands_that_its_prompt_is_too_long(desk: Callable[..., ClaudeCode]) -> None:
    end = desk(ClaudeCode, "tiny-bash", TOO_FEW_TOKENS).run_example(status=1)[-1]
    assert end["is_error"]
    assert end["terminal_reason"] == "prompt_too_long"
    assert str(TOO_FEW_TOKENS) in end["result"]


def test_codex_understands_that_its_prompt_is_too_long(desk: Callable[..., Codex]) -> None:
    end = desk(Codex, "tiny-exec", TOO_FEW_TOKENS).run_example(status=1)[-1]
    assert end["type"] == "turn.failed"
    assert "context window" in end["error"]["message"]


def launched(at: Desk, app: str, *arguments: str) -> list[Any]:
    """What the agent prints that `dmr launch` starts, in a home folder without any settings."""
    dmr = shlex.join([sys.executable, "-m", "dmr", "--server", at.server.url, "launch", app])
    events = at.run(f"{dmr} --model {at.model} -- {shlex.join(arguments)}", "")
    assert not list(at.home.rglob("config.toml"))
    return events


def test_claude_code_is_launched(desk: Callable[..., ClaudeCode]) -> None:
    at = desk(ClaudeCode, "tiny-bash")
    at.install("claude", CLAUDE_CODE)
    flags = ["--allowedTools", "Bash", "--output-format", "stream-json", "--verbose"]
    events = launched(at, "claude", *flags, "--print", "Which folder is this?")
    assert [block["input"] for block in at.blocks_of(events, "tool_use")] == [{"command": "pwd"}]
    assert events[-1]["result"] == SCRIPT_TOOL_ANSWER


def test_codex_is_launched(desk: Callable[..., Codex]) -> None:
    at = desk(Codex, "tiny-exec")
    at.install("codex", CODEX)
    events = launched(at, "codex", "exec", "--skip-git-repo-check", "--json", "Which folder is this?")
    assert [item["text"] for item in at.items_of(events, "agent_message")] == [SCRIPT_TOOL_ANSWER]
