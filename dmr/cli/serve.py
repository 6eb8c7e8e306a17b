"""`dmr serve`: settings from flags, then this process becomes the server."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import click

from dmr.cli.values import duration_option
from dmr.config import Settings, read_settings
from dmr.errors import InvalidRequest

_DEFAULTS = Settings()
# Keys are parameters of the command; the variables are those of dmr/config.py.
_VARIABLES = {
    "host": "DMR_HOST",
    "port": "MODEL_RUNNER_PORT",
    "models_path": "MODELS_PATH",
    "context_size": "DMR_CONTEXT_SIZE",
    "threads": "DMR_THREADS",
    "workers": "DMR_WORKERS",
    "keep_alive": "DMR_KEEP_ALIVE",
    "log_level": "LOG_LEVEL",
}
_EPILOG = f"""\
A flag goes before its environment variable: {", ".join(_VARIABLES.values())}.

\b
Examples:
  dmr serve
  dmr serve --port 8080 --keep-alive 1h
  dmr serve --host 0.0.0.0 --context-size 8192
"""


@click.command("serve", short_help="Start the server.", epilog=_EPILOG)
@click.option("--host", metavar="ADDRESS", help=f"Listen here; 0.0.0.0 is every interface. Default: {_DEFAULTS.host}.")
@click.option("--port", type=click.IntRange(1, 65535), help=f"Listen on this TCP port. Default: {_DEFAULTS.port}.")
@click.option(
    "--models-path",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"The folder of the model store. Default: {_DEFAULTS.models_path}.",
)
@click.option(
    "--context-size",
    type=click.IntRange(min=0),
    help="Tokens that a model's context holds. Default: 0, the model's own.",
)
@click.option(
    "--threads", type=click.IntRange(min=0), help="CPU threads of each model. Default: 0, as many as there are cores."
)
@click.option(
    "--workers", type=click.IntRange(min=1), help=f"Processes that answer HTTP. Default: {_DEFAULTS.num_workers}."
)
@click.option(
    "--keep-alive",
    metavar="DURATION",
    callback=duration_option,
    help="How long an unused model stays loaded: 90s, 5m, 1h30m; 0 unloads at once, -1 never. "
    f"Default: {_DEFAULTS.keep_alive / 60:.0f}m.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    help=f"Say no less than this. Default: {_DEFAULTS.log_level}.",
)
def serve_command(**flags: Any) -> None:
    """Start the server in the foreground; Ctrl-C stops it.

    One port answers all APIs. Models are loaded when they are first asked for, and unloaded when they are not used.
    """
    for name, value in flags.items():
        if value is not None:
            os.environ[_VARIABLES[name]] = str(value)
    read_settings()  # a bad variable is better told here than by a dying worker
    if importlib.util.find_spec("dmr_server") is None:
        raise InvalidRequest("The server is not installed: the package dmr_server is missing.")
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", "python:dmr_server.gunicorn_conf", "dmr_server.wsgi:app"]
    os.execv(sys.executable, gunicorn)
