from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr.cli.values import (
    format_rate,
    format_seconds,
    format_table,
    human_duration,
    human_size,
    parse_duration,
    printable,
)

HOUR, DAY = 3600, 86400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("1h30m", 5400),
        ("0", 0),
        ("-1", -1),
        ("-1s", -1),
        ("90", 90),
        ("1.5h", 5400),
        (".5m", 30),
        ("500ms", 0.5),
        ("2us", 2e-6),
        ("2µs", 2e-6),
        ("1h0m0.5s", 3600.5),
        ("+3s", 3),
        (" 5m ", 300),
    ],
)
def test_durations_are_read_as_upstream_does(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "m", "5x", "5m3", "--1", "1e3", "inf", "nan", "5 m", "1h-3m", "٣m", "9" * 400])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration"):
        parse_duration(text)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "Less than a second"),
        (0.9, "Less than a second"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "1 minute"),
        (4 * 60, "4 minutes"),
        (HOUR, "1 hour"),
        (47 * HOUR, "47 hours"),
        (48 * HOUR, "2 days"),
        (14 * DAY, "2 weeks"),
        (60 * DAY, "2 months"),
        (16 * 30 * DAY, "16 months"),
        (730 * DAY, "2 years"),
    ],
)
def test_ages_are_shown_in_one_unit(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0.00B"),
        (999, "999.00B"),
        (1000, "1.00kB"),
        (999_999, "1.00MB"),
        (256_350_000, "256.35MB"),
        (3 * 10**15, "3000.00TB"),
    ],
)
def test_sizes_have_two_decimals_and_units_of_1000(num_bytes: int, text: str) -> None:
    assert human_size(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0, "0.00ms"),
        (0.000812, "0.81ms"),
        (0.01234, "12.3ms"),
        (0.1234, "123ms"),
        (1.0, "1.00s"),
        (45.61, "45.6s"),
        (123.4, "123s"),
    ],
)
def test_measured_times_have_three_digits(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text


def test_rates_have_a_decimal_while_it_says_something() -> None:
    assert (format_rate(0.0), format_rate(68.24), format_rate(12345.6)) == ("0.0", "68.2", "12346")


def test_a_table_has_two_blanks_between_columns_and_none_at_the_end() -> None:
    assert format_table(("NAME", "ID"), [("long name", "1"), ("x", "")]) == "NAME       ID\nlong name  1\nx"


def test_a_cell_cannot_break_its_table() -> None:
    assert format_table(("A", "B"), [("x\ny\x1b[2J", "1")]) == "A       B\nx y[2J  1"


def test_control_characters_are_not_printable() -> None:
    assert printable("a\x1b]0;title\x07b\r\x9bc\n\tä😀") == "a]0;titlebc\n\tä😀"
