"""The official Node clients against a real server: each script of tests/node/clients, and the examples of the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from e2e.conftest import STARTER_MODEL, Server
from e2e.examples import Block, blocks

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "tests" / "node" / "clients"
SCRIPTS = sorted(path.name for path in CLIENTS.glob("*.mjs") if path.name != "server.mjs")
SAID = {
    "answer": tiny_models.SCRIPT_ANSWER,
    "answerTokens": tiny_models.SCRIPT_ANSWER_TOKENS,
    "tool": tiny_models.SCRIPT_TOOL,
    "toolArguments": json.loads(tiny_models.SCRIPT_TOOL_ARGUMENTS),
    "toolAnswer": tiny_models.SCRIPT_TOOL_ANSWER,
    "completion": tiny_models.SCRIPT_COMPLETION,
    "reasoning": tiny_models.THINK_REASONING,
    "embedSize": tiny_models.EMBED_SIZE,
}


@pytest.fixture(scope="module")
def node() -> str:
    """Node itself, with the clients brought."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("Node is not installed")
    if not (CLIENTS / "node_modules").is_dir():
        pytest.skip("the Node clients are not there: make clients")
    return found


def run(command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    """In the clients' folder, so that Node finds them."""
    return subprocess.run(
        command,
        cwd=CLIENTS,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def test_every_client_has_a_script() -> None:
    pinned = json.loads((CLIENTS / "package.json").read_text())["dependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in pinned.values()), "exact versions only"
    imported = " ".join((CLIENTS / name).read_text() for name in SCRIPTS)
    assert all(f'from "{name}"' in imported for name in pinned)


@pytest.mark.node
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_client_works(script: str, node: str, server: Server) -> None:
    done = run(
        [node, "--test-reporter=spec", "--test", script], DMR_URL=server.url, DMR_SCRIPT=json.dumps(SAID), NO_COLOR="1"
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    written = len(re.findall(r"^ *test\(", (CLIENTS / script).read_text(), re.MULTILINE))
    (passed,) = re.findall(r"^. pass (\d+)$", done.stdout, re.MULTILINE)
    assert int(passed) >= written > 0


# --- the examples of docs/clients.md ---------------------------------------------------------------------------------

EXAMPLES = [block for block in blocks("docs/clients.md") if block.language in ("python", "js")]
(ENVIRONMENT,) = [
    block for block in blocks("docs/clients.md") if (block.heading, block.language) == ("By environment", "bash")
]


def environment(url: str) -> dict[str, str]:
    """What the page says to export."""
    return dict(re.findall(r"^export (\w+)=(\S+)$", ENVIRONMENT.at(url), re.MULTILINE))


def test_the_page_shows_both_languages_and_its_environment() -> None:
    assert {block.language for block in EXAMPLES} == {"python", "js"}
    assert set(environment("http://example")) >= {"OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "OLLAMA_HOST"}


@pytest.mark.real
@pytest.mark.parametrize("block", EXAMPLES, ids=Block.name)
def test_the_examples_run(block: Block, server: Server, request: Any) -> None:
    if not STARTER_MODEL.exists():
        pytest.skip("the starter model is not there: make model")
    if block.language == "js":
        command = [request.getfixturevalue("node"), "--input-type=module", "--eval"]
    else:
        for name in re.findall(r"^(?:from|import) (\w+)", block.code, re.MULTILINE):
            pytest.importorskip(name)
        command = [sys.executable, "-c"]
    done = run([*command, block.at(server.url)], **environment(server.url))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()
