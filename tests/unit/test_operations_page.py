"""The page on operations: its settings are read as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from dmr.config import UpstreamEngine, read_settings
from dmr.config.settings import RECORDS
from dmr.config.upstreams import check_upstream
from dmr.errors import InvalidRequest

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def test_the_example_of_an_engine_is_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.+?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "config.toml"
    file.write_text(example, encoding="utf-8")
    (engine,) = read_settings({"DMR_CONFIG": str(file)}).upstreams
    assert engine.root == "http://gpu-1.internal:8000"
    documented = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) - set(RECORDS)
    assert documented - {"DMR_RECORD"} == {field.name for field in msgspec.structs.fields(engine)} - {"name"}


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("llama.cpp", {}, "name"),
        ("ps", {}, "name"),
        ("Big", {}, "name"),
        ("a/b", {}, "name"),
        ("a", {"url": "ftp://host/v1"}, "url"),
        ("a", {"url": "http:///v1"}, "url"),
        ("a", {"url": "http://host:99999/v1"}, "url"),
        ("a", {"url": "http://host/v1?key=x"}, "url"),
        ("a", {"url": "http://host/v1 "}, "url"),
        ("a", {"url": "http://user:secret@host/v1"}, "api_key_env"),
        ("a", {"health": "health"}, "health"),
        ("a", {"timeout": 0}, "timeout"),
        ("a", {"connect_timeout": -1.0}, "connect_timeout"),
    ],
)
def test_an_engine_that_cannot_be(name: str, options: dict[str, object], told: str) -> None:
    engine = UpstreamEngine(**{"name": name, "url": "http://host:8000/v1", **options})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=told) as caught:
        check_upstream(engine)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("url", ["http://h:1/v1", "http://h:1/v1/", "http://h:1", "http://h:1/"])
def test_v1_may_be_left_out(url: str) -> None:
    assert UpstreamEngine("a", url).root == "http://h:1"
