from __future__ import annotations

import contextlib
import os
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.store.gguf_bytes import ARRAY, F32, SCALARS, STRING, U32, U64, Tensor, Typed, gguf_bytes, string

from dmr.errors import InvalidModelFile
from dmr.store.ggml_tables import FILE_TYPES, TENSOR_TYPES
from dmr.store.gguf import GGUFHeader, SkippedArray, read_gguf_header
from dmr.store.gguf_config import describe_gguf, format_count, format_size


def read(tmp_path: Path, data: bytes) -> GGUFHeader:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    return read_gguf_header(path)


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(InvalidModelFile) as caught:
        read(tmp_path, data)
    return caught.value.message


@pytest.mark.parametrize("version", [2, 3])
def test_all_value_types(tmp_path: Path, version: int) -> None:
    metadata: dict[str, Any] = {f"scalar.{kind}": Typed(kind, 1) for kind in SCALARS}
    metadata["text"] = "grüße"
    metadata["broken text"] = Typed(STRING, b"\xff")
    metadata["numbers"] = Typed(ARRAY, [1, 2, 3], U32)
    metadata["texts"] = Typed(ARRAY, ["a", "", "c"], STRING)
    metadata["empty"] = Typed(ARRAY, [], STRING)
    metadata["nested"] = Typed(ARRAY, [Typed(ARRAY, [1], U32), Typed(ARRAY, ["x", "y"], STRING)], ARRAY)
    header = read(tmp_path, gguf_bytes(metadata, version=version))
    assert header.version == version
    assert all(header.metadata[f"scalar.{kind}"] == 1 for kind in SCALARS)
    assert header.metadata["scalar.7"] is True
    assert header.metadata["text"] == "grüße"
    assert header.metadata["broken text"] == "\ufffd"
    assert header.metadata["numbers"] == (1, 2, 3)
    assert header.metadata["texts"] == ("a", "", "c")
    assert header.metadata["empty"] == ()
    assert header.metadata["nested"] == ((1,), ("x", "y"))


def test_tensors(tmp_path: Path) -> None:
    quantised = Tensor("q", (64, 3), 8, bytes(6 * 34))
    header = read(tmp_path, gguf_bytes(tensors=[Tensor("a"), quantised, Tensor("scalar", (), 0, bytes(4))]))
    assert [tensor.name for tensor in header.tensors] == ["a", "q", "scalar"]
    assert header.tensors[1].shape == (64, 3)
    assert (header.num_tensors, header.num_parameters) == (3, 32 + 192 + 1)
    assert header.data_offset % 32 == 0


def test_the_official_package_agrees(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_token_list([f"token{i}" for i in range(3000)])
    writer.add_array("small", [1.5, 2.5])
    writer.add_tensor("w", numpy.ones((4, 64), dtype=numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header, reader = read_gguf_header(path), gguf.GGUFReader(path)
    assert header.tensors[0].shape == tuple(reader.tensors[0].shape) == (64, 4)
    assert header.data_offset + header.tensors[0].offset == reader.tensors[0].data_offset
    assert header.metadata["tokenizer.ggml.tokens"] == SkippedArray(STRING, 3000)
    assert header.metadata["small"] == (1.5, 2.5)
    sizes = {kind.value: gguf.GGML_QUANT_SIZES[kind] for kind in gguf.GGMLQuantizationType}
    ours = {number: (block.block_size, block.block_bytes) for number, block in TENSOR_TYPES.items()}
    # The package counts Q8_1's two half-precision factors as single precision; ggml.c says 36.
    assert {k: v for k, v in ours.items() if k in sizes and k != 9} == {
        k: v for k, v in sizes.items() if k in ours and k != 9
    }
    names = {kind.value: kind.name.partition("_")[2] for kind in gguf.LlamaFileType}
    assert all(names[number] == name for number, name in FILE_TYPES.items() if number in names)


def test_a_large_vocabulary_is_fast_and_small(tmp_path: Path) -> None:
    count = 150_000
    tokens = struct.pack("<IQ", STRING, count) + b"".join(string(f"token number {i}") for i in range(count))
    scores = struct.pack("<IQ", F32, count) + bytes(4 * count)
    key = [string("tokens"), struct.pack("<I", ARRAY), tokens, string("scores"), struct.pack("<I", ARRAY), scores]
    data = struct.pack("<4sIQQ", b"GGUF", 3, 0, 2) + b"".join(key)
    path = tmp_path / "x.gguf"
    path.write_bytes(data + bytes(-len(data) % 32))
    start = time.perf_counter()
    header = read_gguf_header(path)
    assert time.perf_counter() - start < 1
    assert header.metadata == {"tokens": SkippedArray(STRING, count), "scores": SkippedArray(F32, count)}
    tracemalloc.start()
    read_gguf_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_strings_longer_than_the_window(tmp_path: Path) -> None:
    long = "x" * (3 << 20)
    texts = ["", long, "y", *["z"] * 2000]
    header = read(tmp_path, gguf_bytes({"long": long, "texts": Typed(ARRAY, texts, STRING), "after": 7}))
    assert header.metadata["long"] == long
    assert header.metadata["texts"] == SkippedArray(STRING, len(texts))
    assert header.metadata["after"] == 7


def deep_array(depth: int) -> bytes:
    return (
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + string("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * depth
    )


def one_key(kind: int, value: bytes) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + string("k") + struct.pack("<I", kind) + value + bytes(64)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not begin with 'GGUF'"),
        (b"GG", "does not begin with 'GGUF'"),
        (b"PK\x03\x04" * 100, "does not begin with 'GGUF'"),
        (b"GGUF", "truncated"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "version 1"),
        (struct.pack("<4sIQQ", b"GGUF", 4, 0, 0), "version 4"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "big-endian"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 2**63, 0), "tensors"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**64 - 1), "metadata keys"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1000, 1000), "truncated"),
        (deep_array(1000), "nested"),
        (one_key(13, b""), "unknown type 13"),
        (one_key(ARRAY, struct.pack("<IQ", 13, 1)), "unknown type 13"),
        (one_key(STRING, struct.pack("<Q", 2**63)), "bytes long"),
        (one_key(STRING, struct.pack("<Q", 1000)), "truncated"),
        (one_key(ARRAY, struct.pack("<IQ", U64, 2**61)), "truncated"),
        (one_key(ARRAY, struct.pack("<IQ", U64, 100)), "truncated"),
        (one_key(ARRAY, struct.pack("<IQ", STRING, 2**60)), "elements of varying length"),
        (one_key(ARRAY, struct.pack("<IQ", ARRAY, 2**60)), "truncated"),
        (one_key(ARRAY, struct.pack("<IQQ", STRING, 2000, 2**64 - 1) + bytes(16_000)), "truncated"),
        (gguf_bytes({"": 1}), "empty or not printable"),
        (gguf_bytes({"a\x00": 1}), "empty or not printable"),
        (gguf_bytes({"general.alignment": 0}), "power of two"),
        (gguf_bytes({"general.alignment": 24}), "power of two"),
        (gguf_bytes({"general.alignment": "32"}), "power of two"),
        (gguf_bytes(tensors=[Tensor("a"), Tensor("a")]), "occurs twice"),
        (gguf_bytes(tensors=[Tensor("n" * 64)]), "64 bytes long"),
        (gguf_bytes(tensors=[Tensor("a", (1, 1, 1, 1, 1))]), "5 dimensions"),
        (gguf_bytes(tensors=[Tensor("a", (0,))]), "impossible shape"),
        (gguf_bytes(tensors=[Tensor("a", (2**32, 2**32))]), "impossible shape"),
        (gguf_bytes(tensors=[Tensor("a", (33,), 8)]), "Q8_0 blocks"),
        (gguf_bytes(tensors=[Tensor("a", offset=4)]), "not aligned"),
        (gguf_bytes(tensors=[Tensor("a", offset=2**64 - 32)]), "truncated"),
    ],
)
def test_bad_files_are_refused_with_a_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    message = refusal(tmp_path, data)
    assert reason in message
    assert "x.gguf" in message


def test_a_key_that_occurs_twice(tmp_path: Path) -> None:
    key = string("k") + struct.pack("<II", U32, 1)
    assert "'k' occurs twice" in refusal(tmp_path, struct.pack("<4sIQQ", b"GGUF", 3, 0, 2) + key + key)


def test_missing_weights_are_found_by_the_size(tmp_path: Path) -> None:
    data = gguf_bytes(tensors=[Tensor("a"), Tensor("b")])
    message = refusal(tmp_path, data[:-1])
    offset = len(data) - 128
    assert f"tensor 'b' needs 128 bytes at offset {offset} but the file has {len(data) - 1}" in message


def test_types_newer_than_the_table_are_accepted(tmp_path: Path) -> None:
    assert read(tmp_path, gguf_bytes(tensors=[Tensor("a", (2**20,), 99)])).tensors[0].type == 99


def test_every_truncation_of_a_good_file_is_found(tmp_path: Path) -> None:
    data = gguf_bytes({"general.architecture": "llama", "list": Typed(ARRAY, ["a", "b"], STRING)})
    for length in range(len(data)):
        refusal(tmp_path, data[:length])


GOOD = gguf_bytes(
    {
        "general.architecture": "llama",
        "n": Typed(ARRAY, [Typed(ARRAY, [1, 2], U32)], ARRAY),
        "t": Typed(ARRAY, ["a"], STRING),
    },
    [Tensor("w", (32, 2), 2, bytes(36)), Tensor("b")],
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=1000)
@given(
    st.lists(
        st.tuples(st.integers(0, len(GOOD) - 1), st.sampled_from([0, 1, 8, 9, 0x7F, 0x80, 0xFF])),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, len(GOOD)),
)
def test_damage_is_survived(tmp_path: Path, changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(GOOD)
    for at, byte in changes:
        data[at] = byte
    for candidate in (bytes(data), bytes(data[:length])):
        try:
            header = read(tmp_path, candidate)
        except InvalidModelFile:
            continue
        describe_gguf(header, len(candidate))


@pytest.mark.parametrize(
    "data",
    [
        one_key(ARRAY, struct.pack("<IQ", 0, 2**39)),  # really there, so it is passed over
        one_key(ARRAY, struct.pack("<IQ", STRING, 300_000)),
        one_key(ARRAY, struct.pack("<IQ", ARRAY, 90_000)),
        one_key(STRING, struct.pack("<Q", 2**39)),
        struct.pack("<4sIQQ", b"GGUF", 3, 131_072, 0),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 65_536),
        struct.pack("<4sIQQ", b"GGUF", 3, 2**40 // 24, 0),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**40 // 14),
    ],
)
def test_a_file_with_room_for_all_it_claims_takes_little_memory(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "sparse.gguf"
    path.write_bytes(data)
    os.truncate(path, 1 << 40)
    tracemalloc.start()
    with contextlib.suppress(InvalidModelFile):
        read_gguf_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("name", ["missing.gguf", "nul\x00byte", "n" * 300])
def test_unopenable_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidModelFile, match="cannot be opened"):
        read_gguf_header(tmp_path / name)


def test_a_folder_and_a_pipe_are_not_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InvalidModelFile, match="not a regular file"):
            read_gguf_header(path)


def test_the_config_of_a_file(tmp_path: Path) -> None:
    metadata = {
        "general.architecture": "llama",
        "llama.context_length": 8192,
        "general.file_type": 1024 + 15,
        "rope.base": 10000.5,
        "flag": True,
        "tags": Typed(ARRAY, ["a", "b"], STRING),
        "fifty": Typed(ARRAY, [1] * 50, U32),
        "fifty-one": Typed(ARRAY, [1] * 51, U32),
        "vocabulary": Typed(ARRAY, [1] * 5000, U32),
    }
    tensor = Tensor("w", (1000, 2), 0, bytes(8000))
    data = gguf_bytes(metadata, [tensor])
    config = describe_gguf(read(tmp_path, data), len(data))
    assert (config.format, config.architecture, config.quantization) == ("gguf", "llama", "Q4_K_M")
    assert (config.parameters, config.size, config.context_size) == ("2.00K", "7.81KiB", 8192)
    assert config.gguf == {
        "general.architecture": "llama",
        "llama.context_length": "8192",
        "general.file_type": "1039",
        "rope.base": "10000.500000",
        "flag": "true",
        "tags": "a, b",
        "fifty": ", ".join(["1"] * 50),
    }


def test_the_config_without_a_file_type_names_the_commonest_tensor_type(tmp_path: Path) -> None:
    data = gguf_bytes({}, [Tensor("norm"), Tensor("w", (64,), 8, bytes(68))])
    assert describe_gguf(read(tmp_path, data), len(data)).quantization == "Q8_0"
    assert describe_gguf(read(tmp_path, gguf_bytes({}, [])), 0).quantization == "unknown"


@pytest.mark.parametrize("length", [0, 2**31, "8192", True, -1.0])
def test_a_nonsensical_context_length_is_left_out(tmp_path: Path, length: Any) -> None:
    data = gguf_bytes({"general.architecture": "a", "a.context_length": length})
    assert describe_gguf(read(tmp_path, data), len(data)).context_size is None


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00K"),
        (134_515_008, "134.52M"),
        (999_999_999, "1.00B"),
        (7_241_732_096, "7.24B"),
    ],
)
def test_counts(count: int, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.00KiB"),
        (96_186_000, "91.73MiB"),
        (2**30 - 1, "1.00GiB"),
        (2**40, "1.00TiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert format_size(size) == text
