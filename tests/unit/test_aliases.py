"""Names that clients have of their own: which model each one means."""

from __future__ import annotations

import pytest

from dmr.config.aliases import Alias, other_names, parse_aliases
from dmr.errors import InvalidRequest


def meant(table: dict[str, str], name: str) -> list[str]:
    return list(other_names(parse_aliases(table), name))


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("gpt-4", "gpt-4"),
        ("gpt-4", "GPT-4"),
        ("GPT-4", "gpt-4"),
        ("gpt-4", "gpt-4:latest"),
        ("gpt-4:latest", "gpt-4"),
        ("gpt-4", " gpt-4 "),
        ("claude-*", "claude-sonnet-4-5-20250929"),
        ("claude-*", "claude-"),
        ("claude-*", "claude-3:latest"),
        ("claude-*", "claude-3:70b"),
        ("claude-*:latest", "claude-3"),
        ("claude-*:latest", "claude-3:LATEST"),
        ("*", "anything/at:all"),
        ("*/gpt-*", "openrouter/gpt-5"),
        ("*gpt*mini*", "x/gpt-4o-mini-2024"),
        ("host:5000/*", "host:5000/x"),
        ("claude*[1m]", "claude-opus[1m]"),
    ],
)
def test_a_pattern_takes(pattern: str, name: str) -> None:
    assert Alias(pattern, "ai/x").matches(name)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("gpt-4", "gpt-4o"),
        ("gpt-4", "xgpt-4"),
        ("gpt-4", "gpt-4:mini"),
        ("gpt-4:mini", "gpt-4"),
        ("claude-*:latest", "claude-3:70b"),
        ("claude-*", "Xclaude-3"),
        ("*a*b", "ba"),
        ("aba*aba", "aba"),
        ("*mini*gpt*", "gpt-mini"),
        ("gpt-?", "gpt-4"),
        ("gpt-[45]", "gpt-4"),
    ],
)
def test_a_pattern_does_not_take(pattern: str, name: str) -> None:
    assert not Alias(pattern, "ai/x").matches(name)


def test_a_hostile_name_does_not_hang() -> None:
    assert not Alias("*a" * 500 + "b", "ai/x").matches("a" * 100_000)


def test_who_spells_out_more_goes_first() -> None:
    table = {"*": "ai/all", "claude-*": "ai/claude", "claude-haiku-*": "ai/small", "claude-haiku-4*": "ai/four"}
    assert [meant(table, name)[0] for name in ("x", "claude-x", "claude-haiku-3", "claude-haiku-4-5")] == [
        "ai/all",
        "ai/claude",
        "ai/small",
        "ai/four",
    ]
    assert meant({"gpt-4*******************": "ai/any", "gpt-4": "ai/one"}, "gpt-4") == ["ai/one"]


def test_the_file_s_order_decides_between_equals() -> None:
    assert meant({"*-mini": "ai/first", "gpt-*": "ai/other"}, "gpt-mini") == ["ai/first"]
    assert meant({"gpt-*": "ai/first", "mini*": "ai/x", "*-mini": "ai/other"}, "gpt-mini") == ["ai/other"]


def test_an_alias_of_an_alias_is_followed() -> None:
    table = {"claude-sonnet-*": "gpt-4", "gpt-4": "best", "best": "ai/qwen3"}
    assert meant(table, "claude-sonnet-9") == ["gpt-4", "best", "ai/qwen3"]


def test_a_pattern_that_takes_its_own_model_ends_there() -> None:
    assert meant({"*": "ai/qwen3"}, "whatever") == ["ai/qwen3"]
    assert meant({"*": "ai/qwen3", "fast": "gpt-9"}, "fast") == ["gpt-9", "ai/qwen3"]
    assert meant({"qwen*": "qwen3"}, "qwen2") == ["qwen3"]


def test_nothing_is_meant_by_a_name_that_no_pattern_takes() -> None:
    assert meant({"claude-*": "ai/qwen3"}, "gpt-4") == []
    assert meant({}, "gpt-4") == []


@pytest.mark.parametrize(
    "table",
    [
        {"a": "b", "b": "a"},
        {"a": "b", "b": "c", "c": "b"},
        {"*": "ai/qwen3", "ai/qwen3": "other"},
        {"a-*": "b-1", "b-*": "a-1"},
    ],
)
def test_a_circle_is_refused(table: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="circle") as caught:
        parse_aliases(table)
    assert caught.value.param in table


@pytest.mark.parametrize(
    ("table", "param"),
    [
        ({"gpt-4": "gpt-4"}, "gpt-4"),
        ({"gpt-4": "GPT-4:latest"}, "gpt-4"),
        ({"": "ai/x"}, ""),
        ({" gpt": "ai/x"}, " gpt"),
        ({"gpt": ""}, "gpt"),
        ({"gpt": "ai/*"}, "gpt"),
        ({"gpt": "ai/x y"}, "gpt"),
        ({"gpt": "ai/x\n"}, "gpt"),
        ({"gpt": "x" * 2000}, "gpt"),
        ({"gpt-4": "ai/x", "GPT-4:latest": "ai/y"}, "GPT-4:latest"),
        ({"gpt-*": "ai/x", "GPT-*": "ai/y"}, "GPT-*"),
    ],
)
def test_a_wrong_alias_is_named(table: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_aliases(table)
    assert caught.value.param == param
