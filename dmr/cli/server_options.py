"""The settings of the server that have flags: `dmr serve` takes them, and `dmr config` tells what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from dmr.cli.values import duration_option
from dmr.config import Settings

C = TypeVar("C", bound=Callable[..., Any])

_DEFAULTS = Settings()
# Keys are parameters of the command; the variables are those of dmr/config/variables.py.
VARIABLES: Mapping[str, str] = {
    "config": "DMR_CONFIG",
    "host": "DMR_HOST",
    "port": "MODEL_RUNNER_PORT",
    "socket": "MODEL_RUNNER_SOCK",
    "keys": "DMR_KEYS",
    "models_path": "MODELS_PATH",
    "context_size": "DMR_CONTEXT_SIZE",
    "threads": "DMR_THREADS",
    "workers": "DMR_WORKERS",
    "keep_alive": "DMR_KEEP_ALIVE",
    "log_level": "LOG_LEVEL",
}

_OPTIONS = (
    click.option(
        "--config",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Read the settings of this file. Default: dmr/config.toml in your folder of settings, if it is there.",
    ),
    click.option(
        "--host", metavar="ADDRESS", help=f"Listen here; 0.0.0.0 is every interface. Default: {_DEFAULTS.host}."
    ),
    click.option("--port", type=click.IntRange(1, 65535), help=f"Listen on this TCP port. Default: {_DEFAULTS.port}."),
    click.option(
        "--socket",
        metavar="PATH",
        type=click.Path(dir_okay=False, resolve_path=True, path_type=Path),
        help="Listen on this Unix socket as well.",
    ),
    click.option(
        "--keys",
        metavar="FILE",
        type=click.Path(dir_okay=False, resolve_path=True, path_type=Path),
        help="Ask for keys, those of this file ('dmr keys').",
    ),
    click.option(
        "--models-path",
        type=click.Path(file_okay=False, path_type=Path),
        help=f"The folder of the model store. Default: {_DEFAULTS.models_path}.",
    ),
    click.option(
        "--context-size",
        type=click.IntRange(min=0),
        help="Tokens that a model's context holds. Default: 0, the model's own.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=0),
        help="CPU threads of each model. Default: 0, as many as there are cores.",
    ),
    click.option(
        "--workers", type=click.IntRange(min=1), help=f"Processes that answer HTTP. Default: {_DEFAULTS.num_workers}."
    ),
    click.option(
        "--keep-alive",
        metavar="DURATION",
        callback=duration_option,
        help="How long an unused model stays loaded: 90s, 5m, 1h30m; 0 unloads at once, -1 never. "
        f"Default: {_DEFAULTS.keep_alive / 60:.0f}m.",
    ),
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        help=f"Say no less than this. Default: {_DEFAULTS.log_level}.",
    ),
)


def server_options(command: C) -> C:
    """All of them, as parameters that are None unless they are given."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def as_variables(flags: Mapping[str, Any]) -> dict[str, str]:
    """The variables that say the same."""
    return {VARIABLES[name]: str(value) for name, value in flags.items() if value is not None}
