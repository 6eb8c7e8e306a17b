"""docs/reliability.md has a row for each fault, and each row names tests that are there, or says why there is none."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
NUM_FAULTS = 51


def rows() -> dict[int, str]:
    """By number: the last cell."""
    found = re.findall(r"^\| (\d+) \| [^|]+ \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == len(dict(found)), "a number is there twice"
    return {int(number): cell for number, cell in found}


@cache
def names_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def named_tests(cell: str) -> list[str]:
    return re.findall(r"`([\w/]+\.py::\w+)`", cell)


def test_every_fault_has_its_row() -> None:
    assert sorted(rows()) == list(range(1, NUM_FAULTS + 1))


def test_every_row_names_tests_that_are_there_or_a_reason() -> None:
    missing = []
    for number, cell in rows().items():
        named = named_tests(cell)
        assert named or re.search(r"no test: \w+ \w+ \w+", cell), f"row {number} says nothing"
        for name in named:
            path, test = name.split("::")
            if not (TESTS / path).exists() or test not in names_in(TESTS / path):
                missing.append(f"row {number}: {name}")
    assert not missing


def test_the_promises_name_files_that_are_there() -> None:
    named = re.findall(r"`tests/([\w/]+\.py)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) >= 8
    assert not [name for name in named if not (TESTS / name).exists()]
