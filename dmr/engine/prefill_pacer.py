"""How many prompt tokens a step may take while others generate, from what steps have cost so far."""

from __future__ import annotations

LEARNING_RATE = 0.2  # one odd step moves an estimate a little, a lasting change all the way
LEAST_TELLING = 16  # prompt tokens of a step that tell what one costs
STRETCH = 2  # of the target, while more wait for their first token than for their next one


class PrefillPacer:
    """Keeps steps within a target, so that the tokens of running streams come evenly.

    A step costs what its generating sequences cost, and a price for each prompt token beside them. Both are measured.
    """

    def __init__(self, target: float, smallest: int, largest: int, block: int = 1) -> None:
        """`target`: seconds a step may last. About `smallest` prompt tokens are always granted, so that prompts get on.

        `block`: tokens of a step, generated ones among them, that the kernels take at a time: one more than so many
        would cost as much as a whole block. A step gets the nearest multiple.
        """
        self._target = target
        self._smallest = smallest
        self._largest = largest
        self._block = block
        self._generating: dict[int, float] = {}  # seconds of a step without prompts, by its number of sequences
        self._price = 0.0  # seconds of a prompt token; 0 = not known

    def budget(self, num_generating: int, num_at_prompt: int = 0) -> int:
        """Prompt tokens for a step in which so many sequences generate, and so many wait for their first token."""
        if self._price == 0.0:
            return self._in_blocks(self._smallest, num_generating)
        target = self._target * (STRETCH if num_at_prompt > num_generating else 1)
        left = target - self._seconds_of(num_generating)
        return self._in_blocks(int(max(self._smallest, min(self._largest, left / self._price))), num_generating)

    def _in_blocks(self, budget: int, num_generating: int) -> int:
        blocks = max(round((budget + num_generating) / self._block), num_generating // self._block + 1)
        return min(self._largest, blocks * self._block - num_generating)

    def expected(self, num_prompt_tokens: int, num_generating: int) -> float:
        """Seconds that such a step should take; 0 = not known."""
        generating = self._seconds_of(num_generating)
        if (num_prompt_tokens and not self._price) or (num_generating and not generating):
            return 0.0
        return num_prompt_tokens * self._price + generating

    def observe(self, num_prompt_tokens: int, num_generating: int, seconds: float) -> None:
        """What a step took. Few prompt tokens tell little: their cost is mostly that of reading the weights."""
        if num_prompt_tokens >= LEAST_TELLING:
            paid = max(seconds - self._seconds_of(num_generating), 0.1 * seconds)
            self._price = _towards(self._price, paid / num_prompt_tokens)
        elif num_prompt_tokens == 0 and num_generating:
            self._generating[num_generating] = _towards(self._generating.get(num_generating, 0.0), seconds)

    def _seconds_of(self, num_generating: int) -> float:
        """As measured, or as measured for the nearest number, in proportion where that was larger."""
        if not num_generating or not self._generating:
            return 0.0
        if num_generating not in self._generating:
            nearest = min(self._generating, key=lambda known: abs(known - num_generating))
            return self._generating[nearest] * min(1.0, num_generating / nearest)
        return self._generating[num_generating]


def _towards(known: float, measured: float) -> float:
    return measured if known == 0.0 else (1 - LEARNING_RATE) * known + LEARNING_RATE * measured
