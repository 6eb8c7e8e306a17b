"""Runs calls of a client in its own environment: each function's value, or its error, goes to standard output as JSON.

Needs nothing but that client: the environment has neither dmr nor pytest.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

Call = Callable[[str], Any]


def main(calls: list[Call]) -> None:
    """`sys.argv` holds the server's URL and the names of the calls that are wanted."""
    url, *names = sys.argv[1:]
    replies: dict[str, dict[str, Any]] = {}
    for call in calls:
        if call.__name__ in names:
            try:
                replies[call.__name__] = {"value": call(url)}
            except Exception:
                replies[call.__name__] = {"error": traceback.format_exc()}
    json.dump(replies, sys.stdout)
