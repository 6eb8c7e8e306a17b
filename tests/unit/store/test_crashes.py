"""A process that dies between any two steps of any change leaves a store that is as before or as after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("crash_script.py")
OPERATIONS = (
    "import",
    "import_moving",
    "import_again",
    "tag",
    "untag",
    "remove",
    "remove_by_id",
    "adopt",
    "load",
    "package",
    "repackage",
    "convert",
    "create",
    "collect",
    "purge",
)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_crash_at_any_step(operation: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), operation, str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SCRIPT.parents[2], SCRIPT.parents[3])))}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["problems"] == []
    assert told["steps"] >= 3
    assert told["changes"] or operation == "collect"
