"""`dmr serve`: settings from flags, then this process becomes the server."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import click

from dmr import thread_caches
from dmr.cli.server_options import VARIABLES, as_variables, server_options
from dmr.config import read_settings
from dmr.errors import InvalidRequest

_EPILOG = f"""\
A flag goes before its environment variable, and that before the settings file: {", ".join(VARIABLES.values())}.
'dmr config' prints what comes of them.

\b
Examples:
  dmr serve
  dmr serve --port 8080 --keep-alive 1h
  dmr serve --host 0.0.0.0 --context-size 8192
"""


@click.command("serve", short_help="Start the server.", epilog=_EPILOG)
@server_options
def serve_command(**flags: Any) -> None:
    """Start the server in the foreground; Ctrl-C stops it.

    One port answers all APIs. Models are loaded when they are first asked for, and unloaded when they are not used.
    """
    os.environ.update(as_variables(flags))
    read_settings()  # a bad variable is better told here than by a dying worker
    if importlib.util.find_spec("dmr_server") is None:
        raise InvalidRequest("The server is not installed: the package dmr_server is missing.")
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", "python:dmr_server.gunicorn_conf", "dmr_server.wsgi:app"]
    thread_caches.leave_out(os.environ)
    os.execv(sys.executable, gunicorn)
