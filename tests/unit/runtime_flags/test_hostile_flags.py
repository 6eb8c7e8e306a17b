"""Whatever is sent as flags is understood or refused; nothing else is ever raised."""

from __future__ import annotations

import contextlib
import random

import pytest

from dmr.config import EngineSettings
from dmr.errors import InvalidRequest
from dmr.manager.configuration_rules import changed, mode_of
from dmr.manager.engine_plan import plan_engine
from dmr.runtime_flags import FLAGS, split_flags
from dmr.types import ConfigurationChange, Mode, ModelConfiguration

NAMES = sorted(FLAGS)
VALUES = [
    *("0", "-1", "1", "9" * 40, "-0", "+1", "1e9", "nan", "inf", "-inf", "0x10", "1_000", "٣", "", " ", "-", "--", "="),
    *("on", "off", "auto", "none", "all", "q8_0", "f16", "chatml", "{{ x }}", "{}", "[]", '{"a":1e999}', '{"a":NaN}'),
    *(
        "root ::= 'a'",
        "top_k;temperature",
        "draft-simple,ngram-simple",
        "3,1",
        "CUDA0",
        "\x00",
        "\n",
        "é\u2028",
        "/",
        "\\",
    ),
]


def tokens(rng: random.Random) -> tuple[str, ...]:
    found: list[str] = []
    for _ in range(rng.randint(1, 3)):
        name, value = rng.choice([*NAMES, "--unknown", "-x", "x"]), rng.choice(VALUES)
        found += rng.choice(([name], [name, value], [f"{name}={value}"], [value]))
    return tuple(found)


@pytest.mark.parametrize("seed", range(10))
def test_flags_are_understood_or_refused(seed: int) -> None:
    rng, num_understood = random.Random(seed), 0
    configuration = ModelConfiguration()
    for _ in range(500):
        change = ConfigurationChange(runtime_flags=tokens(rng))
        with contextlib.suppress(InvalidRequest):
            mode = mode_of(change, None)
            made = changed(configuration if mode is Mode.COMPLETION else ModelConfiguration(), change, mode)
            plan_engine(EngineSettings(), {mode: made}, 4096, str)
            num_understood += 1
            configuration = made if mode is Mode.COMPLETION else configuration
    assert num_understood > 10
    assert configuration.runtime_flags


@pytest.mark.parametrize("text", ["'", '"', "\\", "--temp 'a"])
def test_lines_that_a_shell_would_not_end_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid runtime flags: No "):
        split_flags(text)


def test_a_line_is_no_command() -> None:
    assert split_flags("--x $(id) `id` | & ; > y") == ("--x", "$(id)", "`id`", "|", "&", ";", ">", "y")
