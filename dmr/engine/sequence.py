"""A sequence: one choice of one request, from its prompt to its last token."""

from __future__ import annotations


class Sequence:
    """Tokens and how many of them are computed. Bookkeeping only; who holds it decides what happens next.

    There is no prefill phase and no decode phase: each step lets `num_computed_tokens` catch up with `num_tokens`.

    Invariants: `num_computed_tokens <= num_tokens <= max_length`; `slot` is set exactly while KV cells are held.
    """

    __slots__ = (
        "id",
        "index",
        "max_length",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_failed_steps",
        "num_prompt_tokens",
        "slot",
        "token_ids",
    )

    def __init__(self, sequence_id: int, index: int, prompt: list[int], max_length: int) -> None:
        assert prompt, "a sequence needs at least one token"
        assert len(prompt) < max_length, "a sequence needs room for at least one new token"
        self.id = sequence_id
        self.index = index  # of the choice within its request
        self.token_ids = prompt
        self.num_prompt_tokens = len(prompt)
        self.num_computed_tokens = 0
        self.num_cached_tokens = -1  # of the prompt, shared with others instead of computed; -1 = not admitted yet
        self.num_failed_steps = 0  # since its last new token
        self.max_length = max_length  # prompt and answer together
        self.slot: int | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_completion_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def is_full(self) -> bool:
        return len(self.token_ids) >= self.max_length

    def append(self, token: int) -> None:
        self.token_ids.append(token)
        self.num_failed_steps = 0

    def __repr__(self) -> str:
        return f"Sequence({self.id}, {self.num_computed_tokens}/{self.num_tokens} tokens, slot {self.slot})"
