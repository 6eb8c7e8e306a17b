"""Many threads may use a type for the first time at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SERVER = Path(__file__).parents[2] / "server"
# Threads change so often that one is sure to meet another in the middle.
PROGRAM = """
import sys, threading
from pathlib import Path
from dmr.config import Settings
from dmr_server.app import create_app
from dmr_server.generation import Stamp
from dmr_server.openai.chat import read_chat
from dmr_server.anthropic.message import read_message

create_app(None, Settings(models_path=Path(sys.argv[1])))
body = {
    "model": "m",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
}
sys.setswitchinterval(1e-6)
ready = threading.Barrier(32)

def read():
    ready.wait()
    read_chat(body, Stamp("x", 1))
    read_message({**body, "tools": []}, Stamp("x", 1))

threads = [threading.Thread(target=read) for _ in range(32)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("alive")
"""


@pytest.mark.parametrize("attempt", range(6))
def test_a_process_survives_its_first_requests_at_once(tmp_path: Path, attempt: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(SERVER)!r})\n{PROGRAM}", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "alive\n", "")
