"""Row 51: what lasts is measured by a clock that does not jump; only what people see is told by the other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Where the time of the day is asked for, and why that is right.
WALL_CLOCK = {
    "dmr/cli/keys.py": "the day on which a key ends",
    "dmr/cli/models.py": "how old a model is, by the date that it has",
    "dmr/manager/loaded_model.py": "when a model was loaded and used last, for people",
    "dmr/store/disk.py": "ages of files, by the file system's clock",
    "dmr/store/housekeeping.py": "ages of files",
    "dmr/store/hugging_face/converted.py": "ages of files",
    "dmr/store/importer.py": "the date of a model",
    "dmr/store/packaging.py": "the date of a model",
    "dmr/store/uploads.py": "ages of files",
    "server/dmr_server/recording/journal.py": "dates of records, which several processes compare",
}


def calls_of_the_wall_clock() -> Iterator[str]:
    for path in sorted([*ROOT.glob("dmr/**/*.py"), *ROOT.glob("server/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_call and ast.unparse(node.func) == "time.time":  # type: ignore[attr-defined]
                yield str(path.relative_to(ROOT))


def test_durations_are_measured_by_the_monotonic_clock() -> None:
    assert set(calls_of_the_wall_clock()) <= set(WALL_CLOCK), "time.monotonic, or a reason in the list above"
