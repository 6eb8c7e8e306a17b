from __future__ import annotations

from dmr.engine.host_cache import BUSY_SHARE, MOST_ALLOWED, TransferCosts


def test_saving_beside_steps_takes_a_share_of_their_time() -> None:
    costs = TransferCosts()
    costs.allowance = 0.0
    for _ in range(10):
        costs.allow(0.1)
    assert abs(costs.allowance - BUSY_SHARE) < 1e-9


def test_allowances_do_not_add_up_without_end() -> None:
    costs = TransferCosts()
    for _ in range(1000):
        costs.allow(1.0)
    assert costs.allowance == MOST_ALLOWED
