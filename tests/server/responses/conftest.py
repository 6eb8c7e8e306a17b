from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import falcon.testing
import pytest
from fakes import FakeService

from dmr.config import Settings
from dmr_server.app import create_app
from dmr_server.generation import Stamps

CREATED = 1700000000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(max_body_bytes=100_000, models_path=tmp_path / "models")


@pytest.fixture
def new_client(service: FakeService, settings: Settings) -> Callable[[], falcon.testing.TestClient]:
    """One more worker over the same folder; ids are 1, 2, 3, ... across all of them."""
    numbers: Iterator[int] = itertools.count(1)

    def make() -> falcon.testing.TestClient:
        stamps = Stamps(clock=lambda: CREATED, new_id=lambda: str(next(numbers)))
        return falcon.testing.TestClient(create_app(cast(Any, service), settings, stamps))

    return make


@pytest.fixture
def client(new_client: Callable[[], falcon.testing.TestClient]) -> falcon.testing.TestClient:
    return new_client()
