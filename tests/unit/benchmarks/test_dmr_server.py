from __future__ import annotations

from pathlib import Path

import pytest
from unit.store.gguf_bytes import gguf_bytes

from versus.dmr_server import copy_under_another_name, import_model

METADATA = {"general.architecture": "llama", "llama.context_length": 2048}


def test_a_copy_is_another_model_of_the_same_size(tmp_path: Path) -> None:
    file, copy = tmp_path / "one.gguf", tmp_path / "two.gguf"
    file.write_bytes(gguf_bytes({**METADATA, "general.name": "Small"}))
    copy_under_another_name(file, copy)
    one, two = file.read_bytes(), copy.read_bytes()
    assert two.replace(b"Rmall", b"Small") == one != two
    import_model(tmp_path / "models", file, "bench/model-0")
    import_model(tmp_path / "models", copy, "bench/model-1")
    from dmr.store.store import ModelStore

    assert len({record.id for record in ModelStore(tmp_path / "models").models()}) == 2


def test_without_a_name_there_is_no_second_model(tmp_path: Path) -> None:
    file = tmp_path / "one.gguf"
    file.write_bytes(gguf_bytes(METADATA))
    with pytest.raises(ValueError, match=r"one\.gguf has no general\.name"):
        copy_under_another_name(file, tmp_path / "two.gguf")
