"""Ten minutes of what `make soak` does for an hour."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.conftest import add_tiny_models, free_port

from soak.server import SoakedServer
from soak.soak import SETTINGS, Report, Soak

MODELS = ["test/tiny-script", "test/tiny-random"]


def soak(folder: Path, tiny_folder: Path, seconds: float, kill_interval: float) -> Report:
    add_tiny_models(folder / "models", tiny_folder)
    server = SoakedServer(folder / "models", folder, free_port(), **SETTINGS)
    try:
        report = Soak(server, MODELS, 16, kill_interval, seed=7).run(seconds)
    finally:
        status, left = server.stop()
    print("\n".join(report.lines()))
    assert (status, left) == (0, [])
    return report


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_minutes_of_mixed_load_and_kills_lose_no_request(tmp_path: Path, tiny_folder: Path) -> None:
    report = soak(tmp_path, tiny_folder, 600, kill_interval=5)
    assert not report.problems
    assert sum(ends.get("answered", 0) for ends in report.ends.values()) > 1000
    assert sum(report.kills.values()) >= 30


def test_seconds_of_mixed_load_without_kills_are_all_answered(tmp_path: Path, tiny_folder: Path) -> None:
    report = soak(tmp_path, tiny_folder, 4, kill_interval=0)
    assert not report.problems
    assert {end for ends in report.ends.values() for end in ends} <= {"answered", "refused", "left"}, report.errors
