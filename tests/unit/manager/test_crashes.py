from __future__ import annotations

import pytest

from dmr.errors import EngineCrashed
from dmr.manager.crashes import LONGEST_PAUSE, MAX_CRASHES, QUARANTINE, SOON, WINDOW, CrashRecord


def crash_after(record: CrashRecord, uptimes: list[float], now: float = 0.0, words: str = "") -> None:
    for uptime in uptimes:
        record.crashed(words, uptime, now)


def test_the_first_crash_delays_nothing() -> None:
    record = CrashRecord()
    crash_after(record, [0.0], 100.0)
    record.check("one", 100.0)
    assert record.retry_after(100.0) == 0


@pytest.mark.parametrize(("num_crashes", "pause"), [(2, 1), (3, 2), (4, 4)])
def test_further_ones_in_a_row_double_the_pause(num_crashes: int, pause: float) -> None:
    record = CrashRecord()
    crash_after(record, [0.0, 1.0, SOON - 1, 0.0][:num_crashes], 50.0, "GGML_ASSERT(x) failed")
    with pytest.raises(EngineCrashed, match=rf"'one'.*{num_crashes} times in a row.*GGML_ASSERT") as caught:
        record.check("one", 50.0)
    assert caught.value.retry_after == pause
    assert not record.is_quarantined(50.0)
    record.check("one", 50.0 + pause)


def test_an_engine_that_served_well_begins_a_new_row() -> None:
    record = CrashRecord()
    crash_after(record, [0.0, 0.0, SOON])
    record.check("one", 0.0 + 1.0)
    assert record.retry_after(1.0) == 0
    record.crashed("", 0.0, 10.0)
    assert record.retry_after(10.0) == 1


def test_the_pause_has_an_end() -> None:
    record = CrashRecord()
    for number in range(20):
        record.crashed("", 0.0, number * WINDOW)  # too rarely for a quarantine
    now = 19 * WINDOW
    assert record.retry_after(now) == LONGEST_PAUSE
    assert not record.is_quarantined(now)


def test_too_many_within_a_window_are_a_quarantine_that_ends_by_itself_or_by_a_deed() -> None:
    record = CrashRecord()
    crash_after(record, [SOON] * MAX_CRASHES, 7.0, "words")  # each had served well
    assert record.is_quarantined(7.0)
    with pytest.raises(EngineCrashed, match=r"quarantine.*unload it.*words") as caught:
        record.check("one", 8.0)
    assert caught.value.retry_after == QUARANTINE - 1
    record.check("one", 7.0 + QUARANTINE)
    assert not record.is_quarantined(7.0 + QUARANTINE)
    record.forgive()
    record.check("one", 8.0)
    assert record.num_crashes == MAX_CRASHES  # what has been counted stays
    record.crashed("", 0.0, 9.0)
    record.check("one", 9.0)


def test_old_crashes_do_not_count() -> None:
    record = CrashRecord()
    crash_after(record, [SOON] * (MAX_CRASHES - 1), 0.0)
    crash_after(record, [SOON], WINDOW + 1)
    assert not record.is_quarantined(WINDOW + 1)
