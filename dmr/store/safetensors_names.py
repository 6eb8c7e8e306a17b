"""Gives tensors of a safetensors file other names: a new header before the same bytes."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmr.errors import InvalidModelFile

MAX_HEADER_BYTES = 100_000_000  # as the format's own reader has it
# llama.cpp's converter leaves a BERT's pooler out, as if every BERT made embeddings. One that ranks needs it, and the
# converter knows it by the names that RoBERTa has for it: without it every score is squashed and wrong.
RANKING_POOLER: Mapping[str, str] = {
    "bert.pooler.dense.weight": "classifier.dense.weight",
    "bert.pooler.dense.bias": "classifier.dense.bias",
}
_RANKING_ARCHITECTURE = "BertForSequenceClassification"


def keep_ranking_pooler(folder: Path) -> None:
    """In a folder of links to a model, replace those files that hold the pooler of a BERT that ranks.

    Raises:
        InvalidModelFile: a file has no header that can be read.
    """
    try:
        description = json.loads((folder / "config.json").read_bytes())
        is_ranking = description.get("architectures") == [_RANKING_ARCHITECTURE]
    except (OSError, ValueError, AttributeError, RecursionError):
        return  # the converter has its own words for that
    for path in folder.glob("*.safetensors") if is_ranking else ():
        rename_tensors(path, RANKING_POOLER)


def rename_tensors(path: Path, names: Mapping[str, str]) -> None:
    """Leave `path` as it is unless it holds one of the names; else it becomes a file of its own, if it was a link."""
    with path.open("rb") as source:
        length = _header_length(path, source.read(8))
        try:
            entries: dict[str, Any] = json.loads(source.read(length))
            if not names.keys() & entries.keys():
                return
        except (ValueError, AttributeError, RecursionError):
            raise InvalidModelFile(f"{path.name} is no safetensors file: its header cannot be read.") from None
        text = json.dumps({names.get(name, name): entry for name, entry in entries.items()}).encode()
        text += b" " * (-len(text) % 8)
        renamed = path.with_name(f"{path.name}.renamed")
        with renamed.open("wb") as target:
            target.write(struct.pack("<Q", len(text)) + text)
            source.seek(8 + length)
            shutil.copyfileobj(source, target, 1 << 20)
    renamed.replace(path)


def _header_length(path: Path, prefix: bytes) -> int:
    """In bytes."""
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER_BYTES + 1
    if length > MAX_HEADER_BYTES:
        raise InvalidModelFile(f"{path.name} is no safetensors file: its header cannot be read.")
    return int(length)
