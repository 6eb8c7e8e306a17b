"""The native context that turns texts into vectors or scores: beside the one that generates, on the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmr import _core
from dmr.config import DEFAULT_CONTEXT_LIMIT, EngineSettings
from dmr.engine.loading import LoadedModel, computes_on_device
from dmr.engine.native_options import context_options
from dmr.errors import InternalError, ModelLoadFailed, Unavailable
from dmr.memory.context_planner import describe_bytes

MAX_TEXTS = 256  # of one call; llama.cpp's LLAMA_MAX_SEQ
MAX_STATES = 8  # of one call, where each text has a state as large as many cells (recurrent models)
MAX_INPUT_TOKENS = 1 << 16  # of one text: it has to fit into one batch
# Of short texts in one call on a CPU, which is busy with fewer: with texts of 16 tokens 256 take a tenth longer, 1,024
# are not faster, and who comes in between would wait longer.
PACKED_TOKENS_ON_CPU = 512

if TYPE_CHECKING:  # it takes a third of an engine's start, and most engines make no vectors
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]


class EmbedRunner:
    """Owns the context. All but the attributes set by `__init__` belongs to the embedder's one thread."""

    def __init__(self, loaded: LoadedModel, settings: EngineSettings, num_cores: int, *, generates: bool) -> None:
        """Nothing is allocated before `open` or `run`."""
        model = loaded.model
        trained = max(1, model.context_length)
        limit = settings.context_size or min(trained, DEFAULT_CONTEXT_LIMIT)
        # What has no memory has no way to go beyond its trained length either.
        self.max_input_tokens = min(limit if generates else min(limit, trained), MAX_INPUT_TOKENS)
        most = min(settings.max_batch_tokens, MAX_INPUT_TOKENS)
        self.max_batch_tokens = most if computes_on_device() else min(most, PACKED_TOKENS_ON_CPU)
        self.max_texts = MAX_STATES if model.is_recurrent or model.is_hybrid else MAX_TEXTS
        self.pooling = settings.pooling or loaded.pooling(generates)
        if self.pooling == "rank" and not (model.has_classifier or loaded.declared_pooling == "rank"):
            raise ModelLoadFailed(f"{model.description} cannot rank: it has no head that scores.")
        self._model = model
        self._num_cores = num_cores
        self._smallest = _capacity(max(most, self.max_texts))
        # Only the last token counts, and none looks ahead: a long text can be read in parts, with small buffers.
        self._reads_in_parts = self.pooling == "last" and loaded.is_causal
        # What looks at a text as a whole keeps nothing of it, and gives vectors only.
        self._costs = loaded.costs if loaded.is_causal else loaded.costs._replace(cell=0, logits=0)
        self._loaded, self._settings = loaded, settings
        self._bound_input()
        self._context: _core.Context | None = None
        self._batch = _core.Batch()

    def open(self) -> None:
        """Make the context before the first text. Raises ModelLoadFailed."""
        lack = self._lack_of_memory(self._smallest)
        if lack is not None:
            raise ModelLoadFailed(lack)
        try:
            self._context = self._make_context(self._smallest)
        except (_core.Error, ValueError) as error:
            raise ModelLoadFailed(str(error)) from error

    def run(self, texts: list[list[int]], num_threads: int) -> list[Vector]:
        """One vector for each text; a reranker's has the score at its front. Texts of `max_batch_tokens` in all, or
        one that is longer; at most `max_texts`.

        Raises:
            InternalError: the back end failed, or gave what is no number. The next call starts anew.
            Unavailable: there is not enough memory now.
        """
        import numpy as np

        try:
            vectors = self._run(texts, num_threads)
        except (_core.Error, ValueError) as error:
            self.close()
            raise InternalError(f"The model could not be computed: {error}.") from error
        if not all(np.isfinite(vector).all() for vector in vectors):
            raise InternalError("The model could not be computed: its output is not a number.")
        return vectors

    def rest(self) -> None:
        """Nobody is waiting: what only a long text needs is given back."""
        if self._context is not None and self._context.context_size > self._smallest:
            self.close()

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    def _run(self, texts: list[list[int]], num_threads: int) -> list[Vector]:
        context = self._context_for(sum(map(len, texts)))
        context.set_threads(min(num_threads, self._num_cores))
        context.clear()
        batch = self._batch
        longest = context.max_batch
        for start in range(0, max(map(len, texts)), longest):
            batch.clear()
            for i, tokens in enumerate(texts):
                batch.add(i, tokens[start : start + longest], start, output_all=True)
            if context.decode(batch) != _core.DecodeStatus.DONE:
                raise _core.Error("there was no room for the texts")
        return [context.sequence_embedding(i) for i in range(len(texts))]

    def _context_for(self, num_tokens: int) -> _core.Context:
        if self._context is None or self._context.context_size < num_tokens:
            self.close()
            num_tokens = _capacity(max(num_tokens, self._smallest))
            lack = self._lack_of_memory(num_tokens)
            if lack is not None:
                raise Unavailable(lack)
            self._context = self._make_context(num_tokens)
        return self._context

    def _make_context(self, num_tokens: int) -> _core.Context:
        """`num_tokens`: a power of two, so that the sequences share it evenly."""
        options = context_options(self._settings)
        options.embeddings = True
        options.pooling = self.pooling
        options.context_size = options.max_batch = num_tokens
        options.max_sequences = min(self.max_texts, num_tokens)
        options.num_threads, options.num_batch_threads = self._num_cores, 0
        if not self._reads_in_parts:
            return _core.Context(self._model, options)
        options.max_batch = self._smallest
        context = _core.Context(self._model, options)
        if num_tokens == self._smallest or context.has_memory:
            return context
        context.close()
        options.max_batch = num_tokens
        return _core.Context(self._model, options)

    def _bound_input(self) -> None:
        """Longer texts than memory has room for are refused before they are queued."""
        usable, _ = self._loaded.usable_memory(self._settings)
        num_tokens = _capacity(self.max_input_tokens)
        while usable is not None and num_tokens > self._smallest and self._needed_bytes(num_tokens) > usable.num_bytes:
            num_tokens //= 2
        self.max_input_tokens = min(self.max_input_tokens, num_tokens)

    def _lack_of_memory(self, num_tokens: int) -> str | None:
        """What is to be said of it; None: a context for so many tokens fits."""
        needed = self._needed_bytes(num_tokens)
        usable, _ = self._loaded.usable_memory(self._settings)
        if usable is None or needed <= usable.num_bytes:
            return None
        return (
            f"Vectors of {num_tokens} tokens need {describe_bytes(needed)}, and {describe_bytes(usable.num_bytes)} "
            f"of {usable.of} can be had."
        )

    def _needed_bytes(self, num_tokens: int) -> int:
        """`num_tokens`: a power of two."""
        max_batch = self._smallest if self._reads_in_parts else num_tokens
        return self._costs.context(num_tokens, max_batch, min(self.max_texts, num_tokens), max_batch)


def _capacity(num_tokens: int) -> int:
    return 1 << (num_tokens - 1).bit_length()
