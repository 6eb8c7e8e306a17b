"""dmr's own gunicorn configuration over the fakes."""

import sys
from pathlib import Path

from dmr_server import manager_process

manager_process.COMMAND = (sys.executable, str(Path(__file__).with_name("fake_manager.py")))

from dmr_server.gunicorn_conf import *  # noqa: E402, F403

wsgi_app = "live_app:app"
