"""The app for gunicorn: `gunicorn -c python:dmr_server.gunicorn_conf dmr_server.wsgi:app`."""

from __future__ import annotations

import logging

from dmr.config import read_settings
from dmr.log_file import SERVICE_LOG, add_log_file
from dmr.service import Service
from dmr_server.app import App, create_app


def get_app() -> App:
    """Read the settings, connect to the manager that they name, and serve it."""
    settings = read_settings()
    level = logging.getLevelName(settings.log_level.upper())
    logging.basicConfig(level=level if isinstance(level, int) else logging.INFO)
    if settings.log_dir is not None:
        add_log_file(logging.getLogger(), settings.log_dir / SERVICE_LOG)
    return create_app(Service.connect(settings), settings)


app = get_app()
