"""The manager's estimate beside the engine's own, of the same files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import MODELS, model_file

from dmr import _core
from dmr.config import AttentionSettings, EngineSettings, ProjectorSettings
from dmr.engine.loading import context_costs
from dmr.manager.memory_need import memory_need
from dmr.memory.architectures import is_hybrid, is_recurrent
from dmr.memory.context_planner import ContextPlanner

SETTINGS = EngineSettings(max_num_seqs=4, max_batch_tokens=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("name", MODELS)
def test_it_is_what_the_engine_says_of_the_loaded_model(folder: Path, name: str) -> None:
    path = model_file(name, folder)
    model = _core.Model([str(path)])
    architecture = model.metadata["general.architecture"]
    assert (is_recurrent(architecture), is_hybrid(architecture)) == (model.is_recurrent, model.is_hybrid)
    costs = context_costs(model, str(path))
    need = memory_need([path], SETTINGS, 8192)
    assert need.weights == path.stat().st_size
    assert need.full == need.weights + costs.context(8192, 64, 8, 8)
    assert need.weights < need.least <= need.half < need.full
    assert need.fitting_context(need.full) == 8192


def test_cells_of_another_type_count(folder: Path) -> None:
    path = model_file("tiny-random", folder)
    small = EngineSettings(
        max_num_seqs=4, max_batch_tokens=64, attention=AttentionSettings(key_type="q8_0", value_type="q8_0")
    )
    assert memory_need([path], small, 8192).full < memory_need([path], SETTINGS, 8192).full


def test_a_draft_model_counts(folder: Path) -> None:
    path, draft = model_file("tiny-random", folder), model_file("tiny-script", folder)
    plain = memory_need([path], SETTINGS, 8192)
    both = memory_need([path], EngineSettings(max_num_seqs=4, max_batch_tokens=64, draft_model=str(draft)), 8192)
    assert both.weights == plain.weights + draft.stat().st_size
    assert both.full - both.weights > plain.full - plain.weights
    absent = EngineSettings(max_num_seqs=4, max_batch_tokens=64, draft_model=str(folder / "absent"))
    assert memory_need([path], absent, 8192).full == plain.full


def test_a_projector_counts_where_it_is_used(folder: Path) -> None:
    path, projector = model_file("tiny-random", folder), model_file("tiny-random-mmproj", folder)
    plain, seeing = memory_need([path], SETTINGS, 8192), memory_need([path], SETTINGS, 8192, projector)
    assert seeing.weights - plain.weights >= projector.stat().st_size
    assert seeing.full - plain.full == seeing.weights - plain.weights
    blind = EngineSettings(max_num_seqs=4, max_batch_tokens=64, projector=ProjectorSettings(is_used=False))
    assert memory_need([path], blind, 8192, projector).full == plain.full


def test_who_is_told_its_context_needs_all_of_it(folder: Path) -> None:
    need = memory_need([model_file("tiny-random", folder)], EngineSettings(context_size=2048), 8192)
    assert need.least == need.half == need.full
    assert "2048 tokens" in need.describe()


def test_a_bound_of_contexts_bounds_what_is_needed(folder: Path) -> None:
    path = model_file("tiny-random", folder)
    most = memory_need([path], SETTINGS, 512).context(512) + 1000
    need = memory_need([path], EngineSettings(max_num_seqs=4, max_batch_tokens=64, context_bytes=most), 8192)
    assert need.full == need.weights + most


def test_an_engine_plans_no_more_than_its_claim(folder: Path) -> None:
    path = model_file("tiny-random", folder)
    need = memory_need([path], SETTINGS, 8192)
    planner = ContextPlanner(context_costs(_core.Model([str(path)]), str(path)), None, 64, 8)
    assert planner.needed(8192) == need.full - need.weights


def test_a_file_that_is_no_model_counts_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    need = memory_need([path], SETTINGS, 8192)
    assert need.full == need.least == need.weights == 1004
    assert need.fitting_context(1 << 40) == 0
    assert need.describe() == "1004 bytes of weights"
