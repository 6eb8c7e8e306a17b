"""Shows an answer while it arrives. A pipe gets the answer's exact text and nothing else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from dmr.cli.values import printable

if TYPE_CHECKING:
    from rich.status import Status

    from dmr.cli.markdown import MarkdownStream


class Silence:
    """Shows nothing: for an answer that is printed when it is whole."""

    def begin(self) -> None:
        pass

    def reasoning(self, text: str) -> None:
        pass

    def content(self, text: str) -> None:
        pass

    def end(self) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Display(Silence):
    """Writes to stdout. On a terminal it also shows the reasoning, renders Markdown, and drops control characters.

    `color` is "auto" (on a terminal), "yes" or "no", and decides whether Markdown is rendered and reasoning is dim.
    """

    def __init__(self, color: str) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._color = color == "yes" or (color == "auto" and self.is_terminal and not os.environ.get("NO_COLOR"))
        self._can_redraw = self.is_terminal and os.environ.get("TERM", "dumb") not in ("", "dumb")
        self._renders = color == "yes" or (self._color and self._can_redraw)
        self._is_reasoning = False
        self._at_line_start = True
        self._markdown: MarkdownStream | None = None
        self._waiting: Status | None = None

    def begin(self) -> None:
        """Show that something is coming, until something comes."""
        if self._color and self._can_redraw:
            from rich.console import Console
            from rich.status import Status

            self._waiting = Status("", console=Console(stderr=True))
            self._waiting.start()

    def reasoning(self, text: str) -> None:
        self._stop_waiting()
        if not self.is_terminal:
            return
        if not self._is_reasoning:
            self._is_reasoning = True
            self._write("Thinking:\n", dim=True)
        self._write(text, dim=True)

    def content(self, text: str) -> None:
        self._stop_waiting()
        if self._is_reasoning:
            self.end()
            self._write("--\n", dim=True)
        if self._renders:
            self._render(text)
        else:
            self._write(text)

    def end(self) -> None:
        """End the line, if one is open."""
        self._stop_waiting()
        self._is_reasoning = False
        if self._markdown is not None:
            self._markdown.end()
            self._markdown = None
        if not self._at_line_start:
            self._write("\n")

    def note(self, text: str) -> None:
        """A remark that is not part of the answer: on stderr, dim, and only for somebody who sees the answer."""
        if self.is_terminal:
            click.echo(click.style(text, dim=True) if self._color else text, err=True, color=self._color)

    def _render(self, text: str) -> None:
        if self._markdown is None:
            from rich.console import Console

            from dmr.cli.markdown import MarkdownStream

            console = Console(force_terminal=True, highlight=False)
            self._markdown = MarkdownStream(console, is_live=self._can_redraw)
        self._markdown.feed(printable(text))

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None

    def _write(self, text: str, dim: bool = False) -> None:
        if self.is_terminal:
            text = printable(text)
        if not text:
            return
        self._at_line_start = text.endswith("\n")
        styled = click.style(text, dim=True) if dim and self._color else text
        click.echo(styled, nl=False, color=self._color or not self.is_terminal)
