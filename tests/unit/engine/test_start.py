from __future__ import annotations

import subprocess
import sys


def test_an_engine_starts_without_what_few_engines_need() -> None:
    """numpy takes a third of the start, which whoever waits for a model waits for too."""
    code = "import sys, dmr.engine.worker; print(*{'numpy', 'PIL'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
