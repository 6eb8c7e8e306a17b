"""Which registries at private addresses requests may name: what the settings say, or what who can send them implies."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr.config import read_settings
from dmr.config.reachability import is_of_this_machine, private_registries
from dmr.errors import InvalidRequest

OPEN = {"DMR_HOST": "0.0.0.0"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, True),
        ({"DMR_HOST": "localhost"}, True),
        ({"DMR_HOST": "::1"}, True),
        ({"DMR_HOST": "127.0.0.2", "MODEL_RUNNER_SOCK": "s", "MODEL_RUNNER_TLS_ENABLED": "true"}, True),
        ({**OPEN, "MODEL_RUNNER_SOCK": "s", "DMR_PLAIN": "false"}, True),
        (OPEN, False),
        ({"DMR_HOST": "::"}, False),
        ({"DMR_HOST": "192.168.1.5"}, False),
        ({"DMR_HOST": "box.example"}, False),
        ({**OPEN, "MODEL_RUNNER_SOCK": "s"}, False),
        ({**OPEN, "DMR_PLAIN": "false", "MODEL_RUNNER_TLS_ENABLED": "true"}, False),
    ],
)
def test_who_can_send_requests(environ: dict[str, str], expected: bool) -> None:
    settings = read_settings(environ)
    assert is_of_this_machine(settings) is expected
    assert (private_registries(settings) is None) is expected, "by itself it is as safe as that"


def test_where_keys_are_asked_for_administrators_may_name_any(tmp_path: Path) -> None:
    assert private_registries(read_settings({**OPEN, "DMR_KEYS": str(tmp_path / "keys.toml")})) is None


@pytest.mark.parametrize("surroundings", [{}, OPEN])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", None),
        ("off", ()),
        ("OFF", ()),
        ("registry.lan:5000, 10.0.0.7", ("10.0.0.7", "registry.lan:5000")),
        ("[fd00::7]:5000", ("[fd00::7]:5000",)),
    ],
)
def test_what_is_said_goes_everywhere(
    surroundings: dict[str, str], text: str, expected: tuple[str, ...] | None
) -> None:
    assert private_registries(read_settings({**surroundings, "DMR_PRIVATE_REGISTRIES": text})) == expected


def test_hosts_can_be_added_to_what_goes_by_itself() -> None:
    said = {"DMR_PRIVATE_REGISTRIES": "auto,registry.lan"}
    assert private_registries(read_settings(said)) is None
    assert private_registries(read_settings({**OPEN, **said})) == ("registry.lan",)


@pytest.mark.parametrize("text", ["off,registry.lan", "all,registry.lan", "auto,OFF"])
def test_some_words_stand_alone(text: str) -> None:
    with pytest.raises(InvalidRequest, match="stands alone") as caught:
        read_settings({"DMR_PRIVATE_REGISTRIES": text})
    assert caught.value.param == "DMR_PRIVATE_REGISTRIES"
