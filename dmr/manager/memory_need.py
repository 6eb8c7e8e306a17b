"""What an engine will take, told from the model's files before it is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dmr.config import EngineSettings
from dmr.errors import DmrError
from dmr.memory.architectures import is_hybrid, is_recurrent
from dmr.memory.context_planner import LARGEST_CONTEXT, LEAST_CONTEXT, describe_bytes, largest_fitting
from dmr.memory.layer_arrays import read_layer_arrays
from dmr.memory.memory_costs import PADDING, ModelCosts, model_costs
from dmr.store.gguf import GGUFHeader, SkippedArray, read_gguf_header

MAX_SEQUENCES = 256  # in the native memory


class MemoryNeed:
    """In bytes. An engine that chooses its context may take anything from `least` to `full`."""

    def __init__(self, weights: int, costs: ModelCosts | None, settings: EngineSettings, usual_context: int) -> None:
        """`usual_context`: tokens, of an engine whose settings leave the choice to it."""
        self.weights = weights
        self.full_size = settings.context_size or usual_context
        self._costs = costs
        self._max_batch = settings.max_batch_tokens
        self._max_sequences = min(2 * settings.max_num_seqs, MAX_SEQUENCES)
        least_size = settings.context_size or min(usual_context, LEAST_CONTEXT)
        extra = max(0, settings.host_cache_bytes)  # what somebody has set; its own share is taken of what is left
        most = settings.context_bytes or 1 << 62  # of what an engine chooses
        self.full = weights + extra + min(most, self.context(self.full_size))
        self.half = (
            weights + extra + min(most, self.context(settings.context_size or max(least_size, usual_context // 2)))
        )
        # A model with states may run fewer sequences at a time.
        self.least = weights + self.context(least_size, 1 if costs and costs.state else None)

    def context(self, num_tokens: int, max_sequences: int | None = None) -> int:
        if self._costs is None:
            return 0
        num_sequences = min(max_sequences or self._max_sequences, self._max_batch, num_tokens)
        return self._costs.context(num_tokens, min(self._max_batch, num_tokens), num_sequences, num_sequences)

    def fitting_context(self, num_bytes: int) -> int:
        """The most tokens whose context fits, with the weights, into so many bytes; 0 = none."""
        if self._costs is None:
            return 0
        room = num_bytes - self.weights
        return PADDING * largest_fitting(
            lambda count: self.context(count * PADDING) <= room, LARGEST_CONTEXT // PADDING
        )

    def describe(self) -> str:
        """ "5.2 GiB (4.9 GiB of weights, and 312 MiB for a context of 8192 tokens)" """
        if self._costs is None:
            return f"{describe_bytes(self.weights)} of weights"
        return (
            f"{describe_bytes(self.full)} ({describe_bytes(self.weights)} of weights, and "
            f"{describe_bytes(self.full - self.weights)} for a context of {self.full_size} tokens)"
        )


def memory_need(
    weights: Sequence[Path], settings: EngineSettings, usual_context: int, projector: Path | None = None
) -> MemoryNeed:
    """Of a file that cannot be understood only the size counts: the engine will say what is wrong with it.

    Raises:
        OSError: a file cannot be read.
    """
    num_bytes = sum(path.stat().st_size for path in weights)
    if projector is not None and settings.projector.is_used:
        num_bytes += projector.stat().st_size
    attention = settings.attention
    costs = _costs_of(weights[0], attention.key_type, attention.value_type)
    if settings.draft_model:
        draft = Path(settings.draft_model)
        if draft.exists():
            draft_costs = _costs_of(draft, settings.draft.key_type, settings.draft.value_type)
            num_bytes += draft.stat().st_size
            costs = costs and draft_costs and _added(costs, draft_costs)
    return MemoryNeed(num_bytes, costs, settings, usual_context)


def _added(costs: ModelCosts, draft: ModelCosts) -> ModelCosts:
    """Of two contexts with as many cells each."""
    return ModelCosts(*(one + other for one, other in zip(costs, draft, strict=True)))


def _costs_of(first_file: Path, key_type: str, value_type: str) -> ModelCosts | None:
    try:
        header = read_gguf_header(first_file)
        arrays = read_layer_arrays(first_file)
    except (DmrError, ValueError):
        return None
    architecture = header.text("general.architecture")
    return model_costs(
        _single_values(header),
        arrays,
        num_vocabulary=_num_vocabulary(header),
        is_recurrent=is_recurrent(architecture),
        is_hybrid=is_hybrid(architecture),
        key_type=key_type,
        value_type=value_type,
    )


def _single_values(header: GGUFHeader) -> Mapping[str, str]:
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in header.metadata.items()
        if isinstance(value, (str, int, float))
    }


def _num_vocabulary(header: GGUFHeader) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, SkippedArray):
        return tokens.length
    return len(tokens) if isinstance(tokens, tuple) else 0
