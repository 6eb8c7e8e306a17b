"""Markdown on a terminal while it arrives: finished blocks are printed for good, the open one is drawn again and again.

Text that is no Markdown loses nothing: line breaks stay, and what looks like HTML is text.
"""

from __future__ import annotations

from collections.abc import Iterator

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment, Segments

_REDRAWS_PER_SECOND = 12


class MarkdownStream:
    """Renders to `console`; `end` must be called. Without `is_live` only finished blocks appear."""

    def __init__(self, console: Console, *, is_live: bool) -> None:
        self._console = console
        self._open = ""
        self._has_printed = False
        self._live: Live | None = None
        if is_live:
            self._live = Live(
                console=console, transient=True, refresh_per_second=_REDRAWS_PER_SECOND, redirect_stdout=False
            )
            self._live.start()

    def feed(self, text: str) -> None:
        """More of the answer."""
        self._open += text
        if "\n" in text:
            *finished, self._open = blocks_of(self._open)
            for block in finished:
                self._print(block)
        if self._live is not None:
            self._live.update(_Tail(self._open, self._has_printed))

    def end(self) -> None:
        """Print what is still open."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        for block in blocks_of(self._open):
            self._print(block)
        self._open = ""

    def _print(self, block: str) -> None:
        lines = _lines_of(block, self._console, self._console.options)
        if not lines:
            return
        if self._has_printed:
            self._console.print()
        self._has_printed = True
        self._console.print(Segments(_join(lines)))


def blocks_of(text: str) -> list[str]:
    """The top-level blocks of a text, at least one: only the last can still become something else."""
    tokens = (token for token in _parser().parse(text) if token.level == 0 and token.map and token.nesting >= 0)
    starts = [token.map[0] for token in tokens if token.map]
    lines = text.split("\n")
    ends = [*starts[1:], len(lines)]
    blocks = ["\n".join(lines[start:end]) + "\n" for start, end in zip(starts[:-1], ends, strict=False)]
    return [*blocks, "\n".join(lines[starts[-1] :]) if blocks else text]


class _Tail:
    """As much of the open block's end as the screen holds."""

    def __init__(self, text: str, is_after_another: bool) -> None:
        self._text = text
        self._is_after_another = is_after_another

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = _lines_of(self._text, console, options)
        if lines and self._is_after_another:
            lines.insert(0, [])
        yield from _join(lines[-max(1, console.height - 2) :])


def _lines_of(text: str, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
    """The lines of one block, without empty ones around it."""
    lines = console.render_lines(_markdown(text), options.update(height=None), pad=False)
    while lines and not _has_text(lines[0]):
        del lines[0]
    while lines and not _has_text(lines[-1]):
        del lines[-1]
    return lines


def _has_text(line: list[Segment]) -> bool:
    return any(segment.text.strip() for segment in line)


def _join(lines: list[list[Segment]]) -> Iterator[Segment]:
    for line in lines:
        yield from line
        yield Segment.line()


def _markdown(text: str) -> Markdown:
    rendered = Markdown("", hyperlinks=False)  # an address that cannot be seen could be any
    rendered.parsed = _parser().parse(text)
    for token in rendered.parsed:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    return rendered


def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")
