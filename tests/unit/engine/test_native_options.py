"""Settings of an engine reach the native side, and what they cannot be is told as a failed load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiny_models import model_file

from dmr.config import AttentionSettings, DraftSettings, EngineSettings, RopeSettings, WeightSettings
from dmr.engine import worker
from dmr.engine.loading import load_model
from dmr.engine.model_runner import ModelRunner
from dmr.engine.native_options import context_options
from dmr.engine.pool import Sharing
from dmr.errors import ModelLoadFailed
from dmr.wire import EngineSpec

SMALL = EngineSettings(context_size=256, max_num_seqs=2, num_threads=1, host_cache_bytes=0)
Spec = Callable[..., EngineSpec]


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    def make(name: str = "tiny-random", others: dict[str, Any] | None = None, **fields: Any) -> EngineSpec:
        settings = msgspec.structs.replace(SMALL, **fields)
        weights = (str(model_file(name, tmp_path)),)
        return EngineSpec("test", weights, None, str(tmp_path / "socket"), settings, **(others or {}))

    return make


def build(spec: EngineSpec) -> worker.Machinery:
    return worker.build(spec, lambda fraction: True)


def test_every_field_is_taken_over() -> None:
    settings = EngineSettings(
        num_threads=3,
        num_batch_threads=5,
        thread_polling=70,
        attention=AttentionSettings("on", "q8_0", "q4_0", offload_cells=False, offload_operations=False),
        rope=RopeSettings("yarn", 1e6, 0.5, 4096, 1.0, 2.0, 3.0, 4.0),
    )
    options = context_options(settings)
    threads = (options.num_threads, options.num_batch_threads, options.thread_polling)
    assert threads == (3, 5, 70)
    for name in AttentionSettings.__struct_fields__:
        assert getattr(options, name) == getattr(settings.attention, name), name
    for name in RopeSettings.__struct_fields__:
        assert getattr(options.rope, name) == getattr(settings.rope, name), name


def test_a_number_that_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match="yarn_orig_ctx is out of range"):
        context_options(EngineSettings(rope=RopeSettings(yarn_orig_ctx=-1)))


def test_smaller_cells_take_less_memory(spec: Spec) -> None:
    plain = load_model(spec(), lambda fraction: True).costs.cell
    small = load_model(spec(attention=AttentionSettings("on", "q8_0", "q8_0")), lambda fraction: True)
    assert small.costs.cell < plain
    assert small.with_cells(AttentionSettings()).costs.cell == plain


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"attention": AttentionSettings("off", "q8_0")}, "flash attention"),
        ({"weights": WeightSettings(devices=("CUDA77",))}, "CUDA77"),
        ({"rope": RopeSettings(scaling="spiral")}, "spiral"),
        ({"attention": AttentionSettings("sometimes")}, "sometimes"),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_failed_load(spec: Spec, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelLoadFailed, match=reason):
        ModelRunner.load(spec(**fields), lambda fraction: True)


def test_prefixes_are_shared_unless_it_is_switched_off(spec: Spec) -> None:
    assert ModelRunner.load(spec(), lambda fraction: True).sharing is Sharing.ANYWHERE
    assert ModelRunner.load(spec(shares_prefixes=False), lambda fraction: True).sharing is Sharing.NONE


def test_vectors_are_made_by_the_settings_of_their_mode(spec: Spec) -> None:
    embedding = msgspec.structs.replace(SMALL, context_size=64, pooling="mean")
    machinery = build(spec(others={"embedding": embedding}))
    runner = machinery.embedder._runner
    assert (runner.pooling, runner.max_input_tokens, machinery.info.context_size) == ("mean", 64, 256)


def test_a_reranker_has_its_own_settings(spec: Spec) -> None:
    reranking = msgspec.structs.replace(SMALL, context_size=32)
    machinery = build(spec("tiny-rerank", others={"reranking": reranking}))
    assert machinery.info.context_size == 32


def test_a_model_without_a_head_cannot_be_made_to_rank(spec: Spec) -> None:
    embedding = msgspec.structs.replace(SMALL, pooling="rank")
    with pytest.raises(ModelLoadFailed, match="no head that scores"):
        build(spec(others={"embedding": embedding}))


def test_a_draft_model_keeps_its_own_number_of_threads(spec: Spec, tmp_path: Path) -> None:
    path = str(model_file("tiny-random", tmp_path))
    loading = spec(draft_model=path, speculation="draft", num_threads=0, draft=DraftSettings(num_threads=1))
    runner = ModelRunner.load(loading, lambda fraction: True)
    runner._adapt_threads()  # it would be refused by a context that was made with fewer
    assert runner.has_draft_model
