"""dmr's own gunicorn configuration over the fakes."""

import os
import sys
from pathlib import Path

from dmr_server import certificates, manager_process, thread_worker

manager_process.COMMAND = (sys.executable, str(Path(__file__).with_name("fake_manager.py")))
thread_worker.MAX_WAIT = float(os.environ.get("MAX_WAIT", "10"))
certificates.LOOK_INTERVAL = float(os.environ.get("LOOK_INTERVAL", "10"))
thread_worker.MAX_HEAD = float(os.environ.get("MAX_HEAD", "20"))

from dmr_server.gunicorn_conf import *  # noqa: E402, F403

wsgi_app = "live_app:app"
