from __future__ import annotations

import functools
from typing import Any, cast

import falcon.testing
import pytest
from fakes import FakeService, model_record
from server.shared_routes import SharedRoutes

from dmr.config import Settings
from dmr.types import Completed, Finished, FinishReason, Started, TextDelta, Usage
from dmr_server.app import create_app
from dmr_server.generation import Stamps

# The test client's own host is a name of the Internet, to which a server for its own machine gives no answer.
falcon.testing.client.simulate_request = functools.partial(falcon.testing.client.simulate_request, host="localhost")
falcon.testing.create_environ = functools.partial(falcon.testing.create_environ, host="localhost")
falcon.routing.DefaultRouter = SharedRoutes

CREATED = 1700000000
ANSWER = (
    Started(5),
    TextDelta(0, "Hello"),
    TextDelta(0, " world"),
    Finished(0, FinishReason.STOP),
    Completed(Usage(5, 3, 2, 0)),
)


@pytest.fixture
def service() -> FakeService:
    return FakeService([model_record("docker.io/ai/smollm2:latest", "docker.io/ai/smollm2:135M-Q4_1")])


@pytest.fixture
def settings() -> Settings:
    return Settings(max_body_bytes=100_000)


@pytest.fixture
def client(service: FakeService, settings: Settings) -> falcon.testing.TestClient:
    stamps = Stamps(clock=lambda: CREATED, new_id=lambda: "ID")
    return falcon.testing.TestClient(create_app(cast(Any, service), settings, stamps))


@pytest.fixture
def answer() -> tuple[Any, ...]:
    return ANSWER
