"""How many cells are in use, and by whom. Counts only.

Whatever is held is a beginning, so what several hold in common is too: the runs of cells form trees, and to hold a run
is to hold all above it. A holder therefore needs to know its last run only, and whoever joins or leaves touches no more
of the tree than changes hands.
"""

from __future__ import annotations

MAX_HITS = 16  # that count; so what was in demand once is forgotten in the end


class Run:
    """Cells of consecutive tokens that are held together."""

    __slots__ = ("hits", "last_used", "length", "num_active", "num_holders", "parent", "priority")

    def __init__(self, length: int, parent: Run | None) -> None:
        self.length = length
        self.parent = parent  # the cells of the tokens before
        self.num_holders = 1  # whose last run it is, and the runs below
        self.num_active = 0  # of them, those that a running sequence has a part in
        self.hits = 0  # how often it was used again, `MAX_HITS` at most
        self.priority = 0  # the lowest goes first
        self.last_used = 0  # of two with the same priority, the one that was used longer ago goes first


class Cells:
    """Invariants: `num_used` is the length of all runs, `num_active` of those that a running sequence has.

    What is worth keeping: each cell costs the same to compute again, so a run is worth how often it is used. Its
    priority is one more than its hits, on top of the age when it was used last. The age is the priority of what had to
    go last: so what was used often outlives so many generations of what nobody asked for again, and no more.
    """

    def __init__(self) -> None:
        self.num_used = 0
        self.num_active = 0
        self._age = 0
        self._now = 0  # counts uses

    def extend(self, run: Run | None, num_cells: int) -> Run:
        """Take cells after those of an active holder; its last run."""
        if run is None or run.num_holders > 1:
            run = Run(0, run)  # which holds its parent in the holder's place
            run.num_active = 1
            run.priority, run.last_used = self._age + 1, self._now
        run.length += num_cells
        self.num_used += num_cells
        self.num_active += num_cells
        return run

    def shorten(self, run: Run, num_cells: int) -> Run | None:
        """Give back the last cells of a run that nobody else has; the holder's last run from now on."""
        assert run.num_holders == 1, "these cells have other holders"
        assert num_cells <= run.length, "more cells than the run has"
        run.length -= num_cells
        self.num_used -= num_cells
        if run.num_active:
            self.num_active -= num_cells
        return run if run.length else run.parent

    def share(self, run: Run, num_over: int) -> Run:
        """Hold what the run and all above it hold, but not the last `num_over` cells; inactive, the last run of it."""
        while num_over >= run.length:
            num_over -= run.length
            assert run.parent is not None, "no cell is left to share"
            run = run.parent
        if num_over:
            upper = Run(run.length - num_over, run.parent)
            upper.num_active = min(1, run.num_active)
            upper.hits, upper.priority, upper.last_used = run.hits, run.priority, run.last_used
            run.length, run.parent = num_over, upper
            run = upper
        run.num_holders += 1
        return run

    def release(self, run: Run | None) -> None:
        """Hold a run no longer, and no other above it. The holder must be inactive."""
        while run is not None:
            run.num_holders -= 1
            if run.num_holders:
                return
            self.num_used -= run.length
            run = run.parent

    def activate(self, run: Run | None) -> None:
        """A holder of the run belongs to a running sequence now."""
        while run is not None:
            run.num_active += 1
            if run.num_active > 1:
                return
            self.num_active += run.length
            run = run.parent

    def deactivate(self, run: Run | None) -> None:
        while run is not None:
            run.num_active -= 1
            if run.num_active:
                return
            self.num_active -= run.length
            run = run.parent

    def use(self, run: Run | None, is_hit: bool) -> None:
        """The run and all above it are in use now; a hit spares somebody computing them."""
        self._now += 1
        while run is not None:
            run.hits = min(MAX_HITS, run.hits + is_hit)
            run.priority, run.last_used = self._age + 1 + run.hits, self._now
            run = run.parent

    def grow_old(self, run: Run) -> None:
        """The run has to go: what is used from now on is worth more than what was used before."""
        self._age = max(self._age, run.priority)

    def value(self, run: Run | None) -> tuple[int, int]:
        """What is lost with a parked holder: the cells that it alone has, by their worth; and when it was used."""
        last_used = run.last_used if run is not None else 0
        worth = 0
        while run is not None and run.num_holders == 1:
            worth += run.length * max(1, run.priority - self._age)
            run = run.parent
        return worth, last_used

    def check_integrity(self, active: list[Run | None], parked: list[Run | None]) -> None:
        """Raises AssertionError when the counts are not those of exactly these holders, given by their last runs."""
        holders, active_holders = _count_holders([*active, *parked]), _count_holders(active)
        assert all(run.length > 0 for run in holders), "a run without cells"
        assert all(run.num_holders == number for run, number in holders.items()), "holders are miscounted"
        assert all(run.num_active == active_holders.get(run, 0) for run in holders), "active holders are miscounted"
        assert self.num_used == sum(run.length for run in holders), "the sum of used cells is wrong"
        assert self.num_active == sum(run.length for run in active_holders), "the sum of active cells is wrong"


def num_inactive(run: Run, num_over: int) -> int:
    """How many cells of the run and all above it, without the last `num_over`, no running sequence has."""
    count, step = -num_over, run
    while not step.num_active:
        count += step.length
        if step.parent is None:
            break
        step = step.parent
    return max(0, count)


def length_of(run: Run | None) -> int:
    """The cells of a run and all above it."""
    length = 0
    while run is not None:
        length += run.length
        run = run.parent
    return length


def _count_holders(last_runs: list[Run | None]) -> dict[Run, int]:
    """For each run whose last run it is of how many, and how many runs below it there are."""
    holders: dict[Run, int] = {}
    runs = [run for run in last_runs if run is not None]
    while runs:
        run = runs.pop()
        if run not in holders and run.parent is not None:
            runs.append(run.parent)
        holders[run] = holders.get(run, 0) + 1
    return holders
