"""A KV cache that saves what it parks, on a memory of cells that know their tokens."""

from __future__ import annotations

from unit.engine.cell_memory import CellMemory

from dmr.engine.host_cache import HostCache, TransferCosts
from dmr.engine.kv_cache import KVCache, Restore, Save, Sharing
from dmr.engine.sequence import Sequence


class Tier:
    """Each act is a step of its own."""

    def __init__(
        self,
        num_cells: int = 400,
        num_slots: int = 6,
        *,
        max_bytes: int = 10**6,
        max_parked_cells: int = 0,
        sharing: Sharing = Sharing.ANYWHERE,
    ) -> None:
        self.costs = TransferCosts()
        self.host = HostCache(max_bytes, self.costs, saves_whole=sharing is Sharing.AT_END)
        self.cache = KVCache(num_cells, num_slots, sharing, max_parked_cells=max_parked_cells, host=self.host)
        self.memory = CellMemory(is_whole=sharing is Sharing.AT_END)
        self.running: list[Sequence] = []
        self.num_sequences = 0

    def step(self) -> None:
        self.cache.settle()
        self.memory.perform(self.cache.take_operations())
        self.cache.check_integrity(self.running)

    def idle(self) -> None:
        for _ in range(100):
            operations = self.cache.idle_operations()
            self.memory.perform(operations)
            self.cache.check_integrity(self.running)
            if not operations:
                return
        raise AssertionError("no end of idle work")

    def new(self, tokens: list[int]) -> Sequence:
        self.num_sequences += 1
        return Sequence(self.num_sequences, 0, list(tokens), 10_000)

    def run(self, tokens: list[int]) -> Sequence:
        """Compute a sequence as a scheduler would; it runs when this returns."""
        one = self.new(tokens)
        for _ in range(100):
            self.cache.settle()
            match = self.cache.match(one)
            is_coming = self.cache.under_way(one, match) is not None or self.cache.fetch(one, match)
            if not is_coming:
                break
            self.step()
        else:
            raise AssertionError("what was to come never came")
        self.cache.open(one, match)
        one.num_cached_tokens = one.num_computed_tokens
        while one.num_uncomputed_tokens:
            num_tokens = self.cache.stop_at_checkpoint(one, one.num_uncomputed_tokens)
            self.cache.allocate(one, num_tokens)
            self.memory.perform(self.cache.take_operations())
            assert one.slot is not None
            start = one.num_computed_tokens
            self.memory.add(one.slot, start, one.token_ids[start : start + num_tokens])
            one.num_computed_tokens += num_tokens
            self.cache.settle()
        assert one.slot is not None
        assert self.memory.tokens(one.slot) == one.token_ids, "foreign cells"
        self.running.append(one)
        self.cache.check_integrity(self.running)
        return one

    def leave(self, one: Sequence) -> None:
        self.cache.close(one)
        self.running.remove(one)
        self.cache.check_integrity(self.running)

    def visit(self, tokens: list[int]) -> int:
        """Run and leave; how many tokens were cached."""
        one = self.run(tokens)
        self.leave(one)
        return one.num_cached_tokens


def conversation(number: int, length: int = 200) -> list[int]:
    return list(range(1000 * number, 1000 * number + length))


def test_what_left_the_pool_comes_back_from_the_host() -> None:
    tier = Tier()
    assert tier.visit(conversation(1)) == 0
    tier.idle()
    assert tier.memory.num_used == 0  # nothing may stay parked, and it need not
    assert tier.visit([*conversation(1), 5]) == 200
    assert tier.memory.num_restored == 200
    assert (tier.host.num_hits, tier.host.num_restored_tokens, tier.host.num_saved_tokens) == (1, 200, 200)


def test_the_front_comes_from_the_pool_and_the_rest_from_the_host() -> None:
    tier = Tier(max_parked_cells=120)
    tier.visit(conversation(1))
    tier.idle()
    kept = tier.memory.num_used
    assert 100 < kept <= 120
    assert tier.visit([*conversation(1), 5]) == 200
    assert tier.memory.num_restored == 200 - kept


def test_a_shared_front_is_saved_once() -> None:
    tier = Tier()
    front = conversation(9, 150)
    for number in range(4):
        tier.visit([*front, *conversation(number, 100)])
        tier.idle()
    assert tier.host.num_saved_tokens == 150 + 4 * 100
    assert tier.visit([*front, *conversation(2, 100), 7]) == 250


def test_saving_goes_on_beside_the_steps_in_slices() -> None:
    tier = Tier(num_cells=4000)
    tier.visit(conversation(1, 1000))
    tier.costs.observe_transfer(num_bytes=1000, num_tokens=100, seconds=0.004)
    busy = tier.run(conversation(2, 10))
    sizes = []
    tier.cache.settle()
    first = tier.host.num_saved_tokens
    for _ in range(50):
        tier.cache.settle()
        operations = tier.cache.take_operations()
        saves = [operation for operation in operations if isinstance(operation, Save)]
        assert len(saves) <= 1
        sizes += [save.end - save.begin for save in saves]
        tier.memory.perform(operations)
    assert max(sizes) <= 128
    assert sum(sizes) + first == tier.host.num_saved_tokens >= 1000 - 32
    tier.leave(busy)


def test_nothing_is_saved_as_long_as_there_is_plenty_of_room() -> None:
    tier = Tier(num_cells=1000, num_slots=20, max_parked_cells=1000)
    tier.visit(conversation(1))
    tier.idle()
    assert tier.host.num_saved_tokens == 0
    tier.visit(conversation(2, 400))
    tier.idle()
    assert tier.host.num_saved_tokens > 550


def test_what_is_saved_makes_way_for_who_runs_and_stays_for_who_goes_on() -> None:
    tier = Tier(num_cells=4000, num_slots=20, max_parked_cells=800)
    for number in (1, 2, 3):
        tier.visit(conversation(number))
        tier.idle()
    assert tier.memory.num_used == 200  # the last one
    busy = tier.run(conversation(4, 50))
    assert tier.memory.num_used == 50
    tier.leave(busy)
    tier.idle()
    assert tier.visit([*conversation(4, 50), 5]) == 50  # the last one is still in the pool
    assert tier.memory.num_restored == 0
    assert tier.visit([*conversation(1), 5]) == 200  # and the others come back


def test_what_is_not_saved_yet_makes_no_way() -> None:
    tier = Tier(num_cells=4000, num_slots=20, max_parked_cells=800)
    tier.visit(conversation(1))
    tier.visit(conversation(2))
    busy = tier.run(conversation(3, 50))
    assert tier.memory.num_used == 450
    tier.leave(busy)


def test_who_fails_to_get_it_back_computes_it() -> None:
    tier = Tier()
    tier.visit(conversation(1))
    tier.idle()
    tier.memory.fails = lambda operation: isinstance(operation, Restore) and operation.begin > 0
    cached = tier.visit([*conversation(1), 5])
    assert cached == tier.memory.num_restored
    assert 0 < cached < 200
    tier.memory.fails = lambda operation: True
    assert tier.visit(conversation(3)) == 0
    tier.idle()
    assert tier.host.num_hits == 1


def test_what_cannot_be_saved_is_let_go() -> None:
    tier = Tier()
    tier.memory.fails = lambda operation: isinstance(operation, Save)
    tier.visit(conversation(1))
    tier.idle()
    assert (tier.memory.num_used, tier.host.num_bytes) == (0, 0)
    small = Tier(max_bytes=10)
    small.visit(conversation(1))
    small.idle()
    assert (small.memory.num_used, small.host.num_bytes) == (0, 0)


def test_restoring_that_is_no_faster_than_computing_is_not_done() -> None:
    tier = Tier()
    tier.visit(conversation(1))
    tier.idle()
    tier.costs.observe_transfer(num_bytes=10, num_tokens=1, seconds=1.0)
    tier.costs.observe_step(num_tokens=1, seconds=1.0)
    assert tier.visit([*conversation(1), 5]) == 0


def test_others_with_the_same_front_wait_for_it_too() -> None:
    tier = Tier()
    tier.visit(conversation(1))
    tier.idle()
    one, other = tier.new([*conversation(1), 5]), tier.new([*conversation(1), 6])
    assert tier.cache.fetch(one, tier.cache.match(one))
    assert tier.cache.under_way(other, tier.cache.match(other)) is one
    tier.step()
    tier.step()
    assert tier.cache.under_way(other, tier.cache.match(other)) is None
    assert tier.cache.match(other).num_tokens == 200
    assert not tier.cache.fetch(one, tier.cache.match(one))
    tier.step()  # nothing may stay parked, but this is awaited
    assert tier.memory.num_used == 200
    tier.cache.open(one, tier.cache.match(one))
    tier.running.append(one)
    tier.leave(one)
    tier.idle()
    assert tier.memory.num_used == 0


def test_a_full_native_memory_ends_what_is_being_brought_back() -> None:
    tier = Tier()
    tier.visit(conversation(1))
    tier.idle()
    one = tier.new([*conversation(1), 5])
    assert tier.cache.fetch(one, tier.cache.match(one))
    tier.memory.perform(tier.cache.take_operations())
    assert tier.cache.has_parked
    tier.cache.drop_parked()
    tier.memory.perform(tier.cache.take_operations())
    assert not tier.cache.has_parked
    assert tier.memory.num_used == 0
    tier.cache.check_integrity([])
    tier.cache.forget_all()
    assert tier.host.num_bytes == 0


def test_a_memory_of_wholes_is_saved_and_restored_as_a_whole() -> None:
    tier = Tier(sharing=Sharing.AT_END)
    tier.visit(conversation(1))
    tier.idle()
    assert tier.memory.num_used == 0
    assert tier.visit([*conversation(1, 199), 5, 6]) == 199  # where the prompt's last token began
    assert tier.memory.num_restored == 199
    assert tier.visit([*conversation(1, 150), 5, 6]) == 0
