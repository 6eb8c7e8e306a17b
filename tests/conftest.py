"""No test depends on who runs it: not on that one's settings file, nor on a shell that ignores Ctrl-C for its jobs."""

from __future__ import annotations

import os
import signal

os.environ["DMR_CONFIG"] = os.devnull
signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here would be in every process of the tests
