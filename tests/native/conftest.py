"""The tiny models, each loaded once; one compute thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import model_file

from dmr import _core


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def load(models_folder: Path) -> Callable[[str], _core.Model]:
    return lambda name: _core.Model([str(model_file(name, models_folder))])


@pytest.fixture(scope="session")
def script_model(load: Callable[[str], _core.Model]) -> _core.Model:
    return load("tiny-script")


@pytest.fixture(scope="session")
def think_model(load: Callable[[str], _core.Model]) -> _core.Model:
    return load("tiny-think")


@pytest.fixture(scope="session")
def random_model(load: Callable[[str], _core.Model]) -> _core.Model:
    return load("tiny-random")


@pytest.fixture(scope="session")
def embed_model(load: Callable[[str], _core.Model]) -> _core.Model:
    return load("tiny-embed")


@pytest.fixture(scope="session")
def rerank_model(load: Callable[[str], _core.Model]) -> _core.Model:
    return load("tiny-rerank")
