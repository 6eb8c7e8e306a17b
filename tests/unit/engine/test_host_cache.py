from __future__ import annotations

import pytest

from dmr.engine.host_cache import HostCache, Part, Piece, TransferCosts


def save(host: HostCache, tokens: list[int], end: int, num_bytes: int) -> Piece | None:
    """Save what is not there yet of the first `end` tokens."""
    begin, last = host.find(tokens, end)
    piece = host.reserve(0 if host.saves_whole else begin, end, None if host.saves_whole else last)
    if piece is not None:
        piece.state = b"x" * num_bytes
        assert host.add(piece, tokens)
        host.check_integrity()
    return piece


def make(max_bytes: int = 1000, *, whole: bool = False) -> HostCache:
    return HostCache(max_bytes, TransferCosts(), saves_whole=whole)


FRONT = list(range(100))


def test_pieces_follow_each_other_and_are_shared_by_those_that_begin_alike() -> None:
    host = make()
    first = save(host, FRONT, 40, 40)
    second = save(host, FRONT, 100, 60)
    assert first is not None
    assert second is not None
    other = [*FRONT[:70], *[7] * 30]
    third = save(host, other, 100, 30)
    assert third is not None
    assert (third.begin, third.end, third.parent) == (70, 100, second)
    assert host.num_bytes == 130
    assert host.find(other, 90) == (90, third)
    assert host.find([*FRONT[:30], 9], 31) == (30, first)
    assert host.parts(third, 20, 90) == [Part(first, 20, 40), Part(second, 40, 70), Part(third, 70, 90)]
    assert host.parts(third, 80, 90) == [Part(third, 80, 90)]


def test_what_is_saved_as_a_whole_is_found_as_a_whole() -> None:
    host = make(whole=True)
    short, long = save(host, FRONT, 40, 40), save(host, FRONT, 80, 40)
    assert host.find(FRONT, 79) == (40, short)
    assert host.find(FRONT, 100) == (80, long)
    assert host.find(FRONT, 39) == (0, None)
    assert host.parts(long, 0, 80) == [Part(long, 0, 80)] if long else False


def test_the_bound_is_kept_and_what_was_used_often_stays() -> None:
    host = make(100)
    often = save(host, FRONT, 40, 40)
    for _ in range(3):
        host.use(often)
    for number in range(200, 203):
        assert save(host, [number] * 50, 50, 50) is not None
        assert host.num_bytes <= 100
    assert host.find(FRONT, 100) == (40, often)
    assert host.find([200] * 50, 50) == (0, None)
    assert host.find([202] * 50, 50)[0] == 50


def test_the_front_outlives_what_needs_it() -> None:
    host = make(100)
    front = save(host, FRONT, 40, 40)
    save(host, FRONT, 80, 40)
    assert save(host, [5] * 50, 50, 50) is not None
    assert host.find(FRONT, 100) == (40, front)


def test_what_is_too_large_is_not_kept() -> None:
    host = make(100)
    piece = host.reserve(0, 50, None)
    assert piece is not None
    piece.state = b"x" * 101
    assert not host.add(piece, FRONT)
    host.give_up(piece)
    assert (host.num_bytes, host.find(FRONT, 50)) == (0, (0, None))
    host.check_integrity()
    host.costs.observe_transfer(1000, 10, 1.0)
    assert host.reserve(0, 50, None) is None  # it is known now to be too large


def test_what_needs_a_dropped_piece_goes_with_it() -> None:
    host = make()
    first = save(host, FRONT, 40, 40)
    save(host, FRONT, 80, 40)
    assert first is not None
    coming = host.reserve(80, 100, host.find(FRONT, 100)[1])
    host.drop(first)
    assert (host.num_bytes, host.find(FRONT, 100)) == (0, (0, None))
    assert coming is not None
    coming.state = b"late"
    assert not host.add(coming, FRONT)  # its front is gone
    assert host.num_bytes == 0
    host.check_integrity()


def test_forgetting_leaves_nothing() -> None:
    host = make()
    save(host, FRONT, 40, 40)
    save(host, FRONT, 80, 40)
    save(host, [3] * 30, 30, 40)
    host.clear()
    assert (host.num_bytes, host.find(FRONT, 100)) == (0, (0, None))
    host.check_integrity()


def test_a_piece_that_was_not_saved_leaves_no_trace() -> None:
    host = make()
    first = save(host, FRONT, 40, 40)
    piece = host.reserve(40, 80, first)
    assert piece is not None
    host.give_up(piece)
    host.check_integrity()
    assert host.find(FRONT, 100) == (40, first)


def test_restoring_must_be_much_faster_than_computing() -> None:
    costs = TransferCosts()
    assert costs.is_worth(10**9, 1)  # nothing is known
    costs.observe_transfer(num_bytes=1000, num_tokens=10, seconds=1e-3)
    costs.observe_step(num_tokens=100, seconds=0.1)
    assert costs.is_worth(100_000, 1000)  # 0.1 s against 1 s
    assert not costs.is_worth(100_000, 150)  # against 0.15 s


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, 500), (0.01, 100), (0.001, 32)])
def test_a_slice_is_what_fits_into_the_time(seconds: float, expected: int) -> None:
    costs = TransferCosts()
    assert costs.num_tokens_within(seconds, 32, 500) == 32  # nothing is known
    costs.observe_transfer(num_bytes=1000, num_tokens=10, seconds=1e-3)
    assert costs.num_tokens_within(seconds, 32, 500) == expected
