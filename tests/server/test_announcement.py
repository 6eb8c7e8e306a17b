from __future__ import annotations

import json
import shlex
from typing import Any, cast

import pytest
from fakes import FakeService

from dmr.config import Settings
from dmr.config.reachability import is_loopback
from dmr.errors import StoreError
from dmr_server.announcement import base_url, example, first_model, greeting
from dmr_server.app import create_app


@pytest.mark.parametrize(
    ("host", "loopback", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:12434"),
        ("127.8.9.1", True, "http://127.8.9.1:12434"),
        ("localhost", True, "http://localhost:12434"),
        ("::1", True, "http://[::1]:12434"),
        ("0.0.0.0", False, "http://127.0.0.1:12434"),
        ("::", False, "http://[::1]:12434"),
        ("192.168.1.5", False, "http://192.168.1.5:12434"),
        ("box.example", False, "http://box.example:12434"),
    ],
)
def test_addresses(host: str, loopback: bool, url: str) -> None:
    assert is_loopback(host) == loopback
    assert base_url(host, 12434) == url
    assert ("WARNING" in greeting(host, 12434)) is not loopback
    assert ("PLAIN TEXT" in greeting(host, 12434, has_keys=True)) is not loopback
    assert "WARNING" not in greeting(host, 12434, has_keys=True, scheme="https")


def test_the_example_survives_the_shell() -> None:
    words = shlex.split(example("http://x", "o'brien/it's"))
    assert json.loads(words[-1])["model"] == "o'brien/it's"


def test_the_first_model(service: FakeService) -> None:
    app = create_app(cast(Any, service), Settings())
    assert first_model(app) == "ai/smollm2:latest"
    service.models = []
    assert first_model(app) is None
    service.failure = StoreError("no")
    assert first_model(app) is None
