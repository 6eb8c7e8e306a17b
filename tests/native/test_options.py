"""How models are loaded and contexts made: what each option changes, and which are refused before ggml aborts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native.objects import make_context, prefill
from tiny_models import model_file

from dmr import _core

PROMPT = [10, 20, 30, 40, 50, 60, 70, 80]
QUANTIZED = ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]


@pytest.fixture(scope="module")
def weights(models_folder: Path) -> str:
    return str(model_file("tiny-random", models_folder))


def logits(model: _core.Model, **fields: Any) -> Any:
    return prefill(make_context(model, **fields), 0, PROMPT)


def rope(**fields: Any) -> _core.RopeOptions:
    options = _core.RopeOptions()
    for name, value in fields.items():
        setattr(options, name, value)
    return options


@pytest.mark.parametrize(
    "options",
    [
        {"use_mmap": False},
        {"use_mmap": False, "use_direct_io": True},
        {"repack": False},
        {"use_host_buffers": False},
        {"split_mode": "none"},
        {"split_mode": "row"},
        {"tensor_split": (3.0, 1.0)},
        {"devices": ("none",)},
        {"num_cpu_expert_layers": 2},
        {"num_cpu_expert_layers": -1},
    ],
    ids=str,
)
def test_where_weights_lie_does_not_change_what_they_say(weights: str, options: dict[str, Any]) -> None:
    plain = logits(_core.Model([weights]))
    assert np.allclose(logits(_core.Model([weights], **options)), plain, atol=0.05)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"devices": ("CUDA77",)}, "no device named CUDA77"),
        ({"devices": ("CPU",)}, "no device named CPU"),
        ({"split_mode": "columns"}, "not columns"),
        ({"tensor_split": (-1.0,)}, "negative"),
        ({"tensor_split": (float("nan"),)}, "no number"),
        ({"tensor_split": (1.0,) * 999}, "more than"),
        ({"use_direct_io": True, "use_mlock": True}, "exclude"),
        ({"num_cpu_expert_layers": -2}, "out of range"),
        ({"num_cpu_expert_layers": 1 << 20}, "out of range"),
    ],
    ids=str,
)
def test_options_of_a_model_that_cannot_be_are_refused(weights: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        _core.Model([weights], **options)


def test_tensors_over_devices_that_are_not_there_fail_the_load(weights: str) -> None:
    if any(device["kind"] in ("gpu", "igpu") for device in _core.devices()):
        pytest.skip("there is a device")
    with pytest.raises(_core.LoadError):
        _core.Model([weights], split_mode="tensor")


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("attention", ["auto", "on"])
def test_quantized_cells_say_nearly_the_same(random_model: _core.Model, kind: str, attention: str) -> None:
    plain = logits(random_model)
    found = logits(random_model, key_type=kind, value_type=kind, flash_attention=attention)
    assert not np.array_equal(found, plain)
    assert np.corrcoef(found, plain)[0, 1] > 0.95


@pytest.mark.parametrize("fields", [{"key_type": "q8_0"}, {"value_type": "q4_0"}], ids=str)
def test_quantized_cells_without_flash_attention_are_refused(random_model: _core.Model, fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="flash attention"):
        make_context(random_model, flash_attention="off", **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"scaling": "linear", "freq_scale": 0.25},
        {"scaling": "yarn", "freq_scale": 0.25, "yarn_orig_ctx": 64},
        {"freq_base": 100.0},
        {"scaling": "yarn", "freq_scale": 0.5, "yarn_ext_factor": 0.5, "yarn_beta_fast": 16.0, "yarn_beta_slow": 2.0},
        {"scaling": "yarn", "freq_scale": 0.5, "yarn_attn_factor": 2.0},
    ],
    ids=str,
)
def test_the_rotary_embedding_can_be_stretched(load: Callable[[str], _core.Model], fields: dict[str, Any]) -> None:
    model = load("tiny-random")  # its own: a context may change what it says of its trained length
    assert np.array_equal(logits(model, rope=rope()), logits(model))
    assert not np.allclose(logits(model, rope=rope(**fields)), logits(model), atol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"scaling": "spiral"},
        {"freq_base": -1.0},
        {"freq_base": float("nan")},
        {"freq_scale": float("inf")},
        {"yarn_orig_ctx": 1 << 30},
        {"yarn_ext_factor": float("nan")},
    ],
    ids=str,
)
def test_a_rotary_embedding_that_cannot_be_is_refused(random_model: _core.Model, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rope|rotary"):
        make_context(random_model, rope=rope(**fields))


def test_batches_may_have_threads_of_their_own(random_model: _core.Model) -> None:
    assert np.allclose(logits(random_model, num_threads=1, num_batch_threads=2), logits(random_model), atol=1e-3)
    with pytest.raises(ValueError, match="num_batch_threads"):
        make_context(random_model, num_batch_threads=-1)


@pytest.mark.parametrize("fields", [{"offload_cells": False}, {"offload_operations": False}], ids=str)
def test_what_stays_with_the_cpu_says_the_same(random_model: _core.Model, fields: dict[str, bool]) -> None:
    assert np.allclose(logits(random_model, **fields), logits(random_model), atol=1e-3)
