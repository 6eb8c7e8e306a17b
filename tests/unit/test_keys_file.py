"""The file of keys: what it may say, and how it tells what is wrong without telling a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr.config.keys import ApiKey, digest_of_key, format_key, new_key, parse_keys, read_keys
from dmr.errors import InvalidRequest

PLAIN = "a-key-of-somebody-0123456789"
HASH = digest_of_key(PLAIN).hex()


def one(text: str) -> ApiKey:
    (key,) = parse_keys(text.encode(), "keys.toml")
    return key


def test_a_key_is_known_by_its_hash_or_in_plain() -> None:
    assert one(f'[alice]\nhash = "sha256:{HASH}"') == one(f'[alice]\nkey = "{PLAIN}"') == one(f'[alice]\nhash="{HASH}"')
    assert one(f'[alice]\nkey = "{PLAIN}"') == ApiKey(name="alice", digest=digest_of_key(PLAIN))


def test_all_that_can_be_said_survives_being_written() -> None:
    key = one(
        f'[batch-jobs]\nhash = "{HASH}"\nscopes = ["inference", "metrics", "admin"]\nweight = 0.5\nmax_requests = 4\n'
        "requests_per_minute = 60\ntokens_per_minute = 100000\nexpires = 2030-01-31\n"
    )
    assert key.expires == 1896048000
    assert key.weight == 0.5
    assert key.has_limits
    assert one(format_key(key)) == key


@pytest.mark.parametrize(
    ("expires", "moment"),
    [
        ("2030-01-31", 1896048000),
        ("2030-01-31T00:00:00", 1896048000),
        ("2030-01-31T01:00:00+01:00", 1896048000),
    ],
)
def test_when_a_key_ends(expires: str, moment: int) -> None:
    assert one(f'[a]\nhash = "{HASH}"\nexpires = {expires}').expires == moment


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a]", r"\[a\]: give either"),
        (f'[a]\nkey = "{PLAIN}"\nhash = "{HASH}"', "give either"),
        ('[a]\nkey = "secret"', "16 to 1024"),
        ('[a]\nkey = "with a blank in it, and long"', "no blanks"),
        ('[a]\nhash = "sha256:12"', "64 hexadecimal"),
        (f'[a]\nhash = "{HASH}"\nscopes = ["root"]', "'root' is none of the scopes inference, metrics, admin"),
        (f'[a]\nhash = "{HASH}"\nscopes = []', "scopes"),
        (f'[a]\nhash = "{HASH}"\nweight = 0', "weight"),
        (f'[a]\nhash = "{HASH}"\nweigth = 1', "weigth"),
        (f'[a]\nhash = "{HASH}"\nmax_requests = -1', "max_requests"),
        (f'[a]\nhash = "{HASH}"\nexpires = "tomorrow"', "is a date"),
        (f'a = "{HASH}"', r"as in \[a\]"),
        (f'["a b"]\nhash = "{HASH}"', "letters, digits"),
        (f'[a]\nhash = "{HASH}"\n[b]\nkey = "{PLAIN}"', r"\[a\] and \[b\] are the same key"),
        ("[a", "is not TOML"),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_without_the_key(text: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as caught:
        parse_keys(text.encode(), "keys.toml")
    assert "keys.toml" in caught.value.message
    assert PLAIN not in caught.value.message
    assert HASH not in caught.value.message


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_keys(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        read_keys(tmp_path / "binary")
    (tmp_path / "empty").touch()
    assert read_keys(tmp_path / "empty") == ()  # a server that lets nobody in


def test_new_keys_are_long_and_never_the_same() -> None:
    assert len({new_key() for _ in range(100)}) == 100
    assert len(new_key()) >= 43
