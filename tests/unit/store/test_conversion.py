"""Safetensors become a GGUF file in a process of its own: by a script in its place, and by the real converter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from loopback_hub import LoopbackHub
from loopback_registry import running
from tiny_safetensors import write_tiny_llama
from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.errors import InvalidModelFile, InvalidRequest, StoreError, Unavailable, Unsupported
from dmr.manager.quantizer import Quantizer
from dmr.store import conversion
from dmr.store.conversion import NEEDED_PACKAGES, Converter, Limits, find_script
from dmr.store.hugging_face.names import parse_hub_name
from dmr.store.hugging_face.pull import pull_from_hub
from dmr.store.registry.transport import TransferCancelled, Transport
from dmr.store.safetensors import read_safetensors_header
from dmr.store.safetensors_names import keep_ranking_pooler, rename_tensors
from dmr.store.store import ModelStore
from dmr.types import TransferProgress

MODEL = gguf_bytes({"general.architecture": "llama"}, tensors=[Tensor("a")])
PROJECTOR = gguf_bytes({"general.architecture": "clip"})
NAME = "hf.co/Org/Tiny-GGUF"

needs_extra = pytest.mark.skipif(
    find_script() is None or any(importlib.util.find_spec(name) is None for name in NEEDED_PACKAGES),
    reason="the extra 'convert' is not installed",
)


class Fake(Protocol):
    def __call__(self, body: str, limits: Limits = ...) -> Converter: ...


def quantize(source: Path, target: Path, file_type: int, report: Callable[[int], None], _cancelled: object) -> None:
    target.write_bytes(source.read_bytes() + b", as %d" % file_type)
    report(1)


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Makes a converter out of what it does; `folder`, `target`, `is_projector` and `argv` are known to it."""

    def make(body: str, limits: Limits = conversion.LIMITS) -> Converter:
        script = tmp_path / "fake_converter.py"
        script.write_text(
            "import json, os, sys, time\nfrom pathlib import Path\nargv = sys.argv[1:]\n"
            "folder, target, is_projector = Path(argv[0]), Path(argv[2]), '--mmproj' in argv\n"
            "if is_projector: target = target.with_name('mmproj-' + target.name)\n"
            f"MODEL, PROJECTOR = {MODEL!r}, {PROJECTOR!r}\n" + textwrap.dedent(body)
        )
        return Converter(quantize, (sys.executable, str(script)), limits)

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_llama(tmp_path / "tiny", num_files=2)
    return tmp_path / "tiny"


def convert(converter: Converter, folder: Path, kind: str = "", cancelled: Callable[[], bool] = lambda: False) -> Path:
    target = folder.parent / "out.gguf"
    converter.convert(folder, target, kind, lambda _: None, cancelled)
    return target


def test_the_converter_gets_links_to_everything_but_code_and_no_secrets(
    fake: Fake, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "modeling_evil.py").write_text("raise SystemExit(9)")
    for name in ("1_Pooling/config.json", "onnx/config.json", "1_Pooling/evil.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    converter = fake(
        """
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        target.write_text(json.dumps([names, argv[3:], sorted(os.environ), os.environ["HF_HUB_OFFLINE"]]))
        """
    )
    told = convert(converter, folder, "Q8_0").read_text()
    assert "model-00001-of-00002.safetensors" in told
    assert '["--outtype", "q8_0"]' in told
    assert "1_Pooling/config.json" in told
    assert "evil" not in told
    assert "onnx" not in told
    assert "HF_TOKEN" not in told
    assert sorted(path.name for path in folder.parent.iterdir()) == ["fake_converter.py", "out.gguf", "tiny"]


def test_what_is_written_is_reported(fake: Fake, folder: Path) -> None:
    seen, reports = folder.parent / "seen", list[int]()
    converter = fake(
        f"""
        target.write_bytes(b"x" * 1000)
        while not Path({str(seen)!r}).exists():
            time.sleep(0.01)
        """
    )

    def report(done: int) -> None:
        reports.append(done)
        if done == 1000:
            seen.touch()

    converter.convert(folder, folder.parent / "out.gguf", "", report, lambda: False)
    assert reports[-1] == 1000


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit('INFO:x\\nERROR:hf-to-gguf:Model X is not supported')", "tiny: Model X is not supported"),
        ("raise NotImplementedError('BPE pre-tokenizer was not recognized')", "BPE pre-tokenizer was not recognized"),
        ("os.kill(os.getpid(), 9)", "ended with status -9"),
        ("pass", "ended with status 0"),
    ],
)
def test_a_failure_is_told_with_the_converters_own_reason(fake: Fake, folder: Path, body: str, reason: str) -> None:
    with pytest.raises(InvalidModelFile, match=reason):
        convert(fake(body), folder)


def test_a_full_disk_is_no_fault_of_the_model(fake: Fake, folder: Path) -> None:
    with pytest.raises(StoreError, match="disk is full"):
        convert(fake("raise OSError(28, 'No space left on device')"), folder)


@pytest.mark.parametrize("limits", [Limits(total=0.3), Limits(silence=0.3)])
def test_one_that_does_not_get_on_is_ended(fake: Fake, folder: Path, limits: Limits) -> None:
    with pytest.raises(Unavailable, match="did not get on"):
        convert(fake("time.sleep(60)", limits), folder)


def test_a_cancelled_conversion_leaves_no_process(fake: Fake, folder: Path) -> None:
    pid_file = folder.parent / "pid"
    converter = fake(f"Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(60)")
    with pytest.raises(TransferCancelled):
        convert(converter, folder, cancelled=lambda: pid_file.is_file() and pid_file.read_text() != "")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_the_build_brings_the_converter_and_what_lies_beside_it() -> None:
    script = find_script()
    assert script is not None, "build the extension again: make build"
    assert (script.parent / "conversion" / "llama.py").is_file()
    assert (script.parent / "gguf-py" / "gguf" / "gguf_writer.py").is_file()


def test_the_process_ends_with_whoever_started_it(tmp_path: Path) -> None:
    script = tmp_path / "converter.py"
    script.write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)")
    command = [sys.executable, "-m", "dmr.store.conversion_process", str(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        process.stdin.close()
        assert process.wait(20) == 1


def test_kinds_are_written_in_any_case() -> None:
    assert Converter().kind_of("bf16") == "BF16"
    assert Converter(quantize).kind_of("q4_k_m") == "Q4_K_M"
    with pytest.raises(InvalidRequest, match="to F32, F16, BF16, Q8_0, not to 'Q4_K_M'"):
        Converter().kind_of("Q4_K_M")
    with pytest.raises(InvalidRequest, match=r"Q4_K_M.*, not to 'Q9'"):
        Converter(quantize).kind_of("Q9")


def test_what_the_converter_cannot_make_is_quantized_afterwards(fake: Fake, folder: Path) -> None:
    converter = fake("target.write_text(' '.join(argv[3:]))")
    assert convert(converter, folder, "Q4_K_M").read_text() == "--outtype auto, as 15"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["fake_converter.py", "out.gguf", "tiny"]


def test_without_the_extra_it_is_said_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "NEEDED_PACKAGES", ("no_such_package",))
    monkeypatch.setattr(conversion, "find_script", lambda: folder)
    with pytest.raises(Unsupported, match=r"no_such_package must be installed: pip install 'dmr\[convert\]'"):
        convert(Converter(), folder)
    monkeypatch.setattr(conversion, "find_script", lambda: None)
    with pytest.raises(Unsupported, match="this build of dmr has no converter"):
        convert(Converter(), folder)


@needs_extra
@pytest.mark.parametrize("kind", ["", "F16", "Q8_0", "Q4_0"])
def test_the_real_converter_makes_a_model_that_can_be_imported(folder: Path, tmp_path: Path, kind: str) -> None:
    store = ModelStore(tmp_path / "store")
    record = store.import_gguf(convert(Converter(Quantizer()), folder, kind), "tiny")
    assert record.config.architecture == "llama"
    assert record.config.quantization == {"": "BF16", "F16": "F16", "Q8_0": "Q8_0", "Q4_0": "Q4_0"}[kind]
    assert record.config.context_size == 128
    assert "messages" in record.config.gguf["tokenizer.chat_template"]


@needs_extra
def test_the_real_converter_tells_what_it_cannot_do(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "NobodyForCausalLM"))
    with pytest.raises(InvalidModelFile, match="Model NobodyForCausalLM is not supported"):
        convert(Converter(), folder)


# --- from the hub ----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(folder: Path) -> Iterator[LoopbackHub]:
    with running(LoopbackHub()) as server:
        server.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        server.files |= {"LICENSE": b"You may.", "onnx/model.onnx": b"x", "original/model.safetensors": b"y"}
        yield server


def bring(hub: LoopbackHub, store: ModelStore, converter: Converter, name: str = NAME) -> list[TransferProgress]:
    model, reports = parse_hub_name(name), list[TransferProgress]()
    assert model is not None
    environ = {"HF_ENDPOINT": f"http://{hub.host}"}
    pull_from_hub(store, name, model, None, environ, Transport(environ=environ), reports.append, converter)
    return reports


COPY = "target.write_bytes(PROJECTOR if is_projector else MODEL)"


def test_a_repository_with_safetensors_only_is_converted(hub: LoopbackHub, target: ModelStore, fake: Fake) -> None:
    reports = bring(hub, target, fake(COPY))
    assert target.files(NAME).weights[0].read_bytes() == MODEL
    assert target.get(NAME).licenses == ("You may.",)
    assert reports[-1].message == "Building model artifact..."
    assert "original/model.safetensors" not in hub.bytes_sent
    kept = {path.stat().st_size for path in (target.root / "blobs" / "sha256").iterdir()}
    assert not kept & {len(data) for name, data in hub.files.items() if name.endswith(".safetensors")}
    assert not list(target.root.glob("conversion-*"))


def test_it_is_not_converted_again_until_it_changes(hub: LoopbackHub, target: ModelStore, fake: Fake) -> None:
    bring(hub, target, fake(COPY))
    hub.files["README.md"] = b"New words."
    broken = fake("sys.exit('again')")
    assert not [report for report in bring(hub, target, broken) if report.layer]
    hub.files["tokenizer_config.json"] += b" "
    with pytest.raises(InvalidModelFile, match="again"):
        bring(hub, target, broken)
    assert target.get(NAME)


def test_a_vision_model_gets_its_projector(hub: LoopbackHub, target: ModelStore, fake: Fake) -> None:
    hub.files["config.json"] = hub.files["config.json"][:-1] + b', "vision_config": {}}'
    bring(hub, target, fake(COPY))
    assert target.get(NAME).has_mmproj
    name = f"{NAME}:F16"
    reports = bring(hub, target, fake("sys.exit('no eyes') if is_projector else target.write_bytes(MODEL + b'')"), name)
    assert [report.message for report in reports if report.is_warning] == [
        "The model will see no images: llama.cpp's converter cannot convert Tiny-GGUF: no eyes"
    ]
    assert not target.get(name).has_mmproj


def test_what_was_fetched_stays_for_the_next_try(hub: LoopbackHub, target: ModelStore, fake: Fake) -> None:
    with pytest.raises(InvalidModelFile):
        bring(hub, target, fake("sys.exit('not today')"))
    hub.bytes_sent.clear()
    bring(hub, target, fake(COPY))
    assert not [name for name in hub.bytes_sent if name.endswith(".safetensors")]


def test_nothing_is_fetched_where_nothing_can_be_converted(
    hub: LoopbackHub, target: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "NEEDED_PACKAGES", ("no_such_package",))
    with pytest.raises(Unsupported):
        bring(hub, target, Converter())
    with pytest.raises(InvalidRequest, match="not to 'Q9'"):
        bring(hub, target, Converter(), f"{NAME}:Q9")
    assert not hub.bytes_sent


@needs_extra
def test_a_repository_is_converted_by_the_real_converter(hub: LoopbackHub, target: ModelStore) -> None:
    bring(hub, target, Converter(), f"{NAME}:Q8_0")
    assert target.get(f"{NAME}:Q8_0").config.quantization == "Q8_0"


# --- what the converter would lose -----------------------------------------------------------------------------------


def test_a_bert_that_ranks_keeps_its_pooler(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    rename_tensors(weights, {"lm_head.weight": "bert.pooler.dense.weight"})
    before = read_safetensors_header(weights)
    content = weights.read_bytes()
    keep_ranking_pooler(tmp_path)
    assert weights.read_bytes() == content
    config.write_text('{"architectures": ["BertForSequenceClassification"]}')
    original = tmp_path / "original"
    weights.rename(original)
    weights.symlink_to(original)
    keep_ranking_pooler(tmp_path)
    assert original.read_bytes() == content
    assert b'"classifier.dense.weight"' in weights.read_bytes()
    assert b"bert.pooler" not in weights.read_bytes()
    assert read_safetensors_header(weights) == before
    assert weights.read_bytes()[-1000:] == content[-1000:]


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{"])
def test_a_damaged_file_is_told_by_its_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidModelFile, match=r"model\.safetensors is no safetensors file"):
        rename_tensors(path, {"a": "b"})
