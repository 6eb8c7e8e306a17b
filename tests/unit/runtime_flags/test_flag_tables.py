"""The tables of the manual are made of the flags."""

from __future__ import annotations

import runpy
from pathlib import Path

from dmr.runtime_flags import FLAGS

ROOT = Path(__file__).parents[3]


def test_the_tables_of_the_manual_are_fresh() -> None:
    page = (ROOT / "docs" / "model-configuration.md").read_text(encoding="utf-8")
    made = runpy.run_path(str(ROOT / "docs" / "generate_flags.py"))["render"](page)
    assert page == made, "run: python docs/generate_flags.py"
    assert all(f"`{name}`" in page for name in FLAGS)
