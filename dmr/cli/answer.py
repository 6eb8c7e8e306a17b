"""One answer of the model: request it, show it as it comes, keep what came."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from dmr.cli.display import Display

if TYPE_CHECKING:
    from dmr.cli.replies import Chunk, ChunkUsage
    from dmr.cli.server_api import ServerApi


class Answer:
    """What has come so far. Times are of `time.monotonic`, seen from here."""

    def __init__(self) -> None:
        self.text = ""
        self.finish_reason: str | None = None
        self.usage: ChunkUsage | None = None
        self.asked_at = time.monotonic()
        self.first_at: float | None = None
        self.last_at = self.asked_at

    def stream(self, server: ServerApi, request: Mapping[str, Any], display: Display) -> None:
        """Fill this answer, showing it meanwhile. What came before an error or Ctrl-C stays, on the screen and here."""
        try:
            with server.chat(request) as chunks:
                for chunk in chunks:
                    self._take(chunk, display)
        finally:
            display.end()

    def _take(self, chunk: Chunk, display: Display) -> None:
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices[:1]:
            self.finish_reason = choice.finish_reason or self.finish_reason
            reasoning, content = choice.delta.reasoning_content, choice.delta.content
            if reasoning or content:
                self.last_at = time.monotonic()
                self.first_at = self.first_at or self.last_at
            if reasoning:
                display.reasoning(reasoning)
            if content:
                self.text += content
                display.content(content)

    def report(self, *, verbose: bool) -> None:
        """Say on stderr what the reader of the text cannot see."""
        if self.finish_reason == "length":
            click.echo("Note: the answer stops here because it reached the limit of tokens.", err=True)
        if verbose:
            click.echo(self._statistics(), err=True)

    def _statistics(self) -> str:
        lines = []
        if self.usage is not None:
            details = self.usage.prompt_tokens_details
            cached = f" ({details.cached_tokens} cached)" if details and details.cached_tokens else ""
            lines.append(f"prompt tokens:        {self.usage.prompt_tokens}{cached}")
            lines.append(f"completion tokens:    {self.usage.completion_tokens}")
        if self.first_at is not None:
            lines.append(f"time to first token:  {self.first_at - self.asked_at:.2f} s")
            seconds = self.last_at - self.first_at
            if self.usage is not None and self.usage.completion_tokens > 1 and seconds > 0:
                lines.append(f"speed:                {(self.usage.completion_tokens - 1) / seconds:.1f} tokens/s")
        lines.append(f"total time:           {time.monotonic() - self.asked_at:.2f} s")
        return "\n".join(lines)
