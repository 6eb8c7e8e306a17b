from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr.errors import DmrError, StoreError, Unsupported
from dmr.store.digest import digest_of, hex_of, parse_digest
from dmr.store.index import Entry, encode_index, parse_index
from dmr.store.manifest import (
    CHAT_TEMPLATE_TYPE,
    CONFIG_TYPE,
    CONFIG_V02_TYPE,
    FILE_TYPE,
    GGUF_TYPE,
    LICENSE_TYPE,
    MMPROJ_TYPE,
    MODELPACK_CONFIG_TYPE,
    MODELPACK_GGUF_TYPE,
    MODELPACK_RAW_TYPE,
    Descriptor,
    Manifest,
    build_manifest,
    chat_template_layer,
    first_layer,
    mmproj_layer,
    parse_manifest,
    weight_layers,
)
from dmr.store.model_config import build_config, parse_config
from dmr.types import ModelConfig

D1, D2, D3 = (digest_of(text) for text in (b"1", b"2", b"3"))
PATH = "org.cncf.model.filepath"


def layer(media_type: str, name: str = "", content: bytes = b"1") -> Descriptor:
    return Descriptor(media_type, digest_of(content), len(content), {PATH: name} if name else None)


def manifest_of(*layers: Descriptor, config_type: str = CONFIG_TYPE) -> Manifest:
    return parse_manifest(build_manifest(layers, Descriptor(config_type, D3, 1)))


def test_the_manifest_is_an_oci_image_manifest() -> None:
    raw = build_manifest([layer(GGUF_TYPE, "model.gguf")], Descriptor(CONFIG_TYPE, D2, 7))
    assert json.loads(raw) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": CONFIG_TYPE, "digest": D2, "size": 7},
        "layers": [{"mediaType": GGUF_TYPE, "digest": D1, "size": 1, "annotations": {PATH: "model.gguf"}}],
    }
    assert raw == build_manifest([layer(GGUF_TYPE, "model.gguf")], Descriptor(CONFIG_TYPE, D2, 7))


def test_digests_list_every_blob_once() -> None:
    manifest = manifest_of(layer(GGUF_TYPE), layer(LICENSE_TYPE), layer(LICENSE_TYPE, content=b"2"))
    assert manifest.digests == (D1, D2, D3)


def test_unknown_fields_are_no_hindrance() -> None:
    raw = json.loads(build_manifest([layer(GGUF_TYPE)], Descriptor(CONFIG_TYPE, D2, 7)))
    raw.update(subject={"x": 1}, artifactType="application/vnd.cncf.model.manifest.v1+json", annotations=None)
    raw["layers"][0]["urls"] = []
    assert parse_manifest(json.dumps(raw).encode()).artifact_type == "application/vnd.cncf.model.manifest.v1+json"


GOOD = json.loads(build_manifest([layer(GGUF_TYPE)], Descriptor(CONFIG_TYPE, D2, 7)))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"layers":' + b"[" * 100_000,
        json.dumps({**GOOD, "layers": None}).encode(),
        json.dumps({**GOOD, "config": {**GOOD["config"], "digest": "sha256:../../../../etc/passwd"}}).encode(),
        json.dumps({**GOOD, "config": {**GOOD["config"], "digest": D2 + "\n"}}).encode(),
        json.dumps({**GOOD, "config": {**GOOD["config"], "digest": D2.upper()}}).encode(),
        json.dumps({**GOOD, "layers": [{**GOOD["layers"][0], "size": -1}]}).encode(),
        json.dumps({**GOOD, "layers": [{**GOOD["layers"][0], "size": "1"}]}).encode(),
        json.dumps({**GOOD, "layers": [{**GOOD["layers"][0], "annotations": {"a": 1}}]}).encode(),
        json.dumps(GOOD).encode() + b" " * (5 << 20),
    ],
)
def test_hostile_manifests_are_refused(raw: bytes) -> None:
    with pytest.raises(StoreError):
        parse_manifest(raw)


def test_shards_are_put_in_order() -> None:
    names = ["m-00003-of-00010.gguf", "m-00010-of-00010.gguf", "m-00001-of-00010.gguf"]
    manifest = manifest_of(*(layer(GGUF_TYPE, name, name.encode()) for name in names))
    assert [shard.file_name for shard in weight_layers(manifest, "gguf")] == sorted(names)


def test_files_in_folders_of_a_v02_model_are_told_apart_by_their_names() -> None:
    names = ["q4/m-00002-of-00002.gguf", "q4/mmproj-F16.gguf", "q4/m-00001-of-00002.gguf"]
    layers = [layer(GGUF_TYPE, name) for name in names]
    others = [layer(FILE_TYPE, name) for name in ("q4/config.json", "q4/chat_template.jinja")]
    manifest = manifest_of(*others, *layers, config_type=CONFIG_V02_TYPE)
    assert weight_layers(manifest, "gguf") == (layers[2], layers[0])
    assert (mmproj_layer(manifest), chat_template_layer(manifest)) == (layers[1], others[1])


def test_shards_without_names_keep_the_manifests_order() -> None:
    manifest = manifest_of(layer(GGUF_TYPE, content=b"2"), layer(GGUF_TYPE, "m-00001-of-00002.gguf", b"1"))
    assert [shard.digest for shard in weight_layers(manifest, "gguf")] == [D2, D1]


def test_layers_are_told_apart() -> None:
    manifest = manifest_of(
        layer(LICENSE_TYPE), layer(MMPROJ_TYPE, content=b"2"), layer(GGUF_TYPE), layer(CHAT_TEMPLATE_TYPE, content=b"3")
    )
    assert [weight.digest for weight in weight_layers(manifest, "gguf")] == [D1]
    projector, template = mmproj_layer(manifest), first_layer(manifest, CHAT_TEMPLATE_TYPE)
    assert projector is not None
    assert template is not None
    assert (projector.digest, template.digest) == (D2, D3)


@pytest.mark.parametrize(
    ("media_type", "name", "model_format", "is_weight"),
    [
        (MODELPACK_GGUF_TYPE, "", "", True),
        (MODELPACK_RAW_TYPE, "sub/dir/model.gguf", "", True),
        (MODELPACK_RAW_TYPE, "", "gguf", True),
        (MODELPACK_RAW_TYPE, "", "safetensors", False),
        (MODELPACK_RAW_TYPE, "model.safetensors", "safetensors", False),
        (MODELPACK_RAW_TYPE, "mmproj-F16.gguf", "gguf", False),
        ("application/vnd.docker.ai.safetensors", "model.safetensors", "safetensors", False),
        ("application/vnd.docker.ai.model.file", "odd.gguf", "gguf", False),
    ],
)
def test_which_layers_are_gguf_weights(media_type: str, name: str, model_format: str, is_weight: bool) -> None:
    assert bool(weight_layers(manifest_of(layer(media_type, name)), model_format)) is is_weight


def test_a_modelpack_projector_is_known_by_its_name() -> None:
    found = mmproj_layer(
        manifest_of(layer(MODELPACK_RAW_TYPE, "model.gguf"), layer(MODELPACK_RAW_TYPE, "MMProj-f16.gguf"))
    )
    assert found is not None
    assert found.file_name == "MMProj-f16.gguf"


CONFIG = ModelConfig("gguf", "Q4_K_M", "361.82M", "llama", "256.35MiB", {"llama.context_length": "8192"}, 8192)


def test_a_config_comes_back_as_it_was() -> None:
    raw = build_config(CONFIG, [layer(GGUF_TYPE)], created=1742905342)
    assert json.loads(raw)["descriptor"] == {"created": "2025-03-25T12:22:22Z"}
    assert json.loads(raw)["rootfs"] == {"type": "rootfs", "diff_ids": [D1]}
    for config_type in (CONFIG_TYPE, CONFIG_V02_TYPE):
        stored = parse_config(raw, manifest_of(layer(GGUF_TYPE), config_type=config_type))
        assert (stored.config, stored.created) == (CONFIG, 1742905342)


def test_a_modelpack_config_is_shown_flat() -> None:
    raw = {
        "descriptor": {"createdAt": "2025-03-25T12:22:22.123456789+01:00", "family": "qwen"},
        "config": {"architecture": "qwen3", "format": "gguf", "paramSize": "0.6b", "quantization": "Q8_0"},
        "modelfs": {"type": "layers", "diffIds": [D1]},
    }
    for config_type in (MODELPACK_CONFIG_TYPE, CONFIG_TYPE):
        manifest = manifest_of(Descriptor(MODELPACK_GGUF_TYPE, D1, 1536), config_type=config_type)
        stored = parse_config(json.dumps(raw).encode(), manifest)
        assert stored.config == ModelConfig("gguf", "Q8_0", "0.6b", "qwen3", "1.50KiB")
        assert stored.created == 1742905342 - 3600


@pytest.mark.parametrize("created", [None, "", "yesterday", 5, "0001-01-01T00:00:00Z"])
def test_an_unknown_time_is_zero(created: Any) -> None:
    raw = json.dumps({"config": {"format": "gguf"}, "descriptor": {"created": created}}).encode()
    assert parse_config(raw, manifest_of()).created == 0


@pytest.mark.parametrize(
    "raw", [b"{}", b'{"config":null,"descriptor":null}', b'{"config":{"gguf":null,"context_size":null}}']
)
def test_an_empty_config_is_a_config(raw: bytes) -> None:
    assert parse_config(raw, manifest_of()).config == ModelConfig()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"7",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"config":[]}',
        b'{"config":{"format":1}}',
        b'{"config":{"gguf":{"a":[]}}}',
    ],
)
def test_hostile_configs_are_refused(raw: bytes) -> None:
    with pytest.raises(StoreError):
        parse_config(raw, manifest_of())


def test_another_kind_of_config_is_named_with_the_supported_ones() -> None:
    with pytest.raises(Unsupported) as caught:
        parse_config(b"{}", manifest_of(config_type="application/vnd.oci.image.config.v1+json"))
    assert "application/vnd.oci.image.config.v1+json" in caught.value.message
    assert CONFIG_TYPE in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["config", "descriptor", "created", "gguf", "modelfs", "x"]), inner, max_size=3
        )
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_json_is_a_config_or_an_error_of_ours(document: Any) -> None:
    raw = json.dumps(document).encode()
    for parse in (lambda: parse_config(raw, manifest_of()), lambda: parse_manifest(raw), lambda: parse_index(raw)):
        with contextlib.suppress(DmrError):
            parse()


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "0" * 63, "sha256:" + "A" * 64, "sha512:" + "0" * 64, None, 5]
)
def test_digests_are_checked(text: object) -> None:
    with pytest.raises(StoreError):
        parse_digest(text)


def test_a_digest_is_the_sha256() -> None:
    assert hex_of(parse_digest(digest_of(b""))) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_index_keeps_what_it_does_not_know() -> None:
    document = {
        "models": [
            {"id": D1, "tags": ["docker.io/ai/a:latest"], "files": [D2], "origin": {"a": [1]}},
            {"id": "nonsense", "tags": []},
            7,
        ],
        "comment": "kept",
    }
    index = parse_index(json.dumps(document).encode())
    assert index.entries == (Entry(D1, ("docker.io/ai/a:latest",), (D2,), {"origin": {"a": [1]}}),)
    assert json.loads(encode_index(index)) == document


def test_the_index_reads_older_spellings_and_nulls() -> None:
    document = {
        "models": [{"id": D1, "tags": ["ai/a", "hf.co/Org/B:Q8_0", "a b"], "files": None}, {"id": D2, "tags": None}]
    }
    first, second = parse_index(json.dumps(document).encode()).entries
    assert first.tags == ("docker.io/ai/a:latest", "huggingface.co/org/b:Q8_0", "a b")
    assert second.tags == ()


def test_an_id_that_the_index_has_twice_is_one_model() -> None:
    twice = [{"id": D1, "tags": ["a"], "files": [D2]}, {"id": D1, "tags": ["b"], "files": [D3]}]
    (entry,) = parse_index(json.dumps({"models": twice}).encode()).entries
    assert entry == Entry(D1, ("docker.io/ai/a:latest", "docker.io/ai/b:latest"), (D2, D3))


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"models":{}}', b'{"models":5}', b'{"models":[', b"[" * 100_000])
def test_a_damaged_index_is_reported(raw: bytes) -> None:
    with pytest.raises(StoreError, match=r"models\.json is damaged"):
        parse_index(raw)
