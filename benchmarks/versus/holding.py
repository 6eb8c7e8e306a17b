"""What processes hold: memory and open files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Held(NamedTuple):
    """Of one or several processes. MB are 10^6 bytes."""

    rss: float
    anon: float  # of it, what is no page of a file
    num_files: int


def held_by(pids: Iterable[int]) -> Held:
    rss = anon = num_files = 0
    for pid in pids:
        try:
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            rss += int(fields["VmRSS"].split()[0])
            anon += int(fields["RssAnon"].split()[0])
            num_files += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        except (OSError, KeyError):  # it has ended meanwhile
            continue
    return Held(rss * 1024 / 1e6, anon * 1024 / 1e6, num_files)
