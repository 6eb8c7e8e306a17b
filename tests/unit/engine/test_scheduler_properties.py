"""What holds for the scheduler whatever comes: random lives with plain integers, thousands of steps."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from unit.engine.scheduler_world import Order, World

LARGEST = 60  # tokens of one sequence at a time

ORDERS = st.builds(
    Order,
    client=st.sampled_from(["", "one", "other"]),
    family=st.integers(0, 2),
    num_prompt_tokens=st.integers(1, 40),
    num_new_tokens=st.integers(0, 20),
    kind=st.sampled_from(["plain", "plain", "scored", "shift"]),
    weight=st.sampled_from([0.5, 1.0, 4.0]),
).map(lambda order: order._replace(num_new_tokens=max(1, order.num_new_tokens)) if order.kind == "shift" else order)
BUDGETS = st.integers(1, 30)
GUESSES = st.lists(st.booleans(), max_size=4)  # whether each is right


class Life(RuleBasedStateMachine):
    """Any acts in any order; after each, the world checks itself. In the end all that was accepted is done."""

    @initialize(
        spare_cells=st.integers(0, 60),
        num_slots=st.integers(1, 6),
        spare_batch=st.integers(0, 20),
        spare_outputs=st.integers(0, 20),
        parks=st.booleans(),
    )
    def begin(self, spare_cells: int, num_slots: int, spare_batch: int, spare_outputs: int, parks: bool) -> None:
        max_batch = num_slots + spare_batch
        self.world = World(LARGEST + spare_cells, num_slots, max_batch, num_slots + spare_outputs, parks)

    @rule(order=ORDERS)
    def add(self, order: Order) -> None:
        self.world.add(order)

    @rule(budget=BUDGETS, guesses=GUESSES)
    def step(self, budget: int, guesses: list[bool]) -> None:
        self.world.step(budget, guesses)

    @rule(budget=BUDGETS, guesses=GUESSES, count=st.integers(2, 30))
    def steps(self, budget: int, guesses: list[bool], count: int) -> None:
        for _ in range(count):
            self.world.step(budget, guesses)

    @rule(budget=BUDGETS, guesses=GUESSES)
    def interrupted(self, budget: int, guesses: list[bool]) -> None:
        self.world.interrupted_step(budget, guesses)

    @rule(budget=BUDGETS, guesses=GUESSES)
    def without_room(self, budget: int, guesses: list[bool]) -> None:
        self.world.step_without_room(budget, guesses)

    @rule()
    def fail(self) -> None:
        self.world.fail()

    @rule()
    def preempt(self) -> None:
        self.world.preempt()

    @precondition(lambda self: self.world.unfinished)
    @rule(which=st.integers(0, 1000))
    def abort(self, which: int) -> None:
        sequences = list(self.world.unfinished.values())
        self.world.abort(sequences[which % len(sequences)])

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish(prefill_budget=8)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


# --- long runs -------------------------------------------------------------------------------------------------------


def random_order(dice: random.Random, client: str, most: int = 40) -> Order:
    kind = dice.choice(["plain", "plain", "plain", "scored", "shift"])
    return Order(client, dice.randrange(3), dice.randint(1, most), dice.randint(1, 20), kind)


@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_steps_with_everything_that_can_happen(seed: int) -> None:
    dice = random.Random(seed)
    world = World(num_cells=dice.choice([60, 200, 600]), num_slots=8, max_batch=32, max_outputs=16, parks=seed != 3)
    for _ in range(3000):
        if len(world.unfinished) < 30 and dice.random() < 0.3:
            world.add(random_order(dice, dice.choice("abc")))
        act = dice.random()
        guesses = [dice.random() < 0.7 for _ in range(dice.choice([0, 0, 1, 3]))]
        if act < 0.90:
            world.step(dice.choice([1, 8, 24]), guesses)
        elif act < 0.93:
            world.interrupted_step(8, guesses)
        elif act < 0.95:
            world.step_without_room(8, guesses)
        elif act < 0.97:
            world.preempt()
        elif act < 0.975:
            world.fail()
        elif world.unfinished:
            world.abort(dice.choice(list(world.unfinished.values())))
    world.finish(8)
    assert len(world.waits) > 100


@pytest.mark.parametrize("seed", range(4))
def test_nobody_starves_beside_work_that_never_ends(seed: int) -> None:
    """A heavy client always has twice as many sequences as can run; others come now and then."""
    dice = random.Random(seed)
    world = World(num_cells=dice.choice([120, 300]), num_slots=6, max_batch=24, max_outputs=12)
    waits: dict[str, list[int]] = defaultdict(list)
    for step in range(2500):
        heavy = sum(sequence.client == "heavy" for sequence in world.unfinished.values())
        for _ in range(12 - heavy):
            world.add(random_order(dice, "heavy"))
        if step % 40 == 0:
            world.add(random_order(dice, f"light {step % 3}", most=20))
        world.step(12)
        longest = max(world.now - world.arrived[number] for number in world.unfinished)
        assert longest < 400, "somebody starves"
    for number, wait in world.waits.items():
        waits[world.orders[number].client.split()[0]].append(wait)
    middle = {client: sorted(times)[len(times) // 2] for client, times in waits.items()}
    print(f"\nsteps from arrival to end, median: {middle}, longest: { {c: max(t) for c, t in waits.items()} }")
    assert middle["light"] < middle["heavy"], "the light ones wait behind the heavy one"
    assert max(waits["light"]) < 100
    world.finish(12)


@pytest.mark.parametrize(("weight", "least", "most"), [(1.0, 0.8, 1.25), (3.0, 2.2, 3.8)])
def test_two_clients_that_always_want_more_share_by_weight(weight: float, least: float, most: float) -> None:
    dice = random.Random(7)
    world = World(num_cells=1000, num_slots=8, max_batch=32, max_outputs=8)
    computed = {"one": 0, "other": 0}
    for _ in range(1200):
        for client in computed:
            while sum(sequence.client == client for sequence in world.unfinished.values()) < 10:
                order = random_order(dice, client)
                world.add(order._replace(kind="plain", weight=weight if client == "one" else 1.0))
        before = {number: sequence.num_computed_tokens for number, sequence in world.unfinished.items()}
        sequences = dict(world.unfinished)
        world.step(16)
        for number, sequence in sequences.items():
            computed[sequence.client] += max(0, sequence.num_computed_tokens - before[number])
    assert least < computed["one"] / computed["other"] < most, computed
