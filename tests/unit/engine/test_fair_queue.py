from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dmr.engine.fair_queue import FairQueue
from dmr.engine.sequence import Sequence


class Crowd:
    """Makes sequences, and serves those that come first."""

    def __init__(self) -> None:
        self.queue = FairQueue()
        self._num_sequences = 0

    def add(self, client: str, num_tokens: int = 10, weight: float = 1.0) -> Sequence:
        prompt = [1] * num_tokens
        sequence = Sequence(self._num_sequences, 0, prompt, num_tokens + 1, client=client, weight=weight)
        self._num_sequences += 1
        self.queue.add(sequence)
        return sequence

    def serve(self) -> Sequence:
        """Compute the prompt of the first one, and let it go."""
        first = next(iter(self.queue))
        self.queue.take(first)
        self.queue.charge(first, first.num_tokens)
        self.queue.forget(first)
        return first


def test_one_client_is_served_in_the_order_of_arrival() -> None:
    crowd = Crowd()
    sequences = [crowd.add("a") for _ in range(5)]
    assert list(crowd.queue) == sequences
    assert [crowd.serve() for _ in range(5)] == sequences
    assert not crowd.queue


def test_a_short_prompt_passes_a_long_one_of_the_same_client() -> None:
    crowd = Crowd()
    long, short = crowd.add("a", 1000), crowd.add("a", 10)
    assert list(crowd.queue) == [short, long]


def test_short_prompts_that_keep_coming_do_not_starve_a_long_one() -> None:
    crowd = Crowd()
    long = crowd.add("a", 1000)
    served = []
    while long not in served:
        crowd.add("a", 10)
        served.append(crowd.serve())
    assert 90 <= len(served) <= 101  # as much as the long one costs itself


def test_two_clients_take_turns_however_much_one_of_them_asks_for() -> None:
    crowd = Crowd()
    for _ in range(50):
        crowd.add("heavy")
    for _ in range(5):
        crowd.add("light")
    served = Counter(crowd.serve().client for _ in range(10))
    assert served == {"heavy": 5, "light": 5}


def test_turns_are_measured_in_tokens() -> None:
    crowd = Crowd()
    for _ in range(20):
        crowd.add("long", 100)
        crowd.add("short", 10)
    tokens: Counter[str] = Counter()
    for _ in range(22):
        served = crowd.serve()
        tokens[served.client] += served.num_tokens
    assert abs(tokens["long"] - tokens["short"]) <= 100


def test_a_weight_is_a_share() -> None:
    crowd = Crowd()
    for _ in range(40):
        crowd.add("heavy", weight=3.0)
        crowd.add("light")
    served = Counter(crowd.serve().client for _ in range(40))
    assert served == {"heavy": 30, "light": 10}


def test_who_comes_late_has_no_credit_and_no_debt() -> None:
    crowd = Crowd()
    for _ in range(100):
        crowd.add("early")
    for _ in range(50):
        crowd.serve()
    for _ in range(20):
        crowd.add("late")
    served = Counter(crowd.serve().client for _ in range(20))
    assert served == {"early": 10, "late": 10}


def test_who_ran_already_comes_before_its_clients_others() -> None:
    crowd = Crowd()
    first, second, third = (crowd.add("a") for _ in range(3))
    crowd.queue.take(first)
    crowd.queue.take(second)
    assert crowd.queue.num_running("a") == 2
    crowd.queue.put_back(second)
    crowd.queue.put_back(first)
    assert list(crowd.queue) == [first, second, third]
    crowd.queue.take(second)
    assert list(crowd.queue) == [first, third]


def test_heads_are_some_of_each_client() -> None:
    crowd = Crowd()
    many = [crowd.add("a") for _ in range(9)]
    one = crowd.add("b")
    assert list(crowd.queue.heads(2)) == [*many[:2], one]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 200), st.sampled_from(["add", "serve", "return", "abort"])),
        max_size=80,
    )
)
def test_nothing_is_lost_or_served_twice(actions: list[tuple[str, int, str]]) -> None:
    crowd = Crowd()
    waiting: set[Sequence] = set()
    running: list[Sequence] = []
    for client, num_tokens, action in actions:
        if action == "add":
            waiting.add(crowd.add(client, num_tokens))
        elif action == "serve" and waiting:
            first = next(iter(crowd.queue))
            crowd.queue.take(first)
            crowd.queue.charge(first, first.num_tokens)
            waiting.remove(first)
            running.append(first)
        elif action == "return" and running:
            crowd.queue.put_back(running[-1])
            waiting.add(running.pop())
        elif action == "abort" and waiting:
            victim = min(waiting, key=lambda sequence: sequence.id)
            crowd.queue.take(victim)
            crowd.queue.forget(victim)
            waiting.remove(victim)
        assert set(crowd.queue) == waiting
        assert len(crowd.queue) == len(waiting) == len(list(crowd.queue))
        for sequence in running:
            assert crowd.queue.num_running(sequence.client) == sum(s.client == sequence.client for s in running)
