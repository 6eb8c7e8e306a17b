"""A sequence: one choice of one request, from its prompt to its last token."""

from __future__ import annotations

from dmr.engine.media_spans import MediaSpans


class Sequence:
    """Tokens and how many of them are computed. Bookkeeping only; who holds it decides what happens next.

    There is no prefill phase and no decode phase: each step lets `num_computed_tokens` catch up with `num_tokens`.

    Invariants: `num_computed_tokens <= num_tokens <= max_length`; `slot` is set exactly while KV cells are held.
    """

    __slots__ = (
        "client",
        "dropped_token_ids",
        "id",
        "index",
        "max_length",
        "max_new_tokens",
        "media",
        "num_cached_tokens",
        "num_completion_tokens",
        "num_computed_tokens",
        "num_failed_steps",
        "num_prompt_tokens",
        "num_scored_tokens",
        "num_told_tokens",
        "shift",
        "slot",
        "token_ids",
        "weight",
    )

    def __init__(
        self,
        sequence_id: int,
        index: int,
        prompt: list[int],
        max_length: int,
        *,
        max_new_tokens: int | None = None,
        shift: int | None = None,
        is_scored: bool = False,
        client: str = "",
        weight: float = 1.0,
        media: MediaSpans | None = None,
    ) -> None:
        """Tokens at most: `max_length` at a time, `max_new_tokens` after the prompt (None = what `max_length` leaves).

        `shift`: a full sequence keeps so many tokens at the front, drops half of the others and goes on.
        `is_scored`: the log probabilities of the prompt's own tokens are wanted.
        `client`: whose it is, and `weight` that one's share of the engine beside others.
        `media`: where pictures and sounds stand; the prompt's last token is one of text.
        """
        assert prompt, "a sequence needs at least one token"
        assert len(prompt) < max_length or max_new_tokens == 0, "a sequence needs room for at least one new token"
        assert weight > 0, "a client without a share would wait for ever"
        assert media is None or (shift is None and not is_scored and media.at(len(prompt) - 1) is None)
        self.client = client
        self.media = media
        self.weight = weight
        self.id = sequence_id
        self.index = index  # of the choice within its request
        self.token_ids = prompt
        self.dropped_token_ids: list[int] = []  # by shifts: they stood after the first `shift` tokens
        self.num_prompt_tokens = len(prompt)
        self.num_completion_tokens = 0
        self.num_computed_tokens = 0
        self.num_cached_tokens = -1  # of the prompt, shared with others instead of computed; -1 = not admitted yet
        # Of the prompt, those whose log probability is known or not wanted. Nothing precedes the first.
        self.num_scored_tokens = 1 if is_scored else len(prompt)
        self.num_told_tokens = 0  # of the new ones, those that an output has been delivered for
        self.num_failed_steps = 0  # that it may have caused, since its last new token
        self.max_length = max_length
        self.max_new_tokens = max_length - len(prompt) if max_new_tokens is None else max_new_tokens
        # If more than half were kept, it would soon be computed anew for every few tokens.
        self.shift = None if shift is None else min(shift, max_length // 2)
        self.slot: int | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def num_shareable_tokens(self) -> int:
        """How many cells of others it could use: what an output is wanted for must be computed."""
        return self.num_scored_tokens - 1 if self.wants_scores else len(self.token_ids) - 1

    @property
    def wants_scores(self) -> bool:
        return self.num_scored_tokens < self.num_prompt_tokens

    @property
    def is_suspect(self) -> bool:
        """It may be what makes steps fail."""
        return self.num_failed_steps > 0

    @property
    def is_full(self) -> bool:
        return len(self.token_ids) >= self.max_length

    @property
    def is_done(self) -> bool:
        """No further token may come."""
        if self.num_completion_tokens >= self.max_new_tokens:
            return True
        return self.shift is None and len(self.token_ids) >= self.max_length

    @property
    def num_tokens_left(self) -> int:
        """How many may come at most, until it is done or has to drop some."""
        return min(self.max_new_tokens - self.num_completion_tokens, self.max_length - len(self.token_ids))

    @property
    def all_token_ids(self) -> list[int]:
        """Prompt and answer, with what was dropped."""
        front = self.shift or 0
        return [*self.token_ids[:front], *self.dropped_token_ids, *self.token_ids[front:]]

    def position_of(self, place: int) -> int:
        """Of one of its tokens, as the native memory counts them."""
        return place if self.media is None else self.media.position_of(place)

    def append(self, token: int) -> None:
        self.token_ids.append(token)
        self.num_completion_tokens += 1
        self.num_failed_steps = 0

    def drop_old_tokens(self) -> None:
        """Make room in a full sequence. It holds no cells; what is left is like a prompt of its own."""
        assert self.slot is None, f"{self} holds cells of tokens that it is to drop"
        assert self.shift is not None, f"{self} may not drop anything"
        end = self.shift + max(1, (self.num_tokens - self.shift) // 2)
        self.dropped_token_ids += self.token_ids[self.shift : end]
        # A new list: the old one may still describe parked cells.
        self.token_ids = [*self.token_ids[: self.shift], *self.token_ids[end:]]
        self.num_prompt_tokens = self.num_scored_tokens = len(self.token_ids)
        self.num_computed_tokens = 0

    def __repr__(self) -> str:
        return f"Sequence({self.id}, {self.num_computed_tokens}/{self.num_tokens} tokens, slot {self.slot})"
