"""One answer of the model: request it, show it as it comes, keep what came."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from dmr.cli.display import Silence

if TYPE_CHECKING:
    from dmr.cli.replies import Chunk, ChunkUsage
    from dmr.cli.server_api import ServerApi


class Answer:
    """What has come so far. Times are of `time.monotonic`, seen from here."""

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self.finish_reason: str | None = None
        self.usage: ChunkUsage | None = None
        self.asked_at = time.monotonic()
        self.first_at: float | None = None
        self.last_at = self.asked_at

    def stream(self, server: ServerApi, request: Mapping[str, Any], display: Silence) -> None:
        """Fill this answer, showing it meanwhile. What came before an error or Ctrl-C stays, on the screen and here."""
        display.begin()
        try:
            with server.chat(request) as chunks:
                for chunk in chunks:
                    self._take(chunk, display)
        finally:
            display.end()

    def _take(self, chunk: Chunk, display: Silence) -> None:
        self.usage = chunk.usage or self.usage
        for choice in chunk.choices[:1]:
            self.finish_reason = choice.finish_reason or self.finish_reason
            reasoning, content = choice.delta.reasoning_content, choice.delta.content
            if reasoning or content:
                self.last_at = time.monotonic()
                self.first_at = self.first_at or self.last_at
            if reasoning:
                self.reasoning += reasoning
                display.reasoning(reasoning)
            if content:
                self.text += content
                display.content(content)

    def report(self, display: Silence, *, verbose: bool) -> None:
        """Say on stderr what the reader of the text cannot see."""
        if self.finish_reason == "length":
            click.echo("Note: the answer stops here because it reached the limit of tokens.", err=True)
        if verbose:
            click.echo(self._statistics(), err=True)
        elif self.usage is not None:
            asked, answered = self.usage.prompt_tokens, self.usage.completion_tokens
            display.note(f"Token usage: {asked} prompt + {answered} completion = {asked + answered} total")

    def as_json(self) -> dict[str, Any]:
        """The answer as one object; what did not come is left out."""
        fields = {"reasoning": self.reasoning, "finish_reason": self.finish_reason, "usage": self._usage()}
        return {"content": self.text, **{name: value for name, value in fields.items() if value}}

    def _usage(self) -> dict[str, int] | None:
        if self.usage is None:
            return None
        asked, answered = self.usage.prompt_tokens, self.usage.completion_tokens
        return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}

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
