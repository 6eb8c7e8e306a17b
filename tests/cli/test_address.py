from __future__ import annotations

import pytest

from dmr.cli.address import Address, parse_address
from dmr.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "url", "is_local"),
    [
        ("", "http://localhost:12434", True),
        ("http://localhost:12434/", "http://localhost:12434", True),
        ("localhost", "http://localhost:12434", True),
        ("localhost:8080", "http://localhost:8080", True),
        ("127.0.0.2:1", "http://127.0.0.2:1", True),
        ("[::1]:12434", "http://[::1]:12434", True),
        ("[::1]", "http://[::1]:12434", True),
        (' "http://gpu.example:12434//" ', "http://gpu.example:12434", False),
        ("gpu.example", "http://gpu.example:12434", False),
        ("http://gpu.example", "http://gpu.example", False),
        ("https://gpu.example/prefix/", "https://gpu.example/prefix", False),
        ("10.0.0.7:12434", "http://10.0.0.7:12434", False),
    ],
)
def test_addresses_as_users_write_them(text: str, url: str, is_local: bool) -> None:
    assert parse_address(text) == Address(url, is_local)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://localhost",
        "http://",
        ":12434",
        "localhost:port",
        "localhost:99999",
        "http://user:secret@localhost",
        "http://localhost/?a=b",
        "local host",
        "http://[::1",
        "unix:///run/x.sock",
    ],
)
def test_what_is_no_address_is_refused_with_both_places_to_look(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"--server or MODEL_RUNNER_HOST"):
        parse_address(text)
