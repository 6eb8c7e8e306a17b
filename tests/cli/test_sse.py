from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr.cli import lines
from dmr.cli.sse import read_events

STREAM = (
    b": hello\n\ndata: one\n\nevent: x\r\ndata:two\r\n\r\ndata: a\ndata: b\n\n\n\ndata: \xc3\xa4\n\ndata: cut off\n"
)
EVENTS = [b"one", b"two", b"a\nb", "ä".encode()]


@given(st.lists(st.integers(0, len(STREAM))))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in itertools.pairwise(places)]
    assert list(read_events(pieces)) == EVENTS


def test_an_event_comes_as_soon_as_its_blank_line_is_there() -> None:
    def pieces() -> object:
        yield b"data: first\n\n"
        raise AssertionError("asked for more before the first event was handed out")

    assert next(read_events(pieces())) == b"first"  # type: ignore[arg-type]


def test_an_endless_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    with pytest.raises(ValueError, match="too long"):
        list(read_events([b"data: "] + [b"x" * 10] * 20))
