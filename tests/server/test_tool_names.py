"""Names of tools: refused where no model could write a call of them, and taken everywhere else."""

from __future__ import annotations

import pytest

from dmr.errors import InvalidRequest
from dmr.types import Tool
from dmr_server.fields import check_tools


@pytest.mark.parametrize("name", ["", " a", "a ", 'a"b', "a\\b", "a\nb", "x" * 257])
def test_names_that_no_call_can_carry(name: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        check_tools([Tool("fine"), Tool(name)], "tools")
    assert error.value.param == "tools"


@pytest.mark.parametrize("name", ["a", "mcp__files.read/all:1", "a b", "wetter_für_🌞", "<a>", "it's", "x" * 256])
def test_names_that_are_taken(name: str) -> None:
    check_tools([Tool(name)], "tools")
