"""Calls that a careless or hostile caller could make, each with what may come of it; run in one process of their own.

`python -m native.hostile_cases FOLDER` prints a line before and after each case: "> name", then "= name" if it went as
it should, or "! name: what came of it".
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from native import hostile_chats, hostile_grammars, hostile_memory, hostile_sampling
from native.hostile_bench import Bench, Case

MEMORY_LIMIT = 12 << 30  # bytes of address space: what asks for all memory must not take the machine with it

WITHOUT_MEMORY = ("template: endless indent",)  # refused by a bad_alloc, which ends a process with a sanitizer


def all_cases(bench: Bench) -> Iterator[Case]:
    for room in (hostile_memory, hostile_sampling, hostile_grammars, hostile_chats):
        for group in room.GROUPS:
            yield from group(bench)


def verdict(case: Case) -> str:
    """Empty = as it should be."""
    try:
        value = case.call()
    except case.must_raise as error:
        return "" if str(error) else "the error says nothing"
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"[:300].replace("\n", " ")
    return "" if case.may_pass else f"gave {value!r}"[:300].replace("\n", " ")


def main(folder: Path) -> None:
    is_sanitized = "DMR_CORE" in os.environ
    if not is_sanitized:  # a sanitizer takes address space without end for itself
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    for case in all_cases(Bench(folder)):
        if is_sanitized and case.name in WITHOUT_MEMORY:
            continue
        print(f"> {case.name}", flush=True)
        said = verdict(case)
        print(f"! {case.name}: {said}" if said else f"= {case.name}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
