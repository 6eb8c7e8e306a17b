"""What a model can do, as its files tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import model_file

from dmr.service.capabilities import Capabilities
from dmr.store.store import ModelStore

SENSES = ("vision", "audio")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize(
    ("projector", "expected"),
    [(None, ()), ("tiny-script-mmproj", ("vision",)), ("tiny-script-ear", ("audio",))],
)
def test_senses_are_those_of_the_projector(
    folder: Path, tmp_path: Path, projector: str | None, expected: tuple[str, ...]
) -> None:
    store = ModelStore(tmp_path)
    mmproj = None if projector is None else model_file(projector, folder)
    record = store.import_gguf(model_file("tiny-script", folder), "test/it", mmproj=mmproj)
    found = Capabilities(store).of(record)
    assert tuple(sense for sense in SENSES if sense in found) == expected
    assert "completion" in found


def test_a_damaged_projector_costs_its_senses_only(folder: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    mmproj = model_file("tiny-script-mmproj", folder)
    record = store.import_gguf(model_file("tiny-script", folder), "test/it", mmproj=mmproj)
    file = store.files(record.id).mmproj
    assert file is not None
    size = file.stat().st_size
    file.chmod(0o600)
    file.write_bytes(bytes(size))
    found = Capabilities(store).of(record)
    assert "completion" in found
    assert not set(SENSES) & set(found)
