"""The policy against simulated devices: it guesses where that pays, and costs next to nothing where it does not."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr.engine.speculation_policy import Acceptance, SpeculationPolicy, StepCost

Device = Callable[[int], float]  # seconds of a step by its number of tokens


def bandwidth_bound(num_tokens: int) -> float:
    """A large model on a GPU: reading the weights is nearly all."""
    return 0.02 + 0.0001 * num_tokens


def compute_bound(num_tokens: int) -> float:
    return 0.01 * num_tokens


def roofline(num_tokens: int) -> float:
    """Eight tokens in the time of one, and then each costs."""
    return max(0.02, 0.0025 * num_tokens)


def small_processor(num_tokens: int) -> float:
    """As measured with 135 million weights on one core: two tokens cost more than twice as much, many cost less."""
    known = [(1, 0.008), (2, 0.019), (4, 0.033), (8, 0.07), (16, 0.11), (512, 3.5)]
    for (low, low_seconds), (high, high_seconds) in pairwise(known):
        if num_tokens <= high:
            return low_seconds + (num_tokens - low) / (high - low) * (high_seconds - low_seconds)
    raise AssertionError("no step is that large")


class Outcome(NamedTuple):
    speed: float  # times that without guesses
    share_with_guesses: float  # of the steps
    longest: float  # seconds of a step


class Simulation:
    """Users whose guesses are right with a fixed chance at each place."""

    def __init__(self, num_users: int, chance: float, num_guesses: int = 8, target: float = 0.1, noise: float = 0.0):
        self.policy = SpeculationPolicy(target)
        self.shared = Acceptance()
        self.users = [Acceptance(self.shared) for _ in range(num_users)]
        self.chance, self.num_guesses, self.noise = chance, num_guesses, noise
        self.dice = random.Random(0)

    def run(self, device: Device, num_steps: int = 600, seconds_per_round: float = 0.0) -> Outcome:
        num_users = len(self.users)
        elapsed, longest, num_tokens, num_with = 0.0, 0.0, 0, 0
        for _ in range(num_steps):
            chances = [user.chances(0, self.num_guesses) for user in self.users]
            lengths = self.policy.choose(num_users, chances, seconds_per_round)
            size = num_users + sum(lengths)
            seconds = device(size) * self.dice.uniform(1 - self.noise, 1 + self.noise)
            self.policy.cost.observe(size, seconds)
            elapsed += seconds + seconds_per_round * max(lengths)
            longest = max(longest, seconds)
            num_with += any(lengths)
            for user, length in zip(self.users, lengths, strict=True):
                num_right = 0
                while num_right < length and self.dice.random() < self.chance:
                    num_right += 1
                user.observe(0, length, num_right)
                num_tokens += 1 + num_right
        plain = num_users / device(num_users)
        return Outcome(num_tokens / elapsed / plain, num_with / num_steps, longest)


def simulate(device: Device, num_users: int, chance: float, **fields: float) -> Outcome:
    simulation = Simulation(num_users, chance, noise=fields.pop("noise", 0.0))
    device_at_prefill = 300
    simulation.policy.cost.observe(device_at_prefill, device(device_at_prefill))
    return simulation.run(device, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize(
    ("num_users", "chance", "least"), [(1, 0.8, 3.0), (1, 0.5, 1.6), (4, 0.8, 2.5), (16, 0.8, 2.0)]
)
def test_where_reading_the_weights_is_all_it_guesses(num_users: int, chance: float, least: float, noise: float) -> None:
    outcome = simulate(bandwidth_bound, num_users, chance, noise=noise)
    assert outcome.speed > least
    assert outcome.share_with_guesses > 0.9


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("num_users", [1, 4, 16])
@pytest.mark.parametrize("chance", [0.0, 0.5, 0.9])
def test_where_each_token_costs_it_does_not(num_users: int, chance: float, noise: float) -> None:
    outcome = simulate(compute_bound, num_users, chance, noise=noise)
    assert outcome.speed > 0.96
    assert noise or outcome.share_with_guesses < 0.05


def test_it_guesses_for_few_and_not_for_many() -> None:
    alone, crowd = simulate(roofline, 1, 0.8), simulate(roofline, 16, 0.8)
    assert alone.speed > 3.0
    assert crowd.speed > 0.97
    assert crowd.share_with_guesses < 0.05


@pytest.mark.parametrize("device", [bandwidth_bound, compute_bound, roofline, small_processor])
def test_guesses_that_are_never_right_cost_little(device: Device) -> None:
    outcome = simulate(device, 1, 0.0)
    assert outcome.speed > 0.96
    assert outcome.share_with_guesses < 0.1


def test_on_a_small_processor_only_long_sure_guesses_pay() -> None:
    sure = Simulation(1, 1.0, num_guesses=15, target=0.15)
    sure.policy.cost.observe(300, small_processor(300))
    sure.run(small_processor, 3000)
    assert sure.run(small_processor).speed > 1.12
    assert simulate(small_processor, 1, 0.7).speed > 0.96


def test_guesses_that_take_long_to_make_do_not_pay() -> None:
    assert simulate(bandwidth_bound, 1, 0.8, seconds_per_round=0.002).speed > 2.0
    slow = simulate(bandwidth_bound, 1, 0.8, seconds_per_round=0.03)
    assert slow.speed > 0.96
    assert slow.share_with_guesses < 0.05


def test_it_notices_that_guesses_pay_now() -> None:
    simulation = Simulation(1, 0.8)
    assert simulation.run(compute_bound).share_with_guesses < 0.05
    simulation.run(bandwidth_bound)
    assert simulation.run(bandwidth_bound).speed > 2.5


def test_it_notices_that_guesses_do_not_pay_any_more() -> None:
    simulation = Simulation(1, 0.8)
    assert simulation.run(bandwidth_bound).speed > 2.5
    simulation.run(compute_bound, 100)
    assert simulation.run(compute_bound).speed > 0.95


def test_it_notices_that_guesses_have_become_right() -> None:
    simulation = Simulation(1, 0.0)
    simulation.run(roofline)
    simulation.chance = 0.9
    simulation.run(roofline, 400)
    assert simulation.run(roofline).speed > 2.5


def test_no_step_lasts_longer_than_the_target_allows() -> None:
    def slow(num_tokens: int) -> float:
        return 0.3 + 0.02 * num_tokens

    simulation = Simulation(1, 0.95, num_guesses=64)
    assert simulation.run(slow).longest <= 2 * slow(1) + 1e-9


def test_a_step_that_computed_nothing_tells_nothing() -> None:
    """Where every prompt waits for its cells to be brought back, a step only moves them."""
    cost = StepCost()
    cost.observe(0, 0.5)
    assert cost.largest == 0
    cost.observe(1, 0.0)  # shorter than the clock can tell
    assert cost.largest == 0
    cost.observe(1, 0.25)
    cost.observe(0, 0.5)
    cost.observe(1, 0.0)
    assert (cost.largest, cost.seconds(1)) == (1, 0.25)


def test_nothing_is_chosen_before_a_plain_step_was_measured() -> None:
    policy = SpeculationPolicy(0.1)
    assert policy.choose(1, [[0.9, 0.8]]) == [0]
    policy.cost.observe(300, 0.1)
    assert policy.choose(1, [[0.9, 0.8]]) == [0]
    policy.cost.observe(1, 0.09)
    assert policy.choose(1, [[0.9, 0.8]]) == [2]
    assert policy.choose(1, [[]]) == [0]
    assert policy.choose(1, []) == []


def test_the_likeliest_guesses_come_first() -> None:
    """A place costs a tenth of a step."""
    policy = SpeculationPolicy(100.0)
    for size in range(1, 17):
        policy.cost.observe(size, 1.0 + 0.1 * size)
    assert policy.choose(2, [[0.9, 0.8, 0.7], [0.5, 0.1, 0.05]]) == [3, 1]


# --- what a step costs -----------------------------------------------------------------------------------------------


def test_between_known_sizes_lies_a_line() -> None:
    cost = StepCost()
    assert (cost.largest, cost.seconds(5), cost.knows(5)) == (0, 0.0, False)
    cost.observe(2, 1.0)
    cost.observe(10, 3.0)
    assert [cost.seconds(size) for size in (1, 2, 6, 10, 40)] == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert (cost.largest, cost.knows(1), cost.knows(2)) == (10, False, True)


def test_a_device_that_becomes_slower_is_slower_for_all_sizes() -> None:
    cost = StepCost()
    cost.observe(8, 0.05)
    for seconds in [0.01] * 20 + [0.03] * 60:
        cost.observe(1, seconds)
    assert 0.09 < cost.seconds(8) <= 0.15


def test_an_odd_step_moves_an_estimate_a_little() -> None:
    cost = StepCost()
    for _ in range(10):
        cost.observe(4, 1.0)
    cost.observe(4, 1000.0)
    assert cost.seconds(4) < 2.0
    for _ in range(100):
        cost.observe(4, 5.0)
    assert cost.seconds(4) == pytest.approx(5.0, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 4096), st.floats(1e-4, 1.0)), min_size=1), st.integers(1, 5000))
def test_estimates_are_durations(steps: list[tuple[int, float]], size: int) -> None:
    cost = StepCost()
    for num_tokens, seconds in steps:
        cost.observe(num_tokens, seconds)
    assert 0.0 < cost.seconds(size) < math.inf
    assert 0 < cost.largest <= max(num_tokens for num_tokens, _ in steps)


# --- how often guesses are right -------------------------------------------------------------------------------------


def test_places_behind_a_wrong_guess_say_nothing() -> None:
    acceptance = Acceptance()
    before = acceptance.chances(0, 4)
    for _ in range(200):
        acceptance.observe(0, 4, 1)
    after = acceptance.chances(0, 4)
    assert after[0] > 0.99
    assert after[1] < 0.01
    assert after[3] / after[2] == pytest.approx(before[3] / before[2])


def test_a_new_sequence_begins_with_what_others_have_shown() -> None:
    shared = Acceptance()
    for _ in range(100):
        Acceptance(shared).observe(1, 2, 2)
    assert Acceptance(shared).chances(1, 2)[1] > 0.9
    assert Acceptance(shared).chances(0, 2)[1] < 0.9, "sources are told apart"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 9))), st.integers(0, 12))
def test_chances_are_chances(observed: list[tuple[int, int, int]], count: int) -> None:
    acceptance = Acceptance(Acceptance())
    for source, num_drafted, num_right in observed:
        acceptance.observe(source, num_drafted, min(num_drafted, num_right))
    chances = acceptance.chances(0, count)
    assert len(chances) == count
    assert all(0.0 <= chance <= 1.0 for chance in chances)
    assert chances == sorted(chances, reverse=True)
