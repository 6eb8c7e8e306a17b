"""How many guesses a step should verify: as many as give the most tokens in a second, by what was measured so far.

Bookkeeping only, without a clock: whoever asks tells how long steps took and how many guesses were right.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from operator import mul

COST_RATE = 0.3  # one odd step moves an estimate a little, a lasting change all the way
ACCEPTANCE_RATE = 0.2  # the same for how often guesses are right
PRIOR_RATE = 0.05  # the same for what is learned from all sequences together
LARGEST_JUMP = 4.0  # times the estimate; what took longer was held up by something else
FIRST_CHANCE, NEXT_CHANCE = 0.5, 0.8  # of a guess, as long as nothing is known: the first, and one after a right one
LEAST_GAIN = 1.05  # times the speed without guesses: less is within what measuring gets wrong
MOST_GUESSES = 64  # in one step, of all sequences
EXACT_SIZES = 16  # tokens; steps of up to so many are told apart by each token
PROBE_SHARE = 1 / 64  # of the time may go into finding out whether guesses pay by now
PROBE_INTERVAL = 32  # steps between two tries at least
HOPELESS = 0.9  # times the speed without guesses; where a try promises no more, the next one comes later
MOST_PATIENCE = 8  # times later
CHECK_INTERVAL = 64  # steps with guesses after which none are tried, and then more of them
AGEING = 0.99  # what an estimate counts for after a step in which it was not measured
RECENT = 8  # steps after which a size that was measured again tells that the device has become faster or slower
PACE_RATE = 0.2  # of such a change that goes into what is known of all other sizes


class StepCost:
    """Seconds of a step by its number of tokens. What lies between two known sizes is on a straight line.

    One line for all sizes would be wrong: a device that is bound by its memory computes a few tokens in the time of
    one, and kernels for one token are others than those for several.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []  # ascending
        self._seconds: list[float] = []
        self._measured: list[int] = []  # by place: the number of the step that measured it last
        self._num_steps = 0

    @property
    def largest(self) -> int:
        """The largest size that is known; 0 = none is."""
        return self._sizes[-1] if self._sizes else 0

    def knows(self, num_tokens: int) -> bool:
        """Whether a step of this size or of a smaller one has been measured."""
        return bool(self._sizes) and self._sizes[0] <= _size_class(num_tokens)

    def observe(self, num_tokens: int, seconds: float) -> None:
        if num_tokens == 0 or seconds <= 0.0:  # it only moved cells, or was shorter than the clock can tell
            return
        size = _size_class(num_tokens)
        place = bisect_left(self._sizes, size)
        seconds *= size / num_tokens
        if place < len(self._sizes) and self._sizes[place] == size:
            known, age = self._seconds[place], self._num_steps - self._measured[place]
            ratio = min(seconds / known, LARGEST_JUMP)
            if age <= RECENT:
                change = 1 + PACE_RATE * (ratio - 1)
                self._seconds = [each * change for each in self._seconds]
            self._seconds[place] = known * (1 + max(COST_RATE, 1 - AGEING**age) * (ratio - 1))
            self._measured[place] = self._num_steps
        else:
            self._sizes.insert(place, size)
            self._seconds.insert(place, seconds)
            self._measured.insert(place, self._num_steps)
        self._num_steps += 1

    def seconds(self, num_tokens: int) -> float:
        """An estimate. Beyond the largest known size it is that one's, so that a larger one is worth a try."""
        sizes, seconds = self._sizes, self._seconds
        place = bisect_left(sizes, num_tokens)
        if place == len(sizes):
            return seconds[-1] if seconds else 0.0
        if place == 0 or sizes[place] == num_tokens:
            return seconds[place]
        low, high = sizes[place - 1], sizes[place]
        part = (num_tokens - low) / (high - low)
        return seconds[place - 1] + part * (seconds[place] - seconds[place - 1])


class Acceptance:
    """How often guesses are right, by their source and place. A place counts when all before it were right."""

    def __init__(self, prior: Acceptance | None = None) -> None:
        """`prior`: what holds for a source of which nothing is known here."""
        self._prior = prior
        self._rate = PRIOR_RATE if prior is None else ACCEPTANCE_RATE
        self._by_source: dict[int, list[float]] = {}

    def observe(self, source: int, num_drafted: int, num_right: int) -> None:
        """`num_right`: of those drafted, how many were right before the first wrong one."""
        if self._prior is not None:
            self._prior.observe(source, num_drafted, num_right)
        places = self._by_source.setdefault(source, [])
        places += self._known(source, num_drafted)[len(places) :]
        for place in range(min(num_drafted, num_right + 1)):
            places[place] += self._rate * ((1.0 if place < num_right else 0.0) - places[place])

    def chances(self, source: int, count: int) -> list[float]:
        """Of each of the first `count` guesses, that it and all before it are right."""
        return list(accumulate(self._known(source, count), mul))

    def _known(self, source: int, count: int) -> list[float]:
        places = self._by_source.get(source, [])[:count]
        if len(places) < 2 and self._prior is not None:
            return places + self._prior._known(source, count)[len(places) :]
        # A place where nobody has been is worth a try as long as one before it is.
        following = max(places[1:], default=NEXT_CHANCE)
        return ((places or [FIRST_CHANCE]) + [following] * count)[:count]


class SpeculationPolicy:
    def __init__(self, target: float) -> None:
        """`target`: seconds that a step may last for the sake of guesses, or twice what it lasts without."""
        self.cost = StepCost()
        self._target = target
        self._credit = 0.0  # seconds that probes may cost
        self._num_with_guesses = 0  # steps, since the last one without
        self._num_without = 0  # steps, since the last one with guesses
        self._patience = 1

    def choose(self, num_tokens: int, chances: Sequence[Sequence[float]], seconds_per_round: float = 0.0) -> list[int]:
        """How many guesses to verify for each of those that could have some.

        `num_tokens`: what the step has without guesses; each of them gives one new token. `chances`: for each, those
        of its guesses, as `Acceptance` tells them. `seconds_per_round`: what a guess costs to make; those at the same
        place of all sequences are made together.
        """
        # Those likeliest to be right come first, and none before one that it stands on.
        order = sorted(
            ((-chance, index) for index, each in enumerate(chances) for chance in each), key=lambda item: item[0]
        )[:MOST_GUESSES]
        lengths = [0] * len(chances)
        num_guesses = self._num_worth(num_tokens, order, len(chances), seconds_per_round)
        for _, index in order[:num_guesses]:
            lengths[index] += 1
        return lengths

    def _num_worth(
        self, num_tokens: int, order: list[tuple[float, int]], num_sequences: int, seconds_per_round: float
    ) -> int:
        """How many of the guesses, in this order, the step should have."""
        if not order or not self.cost.knows(num_tokens):
            return 0
        plain = self.cost.seconds(num_tokens)
        longest = max(self._target, 2 * plain)
        largest = 2 * self.cost.largest  # what nobody has tried is approached in steps
        best, best_gain, best_loss = 0, 0.0, 0.0
        expected = float(num_tokens)
        lengths = [0] * num_sequences
        most = num_rounds = 0
        for number, (chance, index) in enumerate(order, 1):
            size = num_tokens + number
            seconds = self.cost.seconds(size)
            # At worst, each token beyond what is known takes as much as each of that.
            if size > largest or seconds * max(1.0, 2 * size / largest) > longest:
                break
            most = number
            expected -= chance  # it is negative there, so that the likeliest come first
            lengths[index] += 1
            num_rounds = max(num_rounds, lengths[index])
            seconds += seconds_per_round * num_rounds
            in_plain_steps = plain * expected / num_tokens  # what the same tokens would take
            if in_plain_steps > best_gain * seconds:
                best, best_gain, best_loss = number, in_plain_steps / seconds, seconds - in_plain_steps
        if best_gain >= LEAST_GAIN:
            return self._checked(best, most)
        return best if self._may_probe(plain, best_loss, best_gain) else 0

    def _checked(self, num_guesses: int, most: int) -> int:
        """Other numbers now and then: what steps take with those must not be forgotten."""
        self._num_without, self._patience = 0, 1
        self._num_with_guesses += 1
        if self._num_with_guesses == CHECK_INTERVAL:
            return 0
        if self._num_with_guesses > CHECK_INTERVAL:
            self._num_with_guesses = 0
            return min(2 * num_guesses, most)
        return num_guesses

    def _may_probe(self, plain: float, loss: float, gain: float) -> bool:
        """True now and then: a try costs `loss` seconds, and what all of them cost is a small part of the time."""
        self._num_with_guesses = 0
        self._num_without += 1
        self._credit += PROBE_SHARE * plain
        if self._credit < self._patience * loss or self._num_without < self._patience * PROBE_INTERVAL:
            return False
        self._num_without, self._credit = 0, 0.0
        self._patience = min(2 * self._patience, MOST_PATIENCE) if gain < HOPELESS else 1
        return True


def _size_class(num_tokens: int) -> int:
    """Steps of about the same size count as one."""
    size = EXACT_SIZES
    if num_tokens <= size:
        return num_tokens
    while size * 5 // 4 <= num_tokens:
        size = size * 5 // 4
    return size
