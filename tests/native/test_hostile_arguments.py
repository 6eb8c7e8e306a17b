"""Nothing that a caller can pass kills or hangs the process, and every refusal has a reason. See `hostile_cases`."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-X", "faulthandler", "-m", "native.hostile_cases"]
SILENCE = 20.0  # seconds that one case may take


def read_lines(child: subprocess.Popen[bytes]) -> tuple[list[str], bool]:
    """All lines of the child, and whether it was still alive after `SILENCE` seconds without one."""
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    data, last = b"", time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            chunk = child.stdout.read() if selector.select(1.0) else None
            if chunk == b"":
                return data.decode().splitlines(), False
            if chunk:
                data, last = data + chunk, time.monotonic()
            elif time.monotonic() - last > SILENCE:
                return data.decode().splitlines(), True


def test_every_hostile_call_is_refused_or_survived(models_folder: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1", "PYTHONPATH": path}
    with (tmp_path / "stderr").open("w+") as stderr:
        with subprocess.Popen(
            [*COMMAND, str(models_folder)], stdout=subprocess.PIPE, stderr=stderr, env=environment
        ) as child:
            try:
                lines, hung = read_lines(child)
            finally:
                child.kill()
        stderr.seek(0)
        reason = stderr.read()[-1500:]
    last = lines[-1] if lines else "(nothing)"
    assert not hung, f"the process hung at {last}"
    assert child.returncode == 0, f"the process died ({child.returncode}) at {last}\n{reason}"
    wrong = [line[2:] for line in lines if line.startswith("! ")]
    assert wrong == []
    begun = [line[2:] for line in lines if line.startswith("> ")]
    assert len(begun) == len(set(begun)) > 700


@pytest.mark.parametrize("code", ["import os; os.abort()", "import time; print('> slow', flush=True); time.sleep(99)"])
def test_dead_and_hanging_children_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    monkeypatch.setattr(sys.modules[__name__], "COMMAND", [sys.executable, "-c", code])
    monkeypatch.setattr(sys.modules[__name__], "SILENCE", 1.0)
    with pytest.raises(AssertionError, match="died" if "abort" in code else "hung at > slow"):
        test_every_hostile_call_is_refused_or_survived(tmp_path, tmp_path)
