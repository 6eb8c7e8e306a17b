"""No test reads the settings file of whoever runs it."""

from __future__ import annotations

import os

os.environ["DMR_CONFIG"] = os.devnull
