"""In which parts a step's batch is computed.

On a CPU, attention goes over tiles of `narrow` rows as soon as a batch has so many, and computes for all rows of a tile
whatever one of them sees: cheap for one long prompt, dear for rows of sequences that have nothing in common. So prompts
are computed apart from those who generate, and those who generate in groups that stay below.
"""

from __future__ import annotations

from collections.abc import Sequence


def parts_of(num_prompt_tokens: int, generating: Sequence[int], narrow: int) -> list[int]:
    """How many places each part has, prompts first; empty = all in one.

    `generating`: the places of each sequence that generates, its guesses among them. `narrow`: 0 = tiles or not, it
    makes no difference here.
    """
    if not narrow or not generating or num_prompt_tokens + sum(generating) < narrow:
        return []
    prompts = [num_prompt_tokens] if num_prompt_tokens else []
    parts = prompts + _groups(generating, narrow - 1)
    return parts if len(parts) > 1 else []


def _groups(generating: Sequence[int], largest: int) -> list[int]:
    """About equally large ones: steps of the same shape are built once."""
    num_groups = -(-sum(generating) // largest)
    fair = sum(generating) / num_groups
    groups = [0]
    for num_places in generating:
        if groups[-1] and (groups[-1] + num_places > largest or groups[-1] >= fair):
            groups.append(0)
        groups[-1] += num_places
    return groups
