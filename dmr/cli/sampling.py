"""The sampling options of `dmr run`, and of `/set` in the chat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])

# Names are those of the request's fields. What is not given is left to the server.
SAMPLING: dict[str, tuple[click.ParamType[Any, Any], str]] = {
    "temperature": (click.FloatRange(min=0), "Randomness: 0 takes the likeliest token each time."),
    "top_p": (click.FloatRange(min=0, max=1), "Choose among the likeliest tokens that have this probability together."),
    "max_tokens": (click.IntRange(min=1), "Stop after so many tokens."),
    "seed": (click.INT, "Make the random choices repeatable."),
}


def sampling_options(command: C) -> C:
    """Add one option per entry of `SAMPLING`; each is None unless given."""
    for name, (kind, text) in reversed(SAMPLING.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, type=kind, help=text)(command)
    return command
