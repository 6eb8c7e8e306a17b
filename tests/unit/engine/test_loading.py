"""What an engine says when its model cannot be loaded, and how much it takes for memory of others."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tiny_models import model_file
from unit.engine.native_bench import SETTINGS, make_spec

from dmr.engine import loading
from dmr.engine.loading import load_failure, load_model
from dmr.errors import ModelLoadFailed
from dmr.memory.free_memory import Free

GIB = 1 << 30


@pytest.mark.parametrize("text", ["unable to allocate CUDA0 buffer", "cudaMalloc failed: out of memory"])
def test_a_failed_allocation_is_want_of_memory(tmp_path: Path, text: str) -> None:
    path = tmp_path / "weights.gguf"
    path.write_bytes(bytes(1000))
    assert load_failure(RuntimeError(text), [str(path)]).details == {"needed_bytes": 1000}


def test_other_failures_are_not(tmp_path: Path) -> None:
    path = model_file("tiny-random", tmp_path)
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ModelLoadFailed) as caught:
        load_model(make_spec(damaged, SETTINGS), lambda fraction: True)
    assert caught.value.details == {}


def test_what_is_reserved_for_others_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "free_memory", lambda weights: Free(8 * GIB, "the machine's memory"))
    spec = make_spec(model_file("tiny-random", tmp_path), SETTINGS)
    found = []
    for reserved in (0, 4 * GIB, 100 * GIB):
        loaded = load_model(msgspec.structs.replace(spec, reserved_bytes=reserved), lambda fraction: True)
        free, beside_weights = loaded.usable_memory(SETTINGS)
        assert free == beside_weights
        assert free is not None
        found.append(free.num_bytes)
    assert 7 * GIB < found[0] < 8 * GIB
    assert 3 * GIB < found[1] < 4 * GIB
    assert found[2] == 0
