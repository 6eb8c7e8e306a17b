"""A second, smaller model that guesses what the first one will say. It has a context and KV memory of its own.

Bookkeeping of what its memory holds is here too: of each sequence some of its tokens, and guesses, the wrong ones of
which are taken out before the next draft.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence as SequenceOf

from dmr import _core
from dmr.config import DraftSettings, EngineSettings
from dmr.engine.kv_cache import num_shared
from dmr.engine.loading import context_costs, usable_for
from dmr.engine.native_options import num_usable_cores
from dmr.engine.speculation import MAX_SEQUENCES, DraftFailed, Drafts, DraftWish
from dmr.errors import ModelLoadFailed
from dmr.memory.context_planner import ContextPlanner

MAX_BATCH = 256  # tokens of one decode; of a long text so many are read before each step
LEAST_TAKEN_OVER = 16  # tokens of another sequence's memory; for fewer it is kept as it is
MAX_PADDING = 1024  # tokens without a meaning that one of two equal vocabularies may have more

logger = logging.getLogger(__name__)


class Memory:
    """What one slot holds: tokens, the first of which were certain when the last draft was made."""

    __slots__ = ("num_certain", "slot", "source", "token_ids")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.token_ids: list[int] = []
        self.num_certain = 0
        self.source: list[int] = []  # the sequence's list, of which they were a part


class DraftModel:
    """For the engine's thread only."""

    def __init__(
        self, model: _core.Model, context: _core.Context, num_vocabulary: int, least_probability: float
    ) -> None:
        """`num_vocabulary`: tokens that both models have. A guess less likely than `least_probability` is not made."""
        self._least_probability = least_probability
        self._context = context
        self._num_vocabulary = num_vocabulary
        self._num_cells = context.context_size
        self._longest = min(context.sequence_context_size, max(model.context_length, 1))
        self._free_slots = list(range(context.max_sequences))
        self._memories: OrderedDict[int, Memory] = OrderedDict()  # by sequence; least recently used first

    @classmethod
    def load(
        cls,
        path: str,
        target: _core.Model,
        context_size: int,
        num_threads: int,
        num_gpu_layers: int,
        settings: DraftSettings = DraftSettings(),  # noqa: B008 - frozen
    ) -> DraftModel:
        """`context_size`: tokens that the sequences of the target have at most.

        Raises:
            ModelLoadFailed: with llama.cpp's own reason, or because the two do not go together.
        """
        try:
            model = _core.Model([path], num_gpu_layers=num_gpu_layers)
            reason = why_not_for(model, target)
            if reason:
                raise ModelLoadFailed(f"The draft model {path} cannot be used: {reason}.")
            options = _core.ContextOptions()
            options.context_size = context_size
            options.max_batch = min(MAX_BATCH, context_size)
            options.max_sequences = min(MAX_SEQUENCES, options.max_batch)
            options.num_threads = num_threads
            options.key_type, options.value_type = settings.key_type, settings.value_type
            usable = usable_for(model, (path,), num_gpu_layers)
            costs = context_costs(model, path, settings.key_type, settings.value_type)
            planner = ContextPlanner(costs, usable, options.max_batch, options.max_sequences)
            reason = planner.lack_for(context_size)
            if reason:
                raise ModelLoadFailed(f"The draft model {path} cannot be used: {reason}")
            context = _core.Context(model, options)
        except (_core.Error, ValueError, TypeError, OSError) as error:
            raise ModelLoadFailed(f"The draft model {path} cannot be loaded: {error}") from error
        if not context.can_truncate:
            raise ModelLoadFailed(f"The draft model {path} cannot be used: its memory cannot take back a guess.")
        num_vocabulary = min(model.num_vocabulary, target.num_vocabulary)
        return cls(model, context, num_vocabulary, settings.least_probability)

    @property
    def max_sequences(self) -> int:
        return self._context.max_sequences

    def set_threads(self, num_threads: int) -> None:
        self._context.set_threads(num_threads)

    def draft(self, wishes: SequenceOf[DraftWish]) -> Drafts:
        """Guesses for each sequence, likely ones only; none for one of which much is still to be read.

        No more than `max_sequences` wishes.

        Raises:
            DraftFailed: its memory is not to be relied on any more.
        """
        wishes = self._affordable(wishes)
        if not wishes:
            return Drafts({}, 0)
        memories = [self._memory_of(wish, wishes) for wish in wishes]
        self._make_room(wishes)
        rows: list[tuple[int, list[int], int, int]] = [
            (memory.slot, self._unread(memory, wish.token_ids), len(memory.token_ids), wish.num_guesses)
            for wish, memory in zip(wishes, memories, strict=True)
        ]
        self._cut_to_a_batch(rows)
        for (_, unread, _, _), memory in zip(rows, memories, strict=True):
            memory.token_ids += unread
            memory.num_certain = len(memory.token_ids)
        num_read = sum(len(unread) for _, unread, _, _ in rows)
        try:
            drafts = _core.draft(self._context, rows, self._least_probability)
        except (_core.Error, ValueError) as error:
            raise DraftFailed(str(error)) from error
        if drafts is None:  # by our count there is room
            self.forget_all()
            return Drafts({}, num_read)
        for memory, draft in zip(memories, drafts, strict=True):
            memory.token_ids += draft[:-1]
        named = zip(wishes, drafts, strict=True)
        return Drafts({wish.sequence_id: self._known_to_both(draft) for wish, draft in named if draft}, num_read)

    def forget_all(self) -> None:
        """Empty the memory."""
        self._context.clear()
        self._free_slots = list(range(self._context.max_sequences))
        self._memories.clear()

    def _known_to_both(self, draft: list[int]) -> list[int]:
        """The guesses before the first that one of the models has no token for."""
        return draft[: next((i for i, token in enumerate(draft) if token >= self._num_vocabulary), len(draft))]

    def _affordable(self, wishes: SequenceOf[DraftWish]) -> list[DraftWish]:
        """Those whose text this model can read, as many as fit into its memory together."""
        affordable: list[DraftWish] = []
        num_cells = 0
        for wish in wishes:
            needed = len(wish.token_ids) + wish.num_guesses
            memory = self._memories.get(wish.sequence_id)
            num_known = memory.num_certain if memory is not None and memory.source is wish.token_ids else 0
            is_readable = all(token < self._num_vocabulary for token in wish.token_ids[num_known:])
            if is_readable and needed <= self._longest and num_cells + needed <= self._num_cells:
                affordable.append(wish)
                num_cells += needed
        return affordable

    def _memory_of(self, wish: DraftWish, wishes: SequenceOf[DraftWish]) -> Memory:
        """Its own, or one to begin with: the one of another sequence that begins like it, or an empty one."""
        memory = self._memories.get(wish.sequence_id)
        if memory is None:
            wanted = {each.sequence_id for each in wishes}
            others = [sequence_id for sequence_id in self._memories if sequence_id not in wanted]
            shared = {other: self._num_shared_with(other, wish.token_ids) for other in others}
            best = max(others, key=shared.__getitem__, default=None)
            if best is not None and (shared[best] >= LEAST_TAKEN_OVER or not self._free_slots):
                memory = self._memories.pop(best if shared[best] >= LEAST_TAKEN_OVER else others[0])
            else:
                memory = Memory(self._free_slots.pop(0))
            self._memories[wish.sequence_id] = memory
        self._memories.move_to_end(wish.sequence_id)
        return memory

    def _num_shared_with(self, sequence_id: int, token_ids: list[int]) -> int:
        held = self._memories[sequence_id].token_ids
        return num_shared(held, token_ids, min(len(held), len(token_ids)))

    def _make_room(self, wishes: SequenceOf[DraftWish]) -> None:
        """Let those go that are not wanted now, the oldest first, until the others fit."""
        wanted = {wish.sequence_id for wish in wishes}
        num_cells = sum(len(wish.token_ids) + wish.num_guesses for wish in wishes)
        for sequence_id in reversed([each for each in self._memories if each not in wanted]):
            memory = self._memories[sequence_id]
            num_cells += len(memory.token_ids)
            if num_cells > self._num_cells:
                self._context.remove(memory.slot)
                self._free_slots.append(self._memories.pop(sequence_id).slot)

    def _unread(self, memory: Memory, token_ids: list[int]) -> list[int]:
        """What its memory does not hold yet; wrong guesses are taken out of it.

        The last token is always read anew, so that what follows it can be asked for.
        """
        known = memory.num_certain if memory.source is token_ids else 0
        memory.source = token_ids
        limit = min(len(memory.token_ids), len(token_ids) - 1)
        same = known + num_shared(memory.token_ids[known:limit], token_ids[known:limit], max(0, limit - known))
        same = min(same, limit)
        if same < len(memory.token_ids):
            self._context.remove(memory.slot, same)
            del memory.token_ids[same:]
        return token_ids[same:]

    def _cut_to_a_batch(self, rows: list[tuple[int, list[int], int, int]]) -> None:
        """Who has much to read reads a part of it, and gets no guesses yet; those with little come first."""
        room = self._context.max_batch
        for left, place in enumerate(sorted(range(len(rows)), key=lambda i: len(rows[i][1]))):
            slot, unread, held, num_guesses = rows[place]
            part = unread[: room - (len(rows) - left - 1)]  # each gets at least one token in
            room -= len(part)
            rows[place] = (slot, part, held, num_guesses if len(part) == len(unread) else 0)


def why_not_for(draft: _core.Model, target: _core.Model) -> str:
    """What keeps a model from guessing for another; empty = nothing. Their tokens must mean the same."""
    if not draft.has_decoder or draft.has_encoder or draft.is_recurrent or draft.is_hybrid:
        return f"{draft.description} is no model whose text can be taken back token by token"
    sizes = sorted((draft.num_vocabulary, target.num_vocabulary))
    if sizes[1] - sizes[0] > MAX_PADDING:
        return f"it has {draft.num_vocabulary} tokens, and the model has {target.num_vocabulary}"
    for token in range(sizes[0]):
        one, other = draft.piece(token, special=True), target.piece(token, special=True)
        if one != other:
            return f"its token {token} is {_core.valid_utf8(one)!r}, and the model's is {_core.valid_utf8(other)!r}"
    return ""


def load_draft_model(model: _core.Model, settings: EngineSettings, context_size: int) -> DraftModel | None:
    """None: it does not go together with this model, and is not insisted on.

    Raises:
        ModelLoadFailed
    """
    try:
        num_threads = settings.draft.num_threads or settings.num_threads or num_usable_cores()
        layers = settings.draft.num_gpu_layers
        num_gpu_layers = settings.num_gpu_layers if layers is None else layers
        path, draft = settings.draft_model, settings.draft
        return DraftModel.load(path, model, context_size, num_threads, num_gpu_layers, draft)
    except ModelLoadFailed as error:
        if settings.speculation == "draft":
            raise
        logger.warning("%s Guesses come from what was said before.", error.message)
        return None
