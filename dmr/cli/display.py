"""Shows an answer while it arrives. A pipe gets the answer's exact text and nothing else."""

from __future__ import annotations

import sys

import click

from dmr.cli.values import printable


class Display:
    """Writes to stdout. On a terminal it also shows the reasoning, and drops control characters.

    `color` is "auto", "yes" or "no", and decides whether reasoning is dim.
    """

    def __init__(self, color: str) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._color = self.is_terminal if color == "auto" else color == "yes"
        self._is_reasoning = False
        self._at_line_start = True

    def reasoning(self, text: str) -> None:
        if not self.is_terminal:
            return
        if not self._is_reasoning:
            self._is_reasoning = True
            self._write("Thinking:\n", dim=True)
        self._write(text, dim=True)

    def content(self, text: str) -> None:
        if self._is_reasoning:
            self.end()
            self._write("--\n", dim=True)
        self._write(text)

    def end(self) -> None:
        """End the line, if one is open."""
        self._is_reasoning = False
        if not self._at_line_start:
            self._write("\n")

    def _write(self, text: str, dim: bool = False) -> None:
        if self.is_terminal:
            text = printable(text)
        if not text:
            return
        self._at_line_start = text.endswith("\n")
        styled = click.style(text, dim=True) if dim and self._color else text
        click.echo(styled, nl=False, color=self._color or not self.is_terminal)
