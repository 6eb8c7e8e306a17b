"""What the README tells people to type works: its python and bash blocks run against a real server."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
STARTER_MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
ADDRESS = "http://127.0.0.1:12434"  # of every example


class Block(NamedTuple):
    language: str
    line: int
    code: str

    def at(self, url: str) -> str:
        """The code, asking the server at `url`."""
        return self.code.replace(ADDRESS, url)


def blocks() -> list[Block]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], text.count("\n", 0, match.start()) + 1, match[2]) for match in found]


RUN = [block for block in blocks() if block.language in ("python", "bash")]
PROGRAMS = pytest.mark.parametrize("block", RUN, ids=lambda block: f"{block.language}-line{block.line}")


def test_there_is_something_to_run_and_no_block_escapes() -> None:
    languages = [block.language for block in blocks()]
    assert languages.count("python") >= 2
    assert languages.count("bash") >= 2
    assert set(languages) <= {"python", "bash", "console"}, "console is for what installs or never ends"


@PROGRAMS
def test_the_examples_are_well_formed(block: Block) -> None:
    if block.language == "python":
        ast.parse(block.code)
    else:
        checked = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr


@PROGRAMS
def test_examples_for_http_ask_the_default_address(block: Block) -> None:
    addresses = re.findall(r"https?://[\w.]+(?::\d+)?", block.code)
    assert set(addresses) <= {ADDRESS}


@pytest.mark.real
@PROGRAMS
def test_the_examples_run(block: Block, server: Any) -> None:
    if not STARTER_MODEL.exists():
        pytest.skip("the starter model is not there: make model")
    if "curl " in block.code and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = execute(block, server.url)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()
    assert '"error"' not in done.stdout


def execute(block: Block, url: str) -> subprocess.CompletedProcess[str]:
    environ = {
        **os.environ,
        "MODEL_RUNNER_HOST": url,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    command = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    return subprocess.run(
        [*command, block.at(url)], env=environ, capture_output=True, text=True, check=False, timeout=110
    )
