"""The code blocks of a page, to be run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:12434"  # of every example


class Block(NamedTuple):
    language: str
    line: int
    heading: str  # of the section that it is in
    code: str

    def at(self, url: str) -> str:
        """The code, asking the server at `url`."""
        return self.code.replace(ADDRESS, url)

    def name(self) -> str:
        return f"{self.language}-line{self.line}"


def blocks(page: str) -> list[Block]:
    """All of a page, whose path is relative to the repository's root."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        before = text[: match.start()]
        headings: list[str] = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", before, flags=re.M | re.S), re.M)
        found.append(Block(match[1], before.count("\n") + 1, headings[-1] if headings else "", match[2]))
    return found
