"""How large a context may be, on plain numbers."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr.errors import ModelLoadFailed
from dmr.memory.context_planner import (
    LARGEST_CONTEXT,
    LEAST_CONTEXT,
    MARGIN,
    ContextPlanner,
    describe_bytes,
    largest_fitting,
    usable_memory,
)
from dmr.memory.free_memory import Free
from dmr.memory.layer_arrays import LayerArrays
from dmr.memory.memory_costs import OVERHEAD, ModelCosts, model_costs

GIB = 1 << 30
MIB = 1 << 20


def costs_of(architecture: str, numbers: dict[str, int], arrays: LayerArrays | None = None, **kind: Any) -> ModelCosts:
    metadata = {f"{architecture}.{key}": str(value) for key, value in numbers.items()}
    layers = {f"{architecture}.{key}": value for key, value in (arrays or {}).items()}
    return model_costs({"general.architecture": architecture, **metadata}, layers, num_vocabulary=1000, **kind)


LLAMA_8B = {
    "block_count": 32,
    "embedding_length": 4096,
    "feed_forward_length": 14336,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
}


def test_a_cell_is_keys_and_values_of_all_layers() -> None:
    assert costs_of("llama", LLAMA_8B).cell == 128 * 1024
    assert costs_of("llama", LLAMA_8B, key_type="q8_0", value_type="q8_0").cell == 128 * 1024 * 17 // 32
    assert costs_of("llama", LLAMA_8B, key_type="f32", value_type="q4_0").cell == 32 * 1024 * (4 * 32 + 18) // 32
    assert costs_of("llama", LLAMA_8B).state == 0


def test_without_a_number_of_key_heads_each_head_has_its_own() -> None:
    numbers = {key: value for key, value in LLAMA_8B.items() if key != "attention.head_count_kv"}
    assert costs_of("gpt2", numbers).cell == 4 * 128 * 1024


def test_heads_have_the_size_that_is_told() -> None:
    numbers = {**LLAMA_8B, "attention.key_length": 256, "attention.value_length": 64}
    assert costs_of("gemma3", numbers).cell == 32 * 8 * (256 + 64) * 2


def test_layers_may_differ() -> None:
    arrays = {"attention.head_count_kv": (0, 8, 4, 0), "attention.head_count": (1, 32, 32, 1)}
    assert costs_of("deci", {**LLAMA_8B, "block_count": 4}, arrays).cell == 12 * 4096 * 2 * 2
    short = {"attention.head_count_kv": (0, 8)}  # a damaged file: not one for each layer
    assert costs_of("deci", LLAMA_8B, short).cell == 128 * 1024


def test_layers_with_a_window_may_have_other_heads_and_the_last_may_have_no_cells() -> None:
    numbers = {
        **LLAMA_8B,
        "block_count": 6,
        "attention.key_length": 512,
        "attention.value_length": 512,
        "attention.key_length_swa": 256,
        "attention.value_length_swa": 256,
        "attention.shared_kv_layers": 2,
    }
    pattern = {"attention.sliding_window_pattern": (True, True, False, True, True, False)}
    assert costs_of("gemma4", numbers, pattern).cell == 8 * (3 * 256 + 512) * 2 * 2
    assert costs_of("gemma4", numbers).cell == 8 * (4 * 512) * 2 * 2  # nobody knows which


def test_latent_attention_keeps_no_values() -> None:
    numbers = {
        "block_count": 27,
        "embedding_length": 2048,
        "attention.head_count": 16,
        "attention.head_count_kv": 1,
        "attention.key_length": 576,
        "attention.value_length": 512,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
    }
    assert costs_of("deepseek2", numbers).cell == 27 * 576 * 2
    assert costs_of("deepseek32", {**numbers, "attention.indexer.key_length": 128}).cell == 27 * (576 + 128) * 2


MAMBA = {
    "block_count": 24,
    "embedding_length": 768,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 1536,
    "ssm.state_size": 16,
}


def test_recurrent_models_have_states_instead_of_cells() -> None:
    costs = costs_of("mamba", MAMBA, is_recurrent=True)
    assert (costs.cell, costs.state) == (0, 24 * (3 * 1536 + 16 * 1536) * 4)
    rwkv = {"block_count": 12, "embedding_length": 768, "wkv.head_size": 64}
    assert costs_of("rwkv6", rwkv, is_recurrent=True).state == 12 * 768 * (2 + 64) * 4


@pytest.mark.parametrize(
    ("architecture", "more", "arrays", "num_attention", "num_recurrent"),
    [
        ("qwen3next", {"full_attention_interval": 3}, {}, 2, 4),
        ("qwen35", {}, {}, 1, 5),
        ("qwen35", {}, {"attention.recurrent_layers": (True, False, False, True, False, False)}, 4, 2),
        ("granitehybrid", {}, {"attention.head_count_kv": (0, 0, 2, 0, 0, 2)}, 2, 4),
        (
            "nemotron_h",
            {},
            {"attention.head_count_kv": (0, 0, 2, 0, 0, 2), "feed_forward_length": (0, 99, 0, 0, 99, 0)},
            2,
            2,
        ),
        ("falcon-h1", {}, {}, 6, 6),
        ("minimax-01", {"block_count": 8}, {}, 1, 7),
    ],
)
def test_hybrid_models_have_both(
    architecture: str, more: dict[str, int], arrays: LayerArrays, num_attention: int, num_recurrent: int
) -> None:
    numbers = {**MAMBA, "block_count": 6, "attention.head_count": 8, "attention.head_count_kv": 2, **more}
    if "attention.head_count_kv" in arrays:
        del numbers["attention.head_count_kv"]
    costs = costs_of(architecture, numbers, arrays, is_hybrid=True)
    assert costs.cell == num_attention * 2 * 96 * 2 * 2
    state = 8 * 96**2 if architecture == "minimax-01" else 3 * 1536 + 16 * 1536
    assert costs.state == num_recurrent * state * 4


@pytest.mark.parametrize(
    ("architecture", "more", "floats"),
    [
        ("lfm2", {"shortconv.l_cache": 3}, 768 * 2),
        ("kimi-linear", {"kda.head_dim": 128}, 3 * 3 * 8 * 128 + 128 * 128 * 8),
        ("bamba", {"ssm.group_count": 2}, 3 * (1536 + 2 * 2 * 16) + 16 * 1536),
    ],
)
def test_states_of_other_kinds(architecture: str, more: dict[str, int], floats: int) -> None:
    arrays = {"attention.head_count_kv": (0, 1) * 12}
    costs = costs_of(architecture, {**MAMBA, "attention.head_count": 8, **more}, arrays, is_hybrid=True)
    assert costs.state == 12 * floats * 4


def test_a_context_takes_its_cells_its_states_and_what_it_computes_in() -> None:
    costs = ModelCosts(cell=1000, state=0, activations=100, hidden=10, logits=50)
    assert costs.context(512, 64, 4, 4) - OVERHEAD == 512 * 1000 + 4 * 50 + 64 * 100 + 64 * 10 + 512 * 64 * 2
    assert costs.context(500, 64, 4, 4) == costs.context(512, 64, 4, 4)  # llama.cpp rounds up
    many_outputs = costs.context(512, 64, 4, 64 * 4)
    assert many_outputs - costs.context(512, 64, 4, 4) == 64 * 4 * 50 - 64 * 100
    stateful = costs._replace(state=7)
    assert stateful.context(512, 64, 4, 4) - costs.context(512, 64, 4, 4) == 4 * 7


# --- how much there is -----------------------------------------------------------------------------------------------

HOST = Free(8 * GIB, "the machine's memory")
GPU = {"kind": "gpu", "free_bytes": 2 * GIB, "name": "g"}
CPU = {"kind": "cpu", "free_bytes": 99 * GIB, "name": "c"}


def test_a_part_of_what_is_free_stays_free() -> None:
    assert usable_memory(HOST, [CPU], 1.0, 0) == HOST._replace(num_bytes=8 * GIB - 8 * GIB // 10)
    assert usable_memory(HOST._replace(num_bytes=GIB), [CPU], 1.0, 0) == HOST._replace(num_bytes=GIB - MARGIN)
    assert usable_memory(HOST._replace(num_bytes=MIB), [CPU], 1.0, 0) == HOST._replace(num_bytes=0)


def test_where_nobody_tells_there_is_no_bound() -> None:
    assert usable_memory(None, [CPU], 1.0, 0) is None
    assert usable_memory(None, [{**GPU, "free_bytes": 0}], 1.0, 0) is None
    assert ContextPlanner(costs_of("llama", LLAMA_8B), None, 512, 64).wished(1 << 23).context_size == 1 << 23


def test_what_somebody_has_set_counts_instead() -> None:
    assert usable_memory(HOST, [GPU], 1.0, 5 * MIB) == Free(5 * MIB, "what DMR_CONTEXT_BYTES allows")


def test_layers_on_a_gpu_take_its_memory() -> None:
    whole = usable_memory(HOST, [CPU, GPU], 1.0, 0)
    assert whole is not None
    assert whole.num_bytes == 2 * GIB - 2 * GIB // 10
    assert "GPU" in whole.of
    half = usable_memory(HOST, [CPU, GPU], 0.5, 0)
    assert half is not None
    assert half.num_bytes == 2 * whole.num_bytes
    assert usable_memory(HOST, [CPU, GPU], 0.0, 0) == usable_memory(HOST, [CPU], 0.0, 0)
    two = usable_memory(HOST, [GPU, GPU, {**GPU, "kind": "igpu"}], 1.0, 0)
    assert two is not None
    assert two.num_bytes == 4 * GIB - 4 * GIB // 10


# --- the plan --------------------------------------------------------------------------------------------------------


def planner(num_bytes: int, beside_weights: int | None = None, costs: ModelCosts | None = None) -> ContextPlanner:
    weights = None if beside_weights is None else Free(beside_weights, "memory")
    return ContextPlanner(costs or costs_of("llama", LLAMA_8B), Free(num_bytes, "memory"), 512, 64, weights)


def test_what_fits_is_had_as_it_is() -> None:
    assert planner(4 * GIB).wished(16384) == (16384, 64, 16384)
    assert planner(4 * GIB).chosen(8192) == (8192, 64, 8192)
    assert planner(4 * GIB).chosen(100) == (100, 64, 100)
    assert planner(4 * GIB).wished(20).max_sequences == 20  # no more than tokens


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(ModelLoadFailed) as caught:
        planner(GIB).wished(131072)
    error = caught.value
    assert error.free_bytes == GIB
    assert error.needed_bytes is not None
    assert 16 * GIB < error.needed_bytes < 18 * GIB
    assert error.fitting_context is not None
    assert "131072 tokens needs 16." in error.message
    assert "1.0 GiB of memory" in error.message
    assert f"{error.fitting_context} tokens would fit" in error.message
    assert planner(GIB).wished(error.fitting_context).context_size == error.fitting_context
    with pytest.raises(ModelLoadFailed):
        planner(GIB).wished(int(1.05 * error.fitting_context))
    assert error.details == {
        "needed_bytes": error.needed_bytes,
        "free_bytes": GIB,
        "fitting_context": error.fitting_context,
    }


def test_where_not_even_one_block_fits_it_says_so() -> None:
    with pytest.raises(ModelLoadFailed, match="no context would fit"):
        planner(10 * MIB).wished(256)
    with pytest.raises(ModelLoadFailed, match=f"{LEAST_CONTEXT} tokens needs"):
        planner(10 * MIB).chosen(8192)


def test_a_choice_is_smaller_where_memory_is_short(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        plan = planner(GIB // 2).chosen(8192)
    assert plan.full_size == 8192
    assert LEAST_CONTEXT < plan.context_size < 4096
    assert f"{plan.context_size} tokens instead of 8192" in caplog.text


def test_a_choice_leaves_the_weights_in_memory_and_a_wish_need_not(caplog: pytest.LogCaptureFixture) -> None:
    short = planner(4 * GIB, beside_weights=GIB // 2)
    assert short.chosen(8192).context_size < 4096
    with caplog.at_level(logging.WARNING):
        assert short.wished(8192).context_size == 8192
    assert "too little memory for the weights" in caplog.text
    assert planner(4 * GIB, beside_weights=0).chosen(8192).context_size == LEAST_CONTEXT


def test_states_that_are_too_large_leave_room_for_fewer_sequences() -> None:
    costs = ModelCosts(cell=1024, state=64 * MIB, activations=0, hidden=0, logits=0)
    plan = planner(GIB, costs=costs).chosen(8192)
    assert plan == (8192, 8, 8192)
    assert planner(64 * GIB, costs=costs).chosen(8192).max_sequences == 64
    with pytest.raises(ModelLoadFailed):
        planner(50 * MIB, costs=costs).chosen(8192)


@given(st.integers(0, 300), st.integers(1, 300))
def test_the_largest_that_fits(true_up_to: int, limit: int) -> None:
    assert largest_fitting(lambda number: number <= true_up_to, limit) == min(true_up_to, limit)


@given(num_bytes=st.integers(0, 64 * GIB), full_size=st.integers(1, LARGEST_CONTEXT), slots=st.integers(1, 256))
def test_a_choice_always_fits_and_never_exceeds_what_is_full(num_bytes: int, full_size: int, slots: int) -> None:
    costs = costs_of("llama", LLAMA_8B)
    try:
        plan = ContextPlanner(costs, Free(num_bytes, "memory"), 512, slots).chosen(full_size)
    except ModelLoadFailed:
        least = min(full_size, LEAST_CONTEXT)
        fewest = min(slots, least)
        assert costs.context(least, least, fewest, fewest) > num_bytes
        return
    assert plan.context_size <= full_size
    batch = min(512, plan.context_size)
    assert costs.context(plan.context_size, batch, plan.max_sequences, plan.max_sequences) <= num_bytes


def test_bytes_in_words() -> None:
    assert [describe_bytes(n) for n in (0, MIB, MIB + 1, GIB, 25 * GIB // 10)] == [
        "0 bytes",
        "1 MiB",
        "2 MiB",
        "1.0 GiB",
        "2.5 GiB",
    ]
