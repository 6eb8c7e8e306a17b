from __future__ import annotations

import struct
from pathlib import Path

import gguf
import pytest

from dmr.memory.layer_arrays import read_layer_arrays


def write(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "mixed")
    writer.add_string("general.name", "a name")
    writer.add_array("general.tags", ["one", "two"])
    writer.add_array("mixed.attention.head_count_kv", [0, 8, 0, 4])
    writer.add_array("mixed.attention.sliding_window_pattern", [True, False, True, False])
    writer.add_array("mixed.scales", [0.5, 0.25])
    writer.add_uint64("mixed.context_length", 4096)
    writer.add_array("tokenizer.ggml.token_type", [1, 2, 3])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def test_the_arrays_of_whole_numbers_before_the_vocabulary(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf")
    assert read_layer_arrays(tmp_path / "model.gguf") == {
        "mixed.attention.head_count_kv": (0, 8, 0, 4),
        "mixed.attention.sliding_window_pattern": (True, False, True, False),
    }


def test_what_is_damaged_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path)
    whole = path.read_bytes()
    for length in range(0, whole.index(b"tokenizer.ggml.token_type"), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError):
            read_layer_arrays(path)
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", 1) + b"x" + struct.pack("<I", 99))
    with pytest.raises(ValueError, match="unknown type 99"):
        read_layer_arrays(path)
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", 1 << 60))
    with pytest.raises(ValueError, match="too long"):
        read_layer_arrays(path)
    path.write_bytes(b"GGML" + bytes(100))
    with pytest.raises(ValueError, match="no"):
        read_layer_arrays(path)
    with pytest.raises(OSError):
        read_layer_arrays(tmp_path / "missing.gguf")
