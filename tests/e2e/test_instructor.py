"""Instructor, in the environment of the clients that hold others back, against a real server."""

from __future__ import annotations

import pytest
from e2e.conftest import STARTER_MODEL, CallsInOtherEnvironment, Server

pytestmark = pytest.mark.litellm
SCRIPT_CALLS = ("script_tools", "script_json_schema", "script_partial")
REAL_CALLS = ("real_tools", "real_json_schema")


@pytest.fixture(scope="module")
def calls(server: Server) -> CallsInOtherEnvironment:
    real = REAL_CALLS if STARTER_MODEL.exists() else ()
    return CallsInOtherEnvironment("instructor_calls.py", server.url, (*SCRIPT_CALLS, "script_json", *real))


@pytest.mark.parametrize("name", [*SCRIPT_CALLS, *(pytest.param(name, marks=pytest.mark.real) for name in REAL_CALLS)])
def test_a_person_comes_back(calls: CallsInOtherEnvironment, name: str) -> None:
    """Through a forced tool and through a schema, whatever the model would have said."""
    person = calls.value(name)
    assert set(person) == {"name", "age", "pet"}
    assert isinstance(person["age"], int)
    assert person["pet"] in ("cat", "dog", "none")


def test_json_mode_gives_an_object(calls: CallsInOtherEnvironment) -> None:
    assert isinstance(calls.value("script_json"), dict)
