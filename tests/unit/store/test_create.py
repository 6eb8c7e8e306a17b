"""Models made of other models, and of files that were brought before."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.errors import InvalidModelFile, InvalidReference, InvalidRequest, ModelNotFound, StoreError, Unsupported
from dmr.store.create import create_model
from dmr.store.digest import parse_digest
from dmr.store.layout import Layout
from dmr.store.manifest import Descriptor, build_manifest
from dmr.store.pull import adopt
from dmr.store.reference import parse_reference
from dmr.store.registry.transport import TransferCancelled
from dmr.store.store import ModelStore
from dmr.store.uploads import GRACE_SECONDS, Uploads, read_digest
from dmr.types import (
    Message,
    ModelDefaults,
    ModelRecord,
    NewModel,
    Role,
    SamplingParams,
    TextPart,
    ToolCall,
    TransferProgress,
)

HALF = {"general.architecture": "llama", "llama.context_length": 2048, "general.file_type": 1}
QUANTIZED = gguf_bytes({**HALF, "general.file_type": 7}, [Tensor("weight", data=bytes(range(128)))])


class Bench:
    """A store with one model, and a quantizer that writes the same file whatever it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ModelStore(folder / "models")
        self.steps: list[TransferProgress] = []
        self.sources: list[Path] = []
        self.failure: Exception | None = None

    def base(self, name: str = "base", metadata: dict[str, Any] | None = None) -> ModelRecord:
        path = self.folder / "base.gguf"
        path.write_bytes(gguf_bytes(metadata or HALF))
        return self.store.import_gguf(path, name)

    def make(self, name: str = "new", cancelled: Callable[[], bool] = lambda: False, **fields: Any) -> ModelRecord:
        return create_model(self.store, NewModel(name, **fields), self.quantize, self.steps.append, cancelled)

    def quantize(self, source: Path, target: Path, file_type: int, report: Any, cancelled: Any) -> None:
        assert file_type == 7
        self.sources.append(source)
        report(64)
        target.write_bytes(QUANTIZED)
        if self.failure is not None:
            raise self.failure

    def upload(self, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.store.add_file(io.BytesIO(data), len(data), digest)
        return digest

    @property
    def messages(self) -> list[str]:
        return [step.message for step in self.steps]

    @property
    def blobs(self) -> set[str]:
        return {path.name for path in (self.store.root / "blobs" / "sha256").glob("*")}

    @property
    def uploads(self) -> set[str]:
        return {path.name for path in (self.store.root / "uploads" / "sha256").glob("*")}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def said(role: Role, text: str) -> Message:
    return Message(role, (TextPart(text),))


# --- of another model ------------------------------------------------------------------------------------------------


def test_a_derived_model_shares_the_weights_and_has_its_own_defaults(bench: Bench) -> None:
    base = bench.base()
    made = bench.make(
        base="base",
        system="Be brief.",
        template="{{ .Prompt }}",
        parameters={"temperature": 0.25, "stop": ("END", "\n"), "max_tokens": 7, "shift": 4},
        messages=(said(Role.USER, "Hi"), said(Role.ASSISTANT, "Ho")),
        licenses=("Mine",),
    )
    assert made.id != base.id
    assert made.tags == ("docker.io/ai/new:latest",)
    assert made.parent == "docker.io/ai/base:latest"
    assert made.config == base.config
    assert made.licenses == ("Mine",)
    assert made.defaults == ModelDefaults(
        system="Be brief.",
        template="{{ .Prompt }}",
        messages=(said(Role.USER, "Hi"), said(Role.ASSISTANT, "Ho")),
        parameters={"temperature": 0.25, "stop": ("END", "\n"), "max_tokens": 7, "shift": 4},
    )
    assert bench.store.files("new") == bench.store.files("base")
    assert ModelStore(bench.store.root).get("new") == made  # it is all on the disk
    assert bench.store.models() == [base, made]
    assert made.size > base.size
    assert bench.messages[-1] == "writing manifest"
    assert sum(message.startswith("creating new layer sha256:") for message in bench.messages) == 5
    assert sum(message.startswith("using existing layer sha256:") for message in bench.messages) == 1


def test_its_layers_are_ollamas(bench: Bench) -> None:
    bench.base()
    made = bench.make(base="base", parameters={"context_size": 64, "order": ("top_k",), "logit_bias": ((7, 2.5),)})
    manifest = json.loads((bench.store.root / "manifests" / "sha256" / made.id[7:]).read_bytes())
    weights, parameters = manifest["layers"]
    assert weights["mediaType"] == "application/vnd.docker.ai.gguf.v3"
    assert parameters["mediaType"] == "application/vnd.ollama.image.params"
    raw = (bench.store.root / "blobs" / "sha256" / parameters["digest"][7:]).read_bytes()
    assert json.loads(raw) == {"num_ctx": 64, "samplers": ["top_k"], "logit_bias": {"7": 2.5}}
    assert made.defaults.parameters == {"context_size": 64, "order": ("top_k",), "logit_bias": ((7, 2.5),)}
    config = json.loads((bench.store.root / "blobs" / "sha256" / manifest["config"]["digest"][7:]).read_bytes())
    assert config["rootfs"]["diff_ids"] == [weights["digest"], parameters["digest"]]


def test_what_is_not_said_is_taken_over_and_what_is_empty_goes(bench: Bench) -> None:
    bench.base()
    first = bench.make(
        "first",
        base="base",
        system="One.",
        template="T",
        messages=(said(Role.USER, "Hi"),),
        parameters={"top_k": 1, "seed": 5, "stop": ("a",)},
        licenses=("L1",),
    )
    second = bench.make(
        "second", base="first", parameters={"top_k": 2, "seed": None, "stop": ("b",)}, licenses=("L2", "L1")
    )
    assert second.defaults == ModelDefaults(
        system="One.",
        template="T",
        messages=(said(Role.USER, "Hi"),),
        parameters={"top_k": 2, "stop": ("b",)},
    )
    assert second.licenses == ("L1", "L2")
    assert second.parent == "docker.io/ai/first:latest"
    third = bench.make("third", base="first", system="", template="", messages=())
    assert third.defaults == ModelDefaults(parameters=first.defaults.parameters)


def test_messages_with_calls_come_back_as_they_were(bench: Bench) -> None:
    bench.base()
    messages = (
        Message(Role.ASSISTANT, (), "Hm.", (ToolCall("call_1", "f", '{"a":1}'), ToolCall("", "g", "not JSON"))),
        Message(Role.TOOL, (TextPart("done"),), tool_call_id="call_1", name="f"),
    )
    assert bench.make(base="base", messages=messages).defaults.messages == messages


@pytest.mark.parametrize("field", SamplingParams.__struct_fields__)
def test_every_sampling_parameter_is_kept(bench: Bench, field: str) -> None:
    default = getattr(SamplingParams(), field)
    value = {"seed": 3, "logit_bias": ((1, 1.0),), "ignore_eos": True, "order": ("top_p",)}.get(field, default)
    bench.base()
    assert bench.make(base="base", parameters={field: value}).defaults.parameters == {field: value}


def test_nothing_new_is_one_more_name(bench: Bench) -> None:
    base = bench.base()
    assert bench.make(base=base.id).tags == ("docker.io/ai/base:latest", "docker.io/ai/new:latest")
    assert len(bench.store.models()) == 1


def test_the_same_again_is_the_same_model(bench: Bench) -> None:
    bench.base()
    assert bench.make(base="base", system="S").id == bench.make(base="base", system="S").id
    assert len(bench.store.models()) == 2


def test_a_texts_digest_may_be_anothers(bench: Bench) -> None:
    bench.base()
    made = bench.make(base="base", system="x", template="x", licenses=("x", "x"))
    assert (made.defaults.system, made.defaults.template, made.licenses) == ("x", "x", ("x",))


def test_a_name_that_is_given_again_leaves_nothing_behind(bench: Bench) -> None:
    bench.base()
    bench.make(base="base", system="Old.")
    before = bench.blobs
    new = bench.make(base="new", system="New.")
    assert [record.id for record in bench.store.models()] == [bench.store.get("base").id, new.id]
    assert len(bench.blobs) == len(before)
    assert bench.store.verify("new") == []


def test_a_model_with_another_name_stays_when_one_is_taken(bench: Bench) -> None:
    base = bench.base()
    bench.store.tag("base", "new")
    bench.make(base="base", system="S")
    assert bench.store.get("base").id == base.id


def test_removing_either_leaves_the_other_whole(bench: Bench) -> None:
    bench.base()
    bench.make("one", base="base", system="S1")
    bench.make("two", base="base", system="S2")
    bench.store.remove("base")
    bench.store.remove("one")
    assert bench.store.verify("two") == []
    assert bench.store.get("two").defaults.system == "S2"
    bench.store.remove("two")
    assert bench.blobs == set()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"base": "absent"}, ModelNotFound),
        ({"base": "a//b"}, InvalidReference),
        ({"base": "base", "name": "a//b"}, InvalidReference),
        ({"base": "base", "name": "a@sha256:" + "0" * 64}, InvalidReference),
        ({"base": "base", "quantization": "Q9"}, InvalidRequest),
        ({"base": "base", "quantization": "IQ1_S"}, InvalidRequest),
        ({"base": "base", "system": "x" * (5 << 20)}, InvalidRequest),
        ({"files": {"a": "sha256:" + "0" * 64}}, InvalidRequest),
        ({"files": {"a": "sha256:../../x"}}, InvalidRequest),
    ],
)
def test_what_cannot_be_made_leaves_nothing(bench: Bench, fields: dict[str, Any], error: type[Exception]) -> None:
    bench.base()
    before = bench.blobs
    with pytest.raises(error):
        bench.make(**fields)
    assert bench.blobs == before
    assert len(bench.store.models()) == 1


def test_a_base_that_goes_meanwhile_is_an_error_and_leaves_nothing(bench: Bench) -> None:
    base = bench.base()

    def remove(step: TransferProgress) -> None:
        if step.message == "writing manifest":  # under the lock: somebody else's, who does not know of it
            for path in (bench.store.root / "blobs" / "sha256").iterdir():
                if not path.name.endswith(".incomplete"):
                    path.unlink()

    with pytest.raises(StoreError, match="removed"):
        create_model(bench.store, NewModel("new", "base", system="S"), bench.quantize, remove)
    assert bench.blobs == set()
    assert [entry["id"] for entry in json.loads((bench.store.root / "models.json").read_bytes())["models"]] == [base.id]


# --- defaults that somebody else wrote -------------------------------------------------------------------------------


def add_layer(bench: Bench, media_type: str, data: bytes) -> None:
    """Put a model with such a layer into the store, as a pull would."""
    layout = Layout(bench.store.root)
    manifest = layout.read_manifest(parse_digest(bench.base().id))
    layer = Descriptor(media_type, layout.blobs.put_bytes(data), len(data))
    adopt(layout, build_manifest([*manifest.layers, layer], manifest.config), parse_reference("odd"), 5.0)


def test_parameters_in_ollamas_words_are_understood(bench: Bench) -> None:
    stored = {
        "num_predict": -1,
        "num_ctx": 4096.0,
        "num_keep": -1,
        "stop": "END",
        "seed": -1,
        "top_k": -5,
        "temperature": 1,
        "num_gpu": 1,
        "min_p": "half",
        "logit_bias": {"x": 1},
    }
    add_layer(bench, "application/vnd.ollama.image.params", json.dumps(stored).encode())
    assert bench.store.get("odd").defaults.parameters == {
        "context_size": 4096,
        "shift": 2**31 - 1,
        "stop": ("END",),
        "top_k": 0,
        "temperature": 1.0,
    }


@pytest.mark.parametrize("kind", ["params", "messages", "system"])
@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000])
def test_defaults_that_are_none_are_a_store_error(bench: Bench, kind: str, data: bytes) -> None:
    add_layer(bench, f"application/vnd.ollama.image.{kind}", data)
    if kind == "system" and data != b"\xff":
        assert bench.store.get("odd").defaults.system == data.decode()
    else:
        with pytest.raises(StoreError):
            bench.store.get("odd")
        assert len(bench.store.models()) == 1


def test_a_licence_that_cannot_be_read_hinders_nobody(bench: Bench) -> None:
    add_layer(bench, "application/vnd.docker.ai.license", b"x" * (5 << 20))
    assert bench.store.get("odd").licenses == ()


# --- of files --------------------------------------------------------------------------------------------------------


def shard(number: int, count: int) -> bytes:
    split = {"split.no": number, "split.count": count, "split.tensors.count": count}
    return gguf_bytes({**HALF, **split}, [Tensor(f"weight.{number}", data=bytes([number]) * 128)])


PROJECTOR = gguf_bytes({"general.architecture": "clip"})


def test_uploaded_files_become_layers_without_a_copy(bench: Bench) -> None:
    digest = bench.upload(gguf_bytes(HALF))
    inode = (bench.store.root / "uploads" / "sha256" / digest[7:]).stat().st_ino
    made = bench.make(files={"model.gguf": digest}, system="S")
    (weights,) = bench.store.files("new").weights
    assert (weights.name, weights.stat().st_ino, weights.stat().st_nlink) == (digest[7:], inode, 1)
    assert bench.uploads == set()
    assert (made.config.quantization, made.defaults.system, made.parent) == ("F16", "S", "")
    assert bench.messages[0] == "parsing GGUF"
    assert bench.store.verify("new") == []


def test_files_are_told_apart_by_what_is_in_them(bench: Bench) -> None:
    digests = [bench.upload(data) for data in (shard(1, 2), PROJECTOR, shard(0, 2))]
    made = bench.make(files={"a": digests[0], "b": digests[1], "c": digests[2].replace(":", "-").upper().lower()})
    files = bench.store.files("new")
    assert [path.name for path in files.weights] == [digests[2][7:], digests[0][7:]]
    assert files.mmproj is not None
    assert files.mmproj.name == digests[1][7:]
    assert made.has_mmproj


def test_a_file_that_is_a_models_need_not_be_brought_again(bench: Bench) -> None:
    base = bench.base()
    digest = f"sha256:{bench.store.files('base').weights[0].name}"
    assert bench.store.has_file(digest)
    assert bench.make(files={"model.gguf": digest}).id == base.id


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([b"no GGUF at all"], "model-0"),
        ([PROJECTOR], "one language model"),
        ([gguf_bytes(HALF), PROJECTOR, gguf_bytes({"general.architecture": "clip", "x": 1})], "at most one"),
        ([shard(0, 3), shard(1, 3)], "is one of 3 shards"),
        ([shard(0, 2), shard(0, 2) + b"\0"], "is not shard 2 of 2"),
        ([gguf_bytes(HALF), gguf_bytes({**HALF, "x": 1})], "there are 2 files"),
    ],
)
def test_files_that_make_no_model_are_named(bench: Bench, files: list[bytes], reason: str) -> None:
    digests = {f"model-{number}": bench.upload(data) for number, data in enumerate(files)}
    with pytest.raises(InvalidModelFile, match=reason) as caught:
        bench.make(files=digests)
    assert str(bench.folder) not in caught.value.message
    assert bench.store.models() == []
    assert bench.uploads == {digest[7:] for digest in digests.values()}


# --- smaller weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["q8_0", "Q8_0", " q8_0 "])
def test_weights_are_made_smaller(bench: Bench, spelling: str) -> None:
    base = bench.base()
    made = bench.make(base="base", quantization=spelling, system="S")
    (weights,) = bench.store.files("new").weights
    assert weights.read_bytes() == QUANTIZED
    assert (made.config.quantization, made.parent, made.defaults.system) == ("Q8_0", "docker.io/ai/base:latest", "S")
    assert bench.sources == [bench.store.files("base").weights[0]]
    assert "quantizing F16 model to Q8_0" in bench.messages
    total = bench.sources[0].stat().st_size
    assert TransferProgress("quantizing F16 model to Q8_0", total, "", total, 64) in bench.steps
    assert bench.store.get("base") == base
    assert not [name for name in bench.blobs if name.endswith(".incomplete")]
    assert bench.store.verify("new") == []


def test_shards_are_found_by_their_names_and_become_one_file(bench: Bench) -> None:
    digests = {str(number): bench.upload(shard(number, 2)) for number in range(2)}
    seen = []

    def quantize(source: Path, target: Path, file_type: int, report: Any, cancelled: Any) -> None:
        seen.extend(sorted(path.name for path in source.parent.iterdir()))
        seen.append(source.name)
        bench.quantize(source, target, file_type, report, cancelled)

    create_model(bench.store, NewModel("new", files=digests, quantization="q8_0"), quantize, bench.steps.append)
    assert seen == ["model-00001-of-00002.gguf", "model-00002-of-00002.gguf", "model-00001-of-00002.gguf"]
    assert len(bench.store.files("new").weights) == 1
    assert not list(bench.store.root.glob("shards-*"))
    assert len(bench.uploads) == 2  # for another type; swept some day


def test_weights_of_the_wanted_type_stay_as_they_are(bench: Bench) -> None:
    base = bench.base()
    assert bench.make(base="base", quantization="f16").id == base.id
    assert bench.sources == []


def test_small_weights_are_not_made_smaller(bench: Bench) -> None:
    bench.base(metadata={**HALF, "general.file_type": 7})
    with pytest.raises(Unsupported, match="this one is Q8_0"):
        bench.make(base="base", quantization="q4_0")


@pytest.mark.parametrize("error", [TransferCancelled(), InvalidModelFile("no")])
def test_weights_that_were_not_finished_are_gone(bench: Bench, error: Exception) -> None:
    bench.base()
    before = bench.blobs
    bench.failure = error
    with pytest.raises(type(error)):
        bench.make(base="base", quantization="q8_0")
    assert bench.blobs == before


def test_what_nobody_wants_any_more_is_not_made(bench: Bench) -> None:
    bench.base()
    before = bench.blobs
    with pytest.raises(TransferCancelled):
        bench.make(base="base", system="S", cancelled=lambda: True)
    assert bench.blobs == before


# --- uploads ---------------------------------------------------------------------------------------------------------


def test_an_upload_with_another_digest_is_refused_and_gone(bench: Bench) -> None:
    digest = f"sha256:{hashlib.sha256(b'right').hexdigest()}"
    with pytest.raises(InvalidRequest, match=f'digest mismatch, expected "{digest}", got "sha256:'):
        bench.store.add_file(io.BytesIO(b"wrong"), 5, digest)
    assert bench.uploads == set()
    assert not bench.store.has_file(digest)


def test_an_upload_that_ends_early_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidRequest):
        bench.store.add_file(io.BytesIO(b"ab"), 3, f"sha256:{hashlib.sha256(b'ab').hexdigest()}")
    assert bench.uploads == set()


def test_an_upload_larger_than_the_disk_is_refused_before_it_comes(bench: Bench) -> None:
    with pytest.raises(StoreError, match="the disk is full"):
        bench.store.add_file(io.BytesIO(b""), 1 << 60, "sha256:" + "0" * 64)


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "0" * 63, "md5:" + "0" * 32, "sha256:" + "g" * 64, "../x"])
def test_what_is_no_digest_is_told(bench: Bench, text: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid digest format"):
        bench.store.has_file(text)


def test_uploads_that_nobody_used_are_swept_when_the_next_one_comes(bench: Bench) -> None:
    old, wanted = bench.upload(b"old"), bench.upload(b"wanted")
    long_ago = time.time() - GRACE_SECONDS - 10
    for digest in (old, wanted):
        os.utime(Uploads(bench.store.root).path_of(read_digest(digest)), (long_ago, long_ago))
    assert bench.store.has_file(wanted)
    new = bench.upload(b"new")
    assert bench.uploads == {wanted[7:], new[7:]}
