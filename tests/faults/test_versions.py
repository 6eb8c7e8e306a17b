"""Files that outlive the server: what an older version wrote is read, what a newer one wrote is refused in words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.conftest import Server, add_tiny_models

from dmr.errors import StoreError
from dmr.store.configurations import ConfigurationFile
from dmr.store.store import ModelStore

Start = Callable[..., Server]


@pytest.fixture
def models_path(tmp_path: Path, tiny_folder: Path) -> Path:
    add_tiny_models(tmp_path / "models", tiny_folder)
    return tmp_path / "models"


def start_failing(models_path: Path, tmp_path: Path) -> str:
    """What a server says that cannot start over this store."""
    started = subprocess.run(
        [sys.executable, "-m", "dmr.manager"],
        env={"MODELS_PATH": str(models_path), "DMR_RUNTIME_DIR": str(tmp_path / "run"), "DMR_CONFIG": "/dev/null"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode != 0
    return started.stderr


def test_a_store_of_a_newer_layout_is_refused_in_words(models_path: Path, tmp_path: Path) -> None:
    (models_path / "layout.json").write_text('{"version": "2.0.0"}')
    with pytest.raises(StoreError, match=r"2\.0\.0.*reads up to"):
        ModelStore(models_path).models()
    assert "2.0.0" in start_failing(models_path, tmp_path)
    assert json.loads((models_path / "layout.json").read_text()) == {"version": "2.0.0"}


def test_configurations_of_a_newer_dmr_are_refused_in_words_and_kept(models_path: Path, tmp_path: Path) -> None:
    path = ConfigurationFile(models_path).path
    path.parent.mkdir()
    path.write_text('{"version": 99, "models": {"what": "comes"}}')
    with pytest.raises(StoreError, match="newer dmr"):
        ConfigurationFile(models_path).read()
    assert "newer dmr" in start_failing(models_path, tmp_path)
    assert '"what"' in path.read_text()
