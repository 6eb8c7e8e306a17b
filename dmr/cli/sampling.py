"""The options of `dmr run` for how an answer is made, and of `/set` in the chat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])

# Names are those of the request's fields. What is not given is left to the server.
SAMPLING: dict[str, tuple[click.ParamType[Any, Any], str]] = {
    "temperature": (click.FloatRange(min=0), "Randomness: 0 takes the likeliest token each time."),
    "top_p": (click.FloatRange(min=0, max=1), "Choose among the likeliest tokens that have this probability together."),
    "top_k": (click.IntRange(min=-1), "Choose among so many of the likeliest tokens."),
    "min_p": (click.FloatRange(min=0, max=1), "Leave out tokens less likely than this part of the likeliest one's."),
    "repeat_penalty": (click.FloatRange(min=0, min_open=True), "Above 1: repeat less."),
    "max_tokens": (click.IntRange(min=1), "Stop after so many tokens."),
    "seed": (click.INT, "Make the random choices repeatable."),
}
THINKING = ("on", "off", "low", "medium", "high")


def sampling_options(command: C) -> C:
    """Add one option per entry of `SAMPLING`, and `--think`; each is None unless given."""
    text = "Whether, or how much, a model thinks that can do so. Default: as the model likes."
    command = click.option("--think", type=click.Choice(THINKING), help=text)(command)
    for name, (kind, text) in reversed(SAMPLING.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, type=kind, help=text)(command)
    return command


def to_fields(settings: dict[str, Any]) -> dict[str, Any]:
    """Fields of a request, out of parameters of the command or settings of the chat."""
    fields = {name: settings[name] for name in SAMPLING if settings.get(name) is not None}
    think = settings.get("think")
    if think in ("on", "off"):
        fields["enable_thinking"] = think == "on"
    elif think is not None:
        fields["reasoning_effort"] = think
    return fields
