"""Bars for bytes on their way, on stderr: with speed and time left on a terminal, absent elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ByteBars:
    """One bar per name. A context manager: the bars live inside its block."""

    def __init__(self) -> None:
        self.is_shown = sys.stderr.isatty()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ByteBars:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    def update(self, name: str, done: int, total: int | None) -> None:
        """`done` of `total` bytes (None: nobody knows).

        What a name begins with does not count for its speed: it was there before.
        """
        if not self.is_shown:
            return
        if self._bars is None:  # not before there is one: without any it would be an empty line
            self._bars = _make_bars()
            self._bars.start()
        if name not in self._tasks:
            from rich.markup import escape

            self._tasks[name] = self._bars.add_task(escape(name), total=total, completed=done)
        else:
            self._bars.update(self._tasks[name], completed=done, total=total)

    def say(self, text: str) -> None:
        """A line above the bars, or on stderr."""
        if self._bars is None:
            click.echo(text, err=True)
        else:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _make_bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
