"""What `--json` prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])


def json_option(command: C) -> C:
    """`--json`, as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")(command)


def print_json(value: Any) -> None:
    """Indented by four, as upstream does."""
    click.echo(json.dumps(value, indent=4, ensure_ascii=False))
