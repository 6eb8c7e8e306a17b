"""What a check has found."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["ok", "warning", "failure"]


class Finding(NamedTuple):
    """`advice` is what to do, and empty where nothing is to be done."""

    check: str  # "memory", "port", …
    level: Level
    message: str
    advice: str = ""


def ok(check: str, message: str) -> Finding:
    return Finding(check, "ok", message)


def warning(check: str, message: str, advice: str) -> Finding:
    return Finding(check, "warning", message, advice)


def failure(check: str, message: str, advice: str) -> Finding:
    return Finding(check, "failure", message, advice)
