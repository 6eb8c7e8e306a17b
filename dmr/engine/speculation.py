"""Guesses for the sequences that generate: who makes them, how many, and what has come of them so far."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple, Protocol

from dmr.engine.drafting import LONGEST_MATCH, NgramDrafter
from dmr.engine.sequence import Sequence
from dmr.engine.speculation_policy import Acceptance, SpeculationPolicy

MAX_SEQUENCES = 8  # that get guesses at the same time; with more, a step has enough to do
MAX_READ = 4096  # tokens of one sequence that are looked through before one step
FROM_MODEL = 0  # the source of guesses; that of prompt lookup is the number of tokens that matched, 2 and more
LEARNING_RATE = 0.2

logger = logging.getLogger(__name__)


class DraftWish(NamedTuple):
    sequence_id: int
    token_ids: list[int]  # the sequence's own list
    num_guesses: int  # at most


class Drafts(NamedTuple):
    by_sequence: dict[int, list[int]]
    num_read: int  # tokens that had to be computed before the first guess


class DraftSource(Protocol):
    """A second model that guesses."""

    def draft(self, wishes: SequenceOf[DraftWish]) -> Drafts: ...


class DraftFailed(Exception):
    """The second model cannot be relied on."""


class _Candidate(NamedTuple):
    sequence: Sequence
    source: int
    num_guesses: int
    token_ids: list[int]  # the guesses, if they are made already


class _Speaker:
    """What is known of one sequence."""

    __slots__ = ("acceptance", "ngrams", "source")

    def __init__(self, sequence: Sequence, shared: Acceptance) -> None:
        self.acceptance = Acceptance(shared)
        self.ngrams = NgramDrafter(sequence.token_ids)
        self.source = FROM_MODEL  # of the last guesses


class Speculation:
    """For the engine's thread only."""

    def __init__(
        self,
        policy: SpeculationPolicy,
        max_draft_tokens: int,
        model: DraftSource | None = None,
        *,
        uses_ngrams: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._max_draft_tokens = max_draft_tokens
        self._model = model
        self._uses_ngrams = uses_ngrams
        self._clock = clock
        self._acceptance = Acceptance()  # of all sequences
        self._speakers: dict[int, _Speaker] = {}  # by sequence id
        self._seconds_per_round = 0.0  # of the second model; 0 = not known
        self.num_drafted_tokens = 0  # that steps have verified
        self.num_accepted_tokens = 0  # of them

    def propose(self, sequences: SequenceOf[Sequence]) -> dict[int, list[int]]:
        """Guesses by sequence id, for a step in which these sequences generate and nothing else is done."""
        if not 0 < len(sequences) <= MAX_SEQUENCES:
            return {}
        candidates = [each for sequence in sequences if (each := self._candidate(sequence)) is not None]
        if not candidates:
            return {}
        chances = [
            self._speakers[each.sequence.id].acceptance.chances(each.source, each.num_guesses) for each in candidates
        ]
        asks_model = any(each.source == FROM_MODEL for each in candidates)
        lengths = self._policy.choose(len(sequences), chances, self._seconds_per_round if asks_model else 0.0)
        drafts: dict[int, list[int]] = {}
        wishes: list[DraftWish] = []
        for (sequence, source, _, token_ids), length in zip(candidates, lengths, strict=True):
            if length:
                self._speakers[sequence.id].source = source
                if source == FROM_MODEL:
                    wishes.append(DraftWish(sequence.id, sequence.token_ids, length))
                else:
                    drafts[sequence.id] = token_ids[:length]
        return drafts | self._ask_model(wishes) if wishes else drafts

    def observe(self, sequence: Sequence, num_drafted: int, num_right: int, is_over: bool) -> None:
        """What became of a sequence's guesses. `is_over`: its answer ended, so the one after was not wrong."""
        self.num_drafted_tokens += num_drafted
        self.num_accepted_tokens += num_right
        speaker = self._speakers.get(sequence.id)
        if speaker is not None:
            speaker.acceptance.observe(speaker.source, num_right if is_over else num_drafted, num_right)

    def observe_step(self, num_tokens: int, seconds: float) -> None:
        """What a step took, with guesses or without."""
        self._policy.cost.observe(num_tokens, seconds)

    def forget(self, sequence: Sequence) -> None:
        self._speakers.pop(sequence.id, None)

    def _candidate(self, sequence: Sequence) -> _Candidate | None:
        """Where its guesses could come from. Where a longer piece repeats itself, no model is asked how it goes on."""
        limit = min(self._max_draft_tokens, sequence.num_tokens_left - 1)
        if limit < 1 or sequence.wants_scores or sequence.media is not None:
            return None
        speaker = self._speakers.get(sequence.id)
        if speaker is None:
            speaker = self._speakers[sequence.id] = _Speaker(sequence, self._acceptance)
        if self._uses_ngrams:
            if not speaker.ngrams.is_of(sequence.token_ids):
                speaker.ngrams = NgramDrafter(sequence.token_ids)
            if speaker.ngrams.read(MAX_READ):
                draft = speaker.ngrams.draft(limit)
                if draft.num_matching >= (LONGEST_MATCH if self._model else 1):
                    return _Candidate(sequence, draft.num_matching, limit, draft.token_ids)
        return _Candidate(sequence, FROM_MODEL, limit, []) if self._model else None

    def _ask_model(self, wishes: SequenceOf[DraftWish]) -> dict[int, list[int]]:
        assert self._model is not None
        began = self._clock()
        try:
            drafts = self._model.draft(wishes)
        except DraftFailed:
            logger.exception("the draft model has failed; it is not asked again")
            self._model = None
            return {}
        # Reading a text for the first time says nothing of what guesses cost.
        if drafts.num_read <= 2 * len(wishes):
            measured = (self._clock() - began) / max(wish.num_guesses for wish in wishes)
            known = self._seconds_per_round or measured
            self._seconds_per_round = known + LEARNING_RATE * (measured - known)
        return drafts.by_sequence
