"""What a context over a model takes: KV cells, recurrent states, buffers to compute in. From the file's own numbers.

The formulas follow how llama.cpp lays out its memories; what they miss is small beside what
`context_planner.py` leaves free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dmr.memory.layer_arrays import LayerArrays

OVERHEAD = 48 << 20  # bytes: graphs, their plans, the compute threads
PADDING = 256  # cells: llama.cpp rounds up to a multiple of it

_FLOAT = 4  # bytes
_MASK = 2  # bytes for each pair of a batch's token and a cell: a 16-bit float says whether one sees the other
# Bytes of an element of KV memory. The quantized types have blocks of 32 with their scales.
_ELEMENTS = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
_BOTH_IN_EACH_LAYER = ("falcon-h1",)  # hybrid architectures whose layers have attention and a recurrent state
_DEFAULT_INTERVALS = {"minimax-01": 8}  # of layers with attention; the other hybrid architectures: 4


class ModelCosts(NamedTuple):
    """In bytes."""

    cell: int  # of KV memory, in all layers together
    state: int  # of one sequence, in all recurrent layers together
    activations: int  # of one token while a layer is computed
    hidden: int  # of one token between layers
    logits: int  # of one output

    def context(self, num_cells: int, max_batch: int, max_sequences: int, max_outputs: int) -> int:
        """What a context takes that computes `max_batch` tokens at once, `max_outputs` of them with an output."""
        num_cells += -num_cells % PADDING
        # What one layer has used is used again by the next, and at last by the outputs.
        computing = max(max_outputs * self.logits, max_batch * self.activations)
        computing += max_batch * self.hidden + num_cells * max_batch * _MASK
        return OVERHEAD + num_cells * self.cell + max_sequences * (self.state + self.logits) + computing


def model_costs(
    metadata: Mapping[str, str],
    arrays: LayerArrays,
    *,
    num_vocabulary: int,
    is_recurrent: bool = False,
    is_hybrid: bool = False,
    key_type: str = "f16",
    value_type: str = "f16",
) -> ModelCosts:
    """`metadata`: a GGUF file's single values as text; `arrays`: what it tells layer by layer."""
    numbers = _Numbers(metadata, arrays)
    recurrent = _recurrent_layers(numbers, is_recurrent, is_hybrid)
    cell = 0.0
    for layer in range(numbers.num_layers - numbers.get("attention.shared_kv_layers")):
        has_attention = not recurrent[layer] or numbers.architecture in _BOTH_IN_EACH_LAYER
        if has_attention and not is_recurrent:
            cell += _layer_cell(numbers, layer, _ELEMENTS[key_type], _ELEMENTS[value_type])
    hidden = numbers.get("embedding_length")
    feed_forward = max(
        numbers.largest("feed_forward_length"),
        numbers.largest("expert_feed_forward_length") * numbers.largest("expert_used_count"),
    )
    return ModelCosts(
        cell=round(cell),
        state=sum(recurrent) * _layer_state(numbers) * _FLOAT,
        activations=(4 * hidden + 3 * feed_forward) * _FLOAT,
        hidden=hidden * _FLOAT,
        logits=num_vocabulary * _FLOAT,
    )


class _Numbers:
    """The numbers of a model's architecture, by key without its prefix."""

    def __init__(self, metadata: Mapping[str, str], arrays: LayerArrays) -> None:
        self.architecture = metadata.get("general.architecture", "")
        self._metadata = metadata
        self._arrays = arrays
        self.num_layers = self.get("block_count")

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self._metadata

    def get(self, key: str, default: int = 0) -> int:
        text = self._metadata.get(f"{self.architecture}.{key}", "")
        return int(text) if text.isdecimal() else default

    def array(self, key: str) -> tuple[int, ...]:
        """One number for each layer; empty if the file has one for all."""
        array = self._arrays.get(f"{self.architecture}.{key}", ())
        return array if len(array) >= self.num_layers else ()

    def of_layer(self, key: str, layer: int, default: int = 0) -> int:
        array = self.array(key)
        return array[layer] if array else self.get(key, default)

    def largest(self, key: str) -> int:
        return max(self.array(key), default=self.get(key))


def _layer_cell(numbers: _Numbers, layer: int, key_element: float, value_element: float) -> float:
    """Bytes that a cell has in one layer with attention."""
    num_heads = numbers.of_layer("attention.head_count", layer)
    num_kv_heads = numbers.of_layer("attention.head_count_kv", layer, num_heads)
    head = numbers.get("embedding_length") // max(1, numbers.of_layer("attention.head_count", 0))
    key_head = numbers.get("attention.key_length", head)
    value_head = numbers.get("attention.value_length", head)
    if numbers.has("attention.key_length_swa"):
        pattern = numbers.array("attention.sliding_window_pattern")
        windowed = (
            numbers.get("attention.key_length_swa"),
            numbers.get("attention.value_length_swa", value_head),
        )
        # Without a pattern nobody knows which layers have the window: the larger one counts.
        if not pattern:
            key_head, value_head = max(key_head, windowed[0]), max(value_head, windowed[1])
        elif pattern[layer]:
            key_head, value_head = windowed
    if numbers.has("attention.key_length_mla") and numbers.has("attention.value_length_mla"):
        value_head = 0  # values are computed from what is kept as keys
    index = numbers.get("attention.indexer.key_length")  # of sparse attention, beside the cell
    return num_kv_heads * (key_head * key_element + value_head * value_element) + index * key_element


def _recurrent_layers(numbers: _Numbers, is_recurrent: bool, is_hybrid: bool) -> list[bool]:
    """Which layers have a recurrent state."""
    layers = range(numbers.num_layers)
    if not is_hybrid:
        return [is_recurrent for _ in layers]
    if numbers.architecture in _BOTH_IN_EACH_LAYER:
        return [True for _ in layers]
    if flags := numbers.array("attention.recurrent_layers"):
        return [bool(flags[layer]) for layer in layers]
    if heads := numbers.array("attention.head_count_kv"):
        # Layers that only feed forward have neither: those of architectures that mix all three kinds.
        widths = numbers.array("feed_forward_length")
        is_mixed = bool(widths) and 0 in widths
        return [heads[layer] == 0 and not (is_mixed and widths[layer]) for layer in layers]
    interval = numbers.get("full_attention_interval", _DEFAULT_INTERVALS.get(numbers.architecture, 4))
    return [(layer + 1) % max(1, interval) != 0 for layer in layers]


def _layer_state(numbers: _Numbers) -> int:
    """Floats of one sequence's state in one recurrent layer: of its convolution and of what it remembers."""
    hidden = numbers.get("embedding_length")
    num_heads = numbers.of_layer("attention.head_count", 0)
    kernel = numbers.get("ssm.conv_kernel")
    if wkv_head := numbers.get("wkv.head_size"):
        return hidden * (numbers.get("token_shift_count", 2) + wkv_head)
    if short_kernel := numbers.get("shortconv.l_cache"):
        return hidden * (short_kernel - 1)
    if delta_head := numbers.get("kda.head_dim"):
        return 3 * (kernel - 1 if kernel else 3) * num_heads * delta_head + num_heads * delta_head**2
    if numbers.architecture == "minimax-01":
        return num_heads * numbers.get("attention.key_length", hidden // max(1, num_heads)) ** 2
    inner, state = numbers.get("ssm.inner_size"), numbers.get("ssm.state_size")
    return max(0, kernel - 1) * (inner + 2 * numbers.get("ssm.group_count") * state) + state * inner
