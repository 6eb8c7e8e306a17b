"""Our kernels on the CPU: what each sequence gets is what ggml gives it, whoever else is in the batch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from native.objects import DONE, make_batch, make_context

from dmr import _core

ROOT = Path(__file__).parents[2]
Floats = npt.NDArray[np.float32]
LENGTHS = (3, 70, 0, 21, 130, 8)  # what the sequences hold before


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    assert _core.use_own_kernels(True)


def tokens(sequence: int, begin: int, count: int) -> list[int]:
    return [(17 * sequence + 5 * position) % 250 for position in range(begin, begin + count)]


def said(model: _core.Model, counts: tuple[int, ...], is_own: bool, **fields: Any) -> Floats:
    """The logits behind each part of a batch with so many tokens of each sequence, over memory with holes."""
    _core.use_own_kernels(False)
    context = make_context(model, max_sequences=len(LENGTHS), context_size=1024, max_batch=512, **fields)
    for sequence, length in enumerate(LENGTHS):
        if length:
            assert context.decode(make_batch((sequence, tokens(sequence, 0, length), 0))) == DONE
    context.remove(1, 60)
    held = [60 if sequence == 1 else length for sequence, length in enumerate(LENGTHS)]
    parts = [
        (sequence, tokens(sequence, held[sequence], count), held[sequence])
        for sequence, count in enumerate(counts)
        if count
    ]
    _core.use_own_kernels(is_own)
    assert context.decode(make_batch(*parts)) == DONE
    ends = np.cumsum([len(part[1]) for part in parts]) - 1
    return np.stack([context.logits(int(end)) for end in ends])


FIELDS: list[dict[str, Any]] = [
    {"flash_attention": "on"},
    {"flash_attention": "on", "key_type": "q8_0"},
    {"flash_attention": "on", "key_type": "q8_0", "value_type": "q8_0"},
    {"flash_attention": "on", "unified": False},
    {"flash_attention": "off"},
]


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("counts", [(1, 1, 1, 1, 1, 1), (1, 0, 0, 0, 1), (2, 9, 5, 1, 2, 30), (63,), (0, 0, 63)])
@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_few_rows_get_what_ggml_gives(
    random_model: _core.Model, counts: tuple[int, ...], num_threads: int, fields: dict[str, Any]
) -> None:
    threads = {"num_threads": num_threads, "num_batch_threads": num_threads}
    own, theirs = (said(random_model, counts, is_own, **threads, **fields) for is_own in (True, False))
    np.testing.assert_array_equal(own, theirs)
    assert np.all(np.isfinite(own))


@pytest.mark.parametrize("counts", [(0, 0, 0, 0, 9), (1, 65, 1, 1, 20), (200, 100), (1, 1, 62, 1, 40)])
@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: "-".join(map(str, fields.values())))
def test_prompts_among_others_get_nearly_that(
    random_model: _core.Model, counts: tuple[int, ...], fields: dict[str, Any]
) -> None:
    """Their tiles are others than ggml's; what they are to the last bit, attention_operations.cpp tells."""
    own, theirs = (said(random_model, counts, is_own, num_threads=1, **fields) for is_own in (True, False))
    np.testing.assert_allclose(own, theirs, atol=0.5 if fields.get("key_type") == "q8_0" else 0.05)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("sizes", [(64,), (200,), (100, 65), (70, 1, 80)])
def test_a_prompt_alone_gets_what_ggml_gives(
    random_model: _core.Model, sizes: tuple[int, ...], num_threads: int
) -> None:
    def logits(is_own: bool) -> Floats:
        _core.use_own_kernels(is_own)
        fields = {"num_threads": num_threads, "num_batch_threads": num_threads, "flash_attention": "on"}
        context = make_context(random_model, max_sequences=2, max_batch=512, **fields)
        begin = 0
        for size in sizes:
            assert context.decode(make_batch((0, tokens(0, begin, size), begin))) == DONE
            begin += size
        return context.logits(sizes[-1] - 1)

    np.testing.assert_array_equal(logits(True), logits(False))


@pytest.mark.parametrize("program_of", ["attention_operations", "kernel_operations"])
def test_operations_as_larger_models_have_them(program_of: str, tmp_path: Path) -> None:
    """Programs over the very libraries that the extension is made of."""
    folder = ROOT / "build" / "native" / "llama.cpp" / "ggml" / "src"
    libraries = [folder / "libggml-cpu.a", folder / "libggml-base.a"]
    compiler = shutil.which("c++")
    if compiler is None or not all(map(Path.exists, libraries)):
        pytest.skip("the native build is not here")
    bring = [sys.executable, ROOT / "third_party" / "llama_cpp.py", ROOT / "build" / "third_party"]
    source = os.environ.get("LLAMA_CPP_DIR") or subprocess.check_output(bring, text=True).strip()
    program = tmp_path / program_of
    headers = [f"-I{ROOT / 'csrc'}", f"-I{Path(ROOT, source) / 'ggml' / 'include'}"]
    linked = [*libraries, "-lpthread", "-ldl", "-lm"]
    code = Path(__file__).with_name(f"{program_of}.cpp")
    subprocess.run([compiler, "-std=c++17", "-O1", *headers, code, *linked, "-o", program], check=True)
    told = subprocess.run([program], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout[-2000:]


@pytest.mark.parametrize(("counts", "num_threads"), [((1, 1, 1, 1), 1), ((1, 1, 1, 1), 2), ((64,), 3)])
def test_it_is_what_computes(random_model: _core.Model, counts: tuple[int, ...], num_threads: int) -> None:
    threads = {"num_threads": num_threads, "num_batch_threads": num_threads}
    for is_own in (True, False):
        before = _core.num_own_operations()
        said(random_model, counts, is_own, **threads)
        assert (_core.num_own_operations() > before) == is_own
