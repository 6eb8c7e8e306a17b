"""Several clients on one engine."""

from __future__ import annotations

from dmr.engine.kv_cache import KVCache
from dmr.engine.scheduler import Chunk, Scheduler
from dmr.engine.sequence import Sequence


class Bench:
    """A scheduler with a model that generates for ever."""

    def __init__(self, num_cells: int = 10_000, max_num_seqs: int = 4, max_batch: int = 64) -> None:
        self.scheduler = Scheduler(KVCache(num_cells, 2 * max_num_seqs), max_num_seqs, max_batch)
        self._num_sequences = 0

    def add(self, client: str, num_tokens: int = 10, max_new: int = 500) -> Sequence:
        # Prompts have nothing in common.
        prompt = [self._num_sequences] * num_tokens
        sequence = Sequence(self._num_sequences, 0, prompt, num_tokens + max_new, client=client)
        self._num_sequences += 1
        self.scheduler.add(sequence)
        return sequence

    def step(self, prefill_budget: int = 32) -> list[Chunk]:
        chunks = self.scheduler.schedule(prefill_budget).chunks
        for chunk in chunks:
            if chunk.wants_output:
                chunk.sequence.append(0)
            if chunk.sequence.is_done:
                self.scheduler.remove(chunk.sequence)
        self.scheduler.check_integrity()
        return chunks

    def steps_until_first_token(self, sequence: Sequence) -> int:
        for number in range(1, 200):
            self.step()
            if sequence.num_completion_tokens:
                return number
        raise AssertionError("it starved")


def test_a_light_client_does_not_wait_for_the_places_of_a_heavy_one() -> None:
    bench = Bench(max_num_seqs=4)
    heavy = [bench.add("heavy") for _ in range(16)]
    for _ in range(20):
        bench.step()
    light = bench.add("light", max_new=5)
    assert bench.steps_until_first_token(light) <= 2
    assert bench.scheduler.num_preemptions == 1
    assert sum(sequence.slot is not None for sequence in heavy) == 3


def test_who_made_way_comes_back_first_and_computes_next_to_nothing_again() -> None:
    bench = Bench(max_num_seqs=2)
    first, second = bench.add("heavy"), bench.add("heavy")
    bench.add("heavy")
    for _ in range(50):
        bench.step()
    light = bench.add("light", max_new=5)
    bench.steps_until_first_token(light)
    assert (first.slot is None, second.slot is None) == (False, True)
    computed = second.num_tokens
    while second.slot is None:
        chunks = bench.step()
    assert [chunk.num_tokens for chunk in chunks if chunk.sequence is second] == [1]
    assert second.num_tokens == computed + 1
    assert bench.scheduler.num_preemptions == 1


def test_clients_with_one_sequence_each_do_not_drive_each_other_out() -> None:
    bench = Bench(max_num_seqs=4)
    sequences = [bench.add(f"client {number}", max_new=30) for number in range(12)]
    for _ in range(200):
        bench.step()
    assert bench.scheduler.num_preemptions == 0
    assert all(sequence.is_done for sequence in sequences)


def test_a_light_client_gets_the_cells_of_a_heavy_one() -> None:
    bench = Bench(num_cells=400, max_num_seqs=4)
    for _ in range(8):
        bench.add("heavy", num_tokens=90, max_new=200)
    for _ in range(5):
        bench.step()
    light = bench.add("light", num_tokens=60, max_new=5)
    assert bench.steps_until_first_token(light) <= 6


def test_a_short_prompt_of_another_client_passes_a_long_one_that_has_begun() -> None:
    bench = Bench(max_batch=64)
    long = bench.add("heavy", num_tokens=2000)
    bench.step()
    short = bench.add("light", num_tokens=40)
    bench.step()
    assert short.num_completion_tokens == 1
    assert long.num_computed_tokens == 64 + 24


def test_long_prompts_of_two_clients_get_on_alike() -> None:
    bench = Bench(max_batch=64)
    one, other = bench.add("one", num_tokens=1000), bench.add("other", num_tokens=1000)
    for _ in range(10):
        bench.step()
        assert abs(one.num_computed_tokens - other.num_computed_tokens) <= 64


def test_with_constant_short_work_a_long_prompt_still_gets_its_turn() -> None:
    bench = Bench(max_batch=64, max_num_seqs=8)
    long = bench.add("a", num_tokens=600, max_new=1)
    for _ in range(60):
        bench.add("a", num_tokens=64, max_new=1)
        bench.step()
        if long.is_done:
            return
    raise AssertionError("it starved")
