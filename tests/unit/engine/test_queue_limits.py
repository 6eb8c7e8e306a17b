from __future__ import annotations

import pytest

from dmr.config import EngineSettings
from dmr.engine.queue_limits import NUM_REMEMBERED, QueueLimits
from dmr.errors import Overloaded, TooManyRequests


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limits(clock: Clock, max_queue: int = 20, running: int = 4, share: float = 0.5) -> QueueLimits:
    """By default: 4 places to run, 16 to wait, so one client may have 12."""
    return QueueLimits(EngineSettings(max_queue=max_queue, max_num_seqs=running, queue_share=share), clock)


def test_a_heavy_client_leaves_room_for_others() -> None:
    held = limits(Clock())
    for _ in range(12):
        held.enter("heavy", 1)
    with pytest.raises(TooManyRequests, match="12 sequences"):
        held.enter("heavy", 1)
    for _ in range(8):
        held.enter("light", 1)
    with pytest.raises(Overloaded, match="20 sequences"):
        held.enter("third", 1)
    with pytest.raises(TooManyRequests):  # what is true for longer is told first
        held.enter("heavy", 1)
    held.leave("heavy", 1)
    held.enter("heavy", 1)


def test_refused_requests_take_no_room() -> None:
    held = limits(Clock())
    held.enter("heavy", 12)
    for _ in range(50):
        with pytest.raises(TooManyRequests):
            held.enter("heavy", 1)
    held.enter("light", 8)
    assert held.num_sequences == 20


def test_one_request_of_any_size_is_taken_from_who_has_nothing() -> None:
    held = limits(Clock())
    held.enter("one", 500)  # nobody is there
    held.leave("one", 500)
    held.enter("other", 1)
    held.enter("one", 15)  # more than its share, but all there is room for
    with pytest.raises(TooManyRequests):
        held.enter("one", 1)
    with pytest.raises(Overloaded):
        held.enter("two", 5)


def test_clients_without_a_name_share_nothing_but_the_queue() -> None:
    held = limits(Clock())
    held.enter("", 12)
    held.enter("", 8)
    with pytest.raises(Overloaded):
        held.enter("", 1)


def test_a_whole_share_is_no_limit() -> None:
    held = limits(Clock(), share=1.0)
    held.enter("heavy", 1)
    held.enter("heavy", 19)
    with pytest.raises(TooManyRequests):
        held.enter("heavy", 1)


def test_a_queue_smaller_than_the_places_to_run() -> None:
    held = limits(Clock(), max_queue=2)
    held.enter("a", 1)
    held.enter("a", 1)
    with pytest.raises(Overloaded):
        held.enter("b", 1)


def refusal(held: QueueLimits, client: str, num_sequences: int = 1) -> float:
    with pytest.raises((Overloaded, TooManyRequests)) as caught:
        held.enter(client, num_sequences)
    assert caught.value.retry_after is not None
    return caught.value.retry_after


def test_when_to_come_again_follows_the_pace_of_the_queue() -> None:
    clock = Clock()
    held = limits(clock)
    held.enter("a", 12)
    held.enter("b", 8)
    for _ in range(10):  # one every three seconds
        clock.now += 3.0
        held.leave("b", 1)
        held.enter("b", 1)
    assert refusal(held, "c") == pytest.approx(3.0)
    assert refusal(held, "c", 4) == pytest.approx(12.0)
    assert held.seconds_to_drain() == pytest.approx(16 * 3.0)
    # Of the places that become free, three in five are a's own.
    assert refusal(held, "a") == pytest.approx(3.0 / 0.6)
    for _ in range(NUM_REMEMBERED):  # and now ten a second
        clock.now += 0.1
        held.leave("b", 1)
        held.enter("b", 1)
    assert refusal(held, "c", 15) == pytest.approx(1.5, rel=0.05)
    assert refusal(held, "c") == 1.0


def test_where_nothing_has_ended_yet_it_takes_as_long_again() -> None:
    clock = Clock()
    held = limits(clock)
    held.enter("a", 20)
    assert refusal(held, "b") == 1.0
    clock.now += 25.0
    assert refusal(held, "b") == 25.0


def test_an_idle_time_is_no_part_of_the_pace() -> None:
    clock = Clock()
    held = limits(clock)
    held.enter("a", 1)
    held.leave("a", 1)
    clock.now += 3600.0
    held.enter("a", 12)
    held.enter("c", 8)
    clock.now += 2.0
    held.leave("a", 1)
    held.enter("a", 1)
    assert refusal(held, "b") == pytest.approx(2.0)


# --- how often a place becomes free ----------------------------------------------------------------------------------


def refusal_of(held: QueueLimits, client: str, num_sequences: int = 1) -> Overloaded | TooManyRequests:
    with pytest.raises((Overloaded, TooManyRequests)) as caught:
        held.enter(client, num_sequences)
    assert isinstance(caught.value, (Overloaded, TooManyRequests))
    return caught.value


def test_a_refusal_says_how_often_a_place_becomes_free() -> None:
    clock = Clock()
    held = limits(clock)
    for number in range(20):
        held.enter(f"c{number}", 1)
    assert refusal_of(held, "x").interval_ms == 250  # nothing is known
    for number in range(10):
        clock.now += 0.02
        held.leave(f"c{number}", 1)
        held.enter(f"d{number}", 1)
    assert refusal_of(held, "x").interval_ms == 20
    clock.now += 60
    assert refusal_of(held, "x").interval_ms == 250


def test_of_the_places_that_become_free_a_client_gets_those_it_has() -> None:
    clock = Clock()
    held = limits(clock)
    held.enter("heavy", 11)
    held.enter("heavy", 1)
    for number in range(6):
        held.enter(f"c{number}", 1)
    for number in range(4):
        clock.now += 0.02
        held.leave(f"c{number}", 1)
        held.enter(f"c{number}", 1)
    assert refusal_of(held, "heavy").interval_ms == 30  # 12 of 18


def test_a_large_request_that_is_refused_says_nothing_of_small_ones() -> None:
    held = limits(Clock())
    held.enter("heavy", 11)
    assert refusal_of(held, "heavy", 3).interval_ms == 0
    held.enter("other", 8)
    assert refusal_of(held, "third", 2).interval_ms == 0
