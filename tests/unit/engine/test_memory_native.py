"""Contexts that fit, and those that would not, on the native side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tiny_models import model_file
from unit.engine.native_bench import SETTINGS, NativeBench, make_spec

from dmr import _core
from dmr.config import EngineSettings
from dmr.engine.embed_runner import EmbedRunner
from dmr.engine.loading import LoadedModel, load_model
from dmr.engine.model_runner import ModelRunner
from dmr.errors import ModelLoadFailed, Unavailable
from dmr.memory.memory_costs import OVERHEAD
from dmr.types import SamplingParams
from dmr.wire import EngineRequest

ROOT = Path(__file__).parents[3]
STARTER_MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def loaded_model(path: Path, settings: EngineSettings = SETTINGS) -> LoadedModel:
    return load_model(make_spec(path, settings), lambda fraction: True)


def buffer_bytes(loaded: LoadedModel, context_size: int, max_batch: int, max_sequences: int) -> int:
    """What llama.cpp says that it has allocated for a context."""
    options = _core.ContextOptions()
    options.context_size, options.max_batch, options.max_sequences = context_size, max_batch, max_sequences
    _core.take_log()
    _core.Context(loaded.model, options).close()
    lines = [line for _, line in _core.take_log(0.5) if "buffer size =" in line]
    assert len(lines) >= 3, "nothing was told"
    return sum(int(float(line.split("=")[1].split("MiB")[0]) * MIB) for line in lines)


def assert_estimate_holds(loaded: LoadedModel) -> None:
    for size in ((8192, 512, 64), (1024, 512, 64), (8192, 64, 32), (4096, 4096, 8), (512, 32, 1)):
        actual = buffer_bytes(loaded, *size)
        estimated = loaded.costs.context(*size, size[2]) - OVERHEAD
        assert 0.95 * actual < estimated < 1.3 * actual + 4 * MIB, size


def test_the_estimate_is_what_llama_cpp_takes(folder: Path) -> None:
    assert_estimate_holds(loaded_model(model_file("tiny-random", folder)))
    assert_estimate_holds(loaded_model(model_file("tiny-script", folder)))


@pytest.mark.real
@pytest.mark.skipif(not STARTER_MODEL.exists(), reason="'make model' brings it")
def test_the_estimate_is_what_llama_cpp_takes_for_a_real_model() -> None:
    assert_estimate_holds(loaded_model(STARTER_MODEL))


def test_the_default_is_what_fits_and_the_engine_tells_it(folder: Path) -> None:
    weights = model_file("tiny-random", folder)
    settings = EngineSettings(num_threads=1, context_bytes=OVERHEAD + 8 * MIB)
    runner = ModelRunner.load(make_spec(weights, settings), lambda fraction: True)
    info = runner.info()
    assert 512 <= info.context_size < 8192
    assert info.full_context_size == 8192
    bench = NativeBench(runner)
    request = bench.add(EngineRequest(("abc",), SamplingParams(temperature=0, ignore_eos=True), max_tokens=3))
    bench.run()
    assert len(bench.answer(request)[0]) == 3
    roomy = ModelRunner.load(make_spec(weights, EngineSettings(num_threads=1)), lambda fraction: True)
    assert (roomy.info().context_size, roomy.info().full_context_size) == (8192, 0)


def test_a_size_that_was_asked_for_is_had_or_refused(folder: Path) -> None:
    weights = model_file("tiny-random", folder)
    settings = EngineSettings(num_threads=1, context_size=1 << 20, context_bytes=OVERHEAD + 32 * MIB)
    with pytest.raises(ModelLoadFailed, match=r"1048576 tokens needs .* 80 MiB of what DMR_CONTEXT_B") as caught:
        ModelRunner.load(make_spec(weights, settings), lambda fraction: True)
    fitting = caught.value.fitting_context
    assert fitting is not None
    assert fitting > 8192
    runner = ModelRunner.load(
        make_spec(weights, msgspec.structs.replace(settings, context_size=fitting)), lambda fraction: True
    )
    assert runner.info().context_size == fitting
    assert runner.info().full_context_size == 0


LIMITED = """
import resource, sys
from pathlib import Path
from unit.engine.native_bench import NativeBench, make_spec
from dmr.config import EngineSettings
from dmr.engine.model_runner import ModelRunner
from dmr.errors import ModelLoadFailed
from dmr.types import SamplingParams
from dmr.wire import EngineRequest

def load(context_size):
    settings = EngineSettings(num_threads=1, context_size=context_size, max_batch_tokens=64)
    return ModelRunner.load(make_spec(Path(sys.argv[1]), settings), lambda fraction: True)

load(256)  # everything that is imported late is imported now
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (500 << 20),) * 2)
try:
    load(4 << 20)
except ModelLoadFailed as error:
    print(error.message)
    runner = load(error.fitting_context)
    bench = NativeBench(runner)
    request = bench.add(EngineRequest(("abc",), SamplingParams(temperature=0, ignore_eos=True), max_tokens=3))
    bench.run()
    print(runner.info().context_size == error.fitting_context, len(bench.answer(request)[0]))
"""


def test_under_a_limit_of_the_system_nothing_is_killed_or_aborted(folder: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", LIMITED, str(model_file("tiny-random", folder))],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    message, outcome = found.stdout.splitlines()
    assert "A context of 4194304 tokens needs" in message
    assert "of the address space (ulimit -v) can be had" in message
    assert outcome == "True 3"


@pytest.mark.parametrize("name", ["tiny-embed", "tiny-random"])
def test_texts_that_memory_has_no_room_for(folder: Path, name: str) -> None:
    settings = EngineSettings(num_threads=1, max_batch_tokens=32, context_bytes=OVERHEAD + 3 * MIB)
    loaded = loaded_model(model_file(name, folder), settings)
    loaded = loaded._replace(declared_pooling="mean")
    runner = EmbedRunner(loaded, settings, 1, generates=False)
    trained = loaded.model.context_length
    roomy = EmbedRunner(loaded, msgspec.structs.replace(settings, context_bytes=0), 1, generates=False)
    assert roomy.max_input_tokens == trained
    assert 256 <= runner.max_input_tokens <= trained
    assert len(runner.run([[3] * runner.max_input_tokens], 1)) == 1
    runner._settings = msgspec.structs.replace(settings, context_bytes=1)  # what was free is gone
    runner.close()
    with pytest.raises(Unavailable, match="1 bytes of what DMR_CONTEXT_BYTES allows can be had"):
        runner.run([[3] * 4], 1)
    with pytest.raises(ModelLoadFailed, match="can be had"):
        runner.open()
