"""Pushing to a hub on loopback: what arrives there, under which names, and who may not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub
from loopback_registry import running
from transfer_models import bring, weights, whole_model

from dmr.errors import RegistryError, RemoteModelNotFound, Unauthorized, Unsupported
from dmr.store.hugging_face.files_of_model import name_files
from dmr.store.hugging_face.names import HubModel
from dmr.store.manifest import CONFIG_TYPE, FILE_TYPE, GGUF_TYPE, MMPROJ_TYPE, Descriptor, Manifest
from dmr.store.pull import RegistryOptions
from dmr.store.store import ModelStore
from dmr.store.transfers import push
from dmr.types import ModelConfig, TransferProgress

TARGET = "hf.co/Org/Tiny-GGUF"
pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with running(LoopbackHub()) as server:
        server.token = "hf_secret"
        yield server


def options(hub: LoopbackHub, token: str | None = "hf_secret") -> RegistryOptions:
    return RegistryOptions(token=token, environ={"HF_ENDPOINT": f"http://{hub.host}"})


def send(hub: LoopbackHub, store: ModelStore, name: str = "test/model", target: str = TARGET) -> list[TransferProgress]:
    reports: list[TransferProgress] = []
    push(store, name, target, options(hub), reports.append)
    return reports


def test_what_was_pushed_can_be_pulled(hub: LoopbackHub, source: ModelStore, target: ModelStore) -> None:
    hub.files["README.md"] = b"mine"
    reports = send(hub, source, target=f"{TARGET}:Q8_0")
    assert sorted(hub.files) == ["README.md", "Tiny-Q8_0.gguf"]
    assert hub.files["Tiny-Q8_0.gguf"] == weights()
    assert reports[-1].layer_done == reports[-1].layer_size == len(weights())
    bring(target, f"{TARGET}:Q8_0", options(hub))
    assert target.files(f"{TARGET}:Q8_0").weights[0].read_bytes() == weights()


def test_all_parts_of_a_model_arrive_in_one_commit(hub: LoopbackHub, target: ModelStore, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "whole")
    whole_model(store, tmp_path, "test/whole")
    send(hub, store, "test/whole", f"{TARGET}:Q4_K_M")
    assert len(hub.commits) == 1
    assert sorted(hub.files) == [
        "LICENSE",
        "LICENSE-2",
        "Tiny-Q4_K_M-00001-of-00002.gguf",
        "Tiny-Q4_K_M-00002-of-00002.gguf",
        "chat_template.jinja",
        "mmproj-Tiny.gguf",
    ]
    bring(target, TARGET, options(hub))
    assert len(target.files(TARGET).weights) == 2
    assert target.get(TARGET).has_mmproj
    assert len(target.get(TARGET).licenses) == 2


def test_large_files_go_in_the_parts_that_the_hub_wants(hub: LoopbackHub, source: ModelStore) -> None:
    send(hub, source)
    sent = [path for method, path, _ in hub.requests if method == "PUT"]
    assert len(sent) == 4  # of a megabyte each
    assert all("authorization" not in headers for method, _, headers in hub.requests if method == "PUT")
    assert hub.count("POST", "/lfs-verify") == 1


def test_what_the_hub_has_is_not_sent_again(hub: LoopbackHub, source: ModelStore) -> None:
    send(hub, source)
    hub.requests.clear()
    send(hub, source, target=f"{TARGET}:other")
    assert hub.count("PUT", "/") == 0
    assert hub.files["Tiny-other.gguf"] == weights()


def test_a_repository_that_does_not_exist_is_made_private(
    hub: LoopbackHub, source: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    create = hub._create

    def record(handler: Any, wanted: dict[str, Any]) -> None:
        made.append(wanted)
        create(handler, wanted)

    monkeypatch.setattr(hub, "_create", record)
    send(hub, source, target="hf.co/Me/New")
    assert made == [{"name": "New", "organization": "Me", "type": "model", "private": True}]
    assert "New-F32.gguf" in hub.files


def test_a_branch_must_exist(hub: LoopbackHub, source: ModelStore) -> None:
    with pytest.raises(RemoteModelNotFound, match="no such branch"):
        send(hub, source, target=f"{TARGET}@none")
    hub.branches["next"] = {}
    send(hub, source, target=f"{TARGET}@next")
    assert list(hub.branches["next"]) == ["Tiny-F32.gguf"]
    assert hub.files == {}


def test_who_may_not_write_is_told(hub: LoopbackHub, source: ModelStore) -> None:
    with pytest.raises(Unauthorized, match="set HF_TOKEN to a token that may write"):
        push(source, "test/model", TARGET, options(hub, None), lambda _: None)
    with pytest.raises(Unauthorized, match="does not take the token"):
        push(source, "test/model", TARGET, options(hub, "hf_wrong"), lambda _: None)
    assert hub.commits == []


def test_an_upload_that_fails_is_tried_again(
    hub: LoopbackHub, source: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loopback_registry import send as answer

    failures, store_large = [503, 503], hub._store_large

    def fail_first(handler: Any, headers: dict[str, str]) -> None:
        if failures and handler.command == "PUT":
            handler.rfile.read(int(headers["content-length"]))
            answer(handler, failures.pop())
        else:
            store_large(handler, headers)

    monkeypatch.setattr(hub, "_store_large", fail_first)
    send(hub, source)
    assert hub.files["Tiny-F32.gguf"] == weights()


@pytest.mark.parametrize(
    ("placed", "reason"),
    [
        ({"actions": {"upload": {"href": "ftp://x"}}}, "no safe web address"),
        ({"actions": {"upload": {"href": "http://x", "header": {"chunk_size": "y"}}}}, "does not say clearly"),
        ({"actions": {"upload": {"href": "http://x", "header": {"chunk_size": "10"}}}}, "do not make up"),
        ({"actions": 1}, "does not say clearly"),
        ({"error": {"message": "quota"}}, "takes no file for Org/Tiny-GGUF: quota"),
        ({"oid": 1}, "cannot be understood"),
    ],
)
def test_answers_that_make_no_sense_are_told(
    hub: LoopbackHub, source: ModelStore, monkeypatch: pytest.MonkeyPatch, placed: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr(hub, "_place", lambda wanted: {**wanted, **placed})
    with pytest.raises(RegistryError, match=reason):
        send(hub, source)
    assert hub.commits == []


# --- names -----------------------------------------------------------------------------------------------------------


def layer(media_type: str, path: str = "", number: int = 0) -> Descriptor:
    return Descriptor(media_type, f"sha256:{number:064x}", 1, {"org.cncf.model.filepath": path})  # type: ignore[arg-type]


def names(layers: list[Descriptor], target: HubModel, quantization: str = "") -> list[str]:
    manifest = Manifest(2, layer(CONFIG_TYPE), tuple(layers))
    return [file.path for file in name_files(manifest, ModelConfig(quantization=quantization), target)]


@pytest.mark.parametrize(
    ("target", "quantization", "name"),
    [
        (HubModel("Org/Tiny-GGUF"), "IQ2_XXS/Q4_K_M", "Tiny-Q4_K_M.gguf"),
        (HubModel("Org/Tiny-GGUF", "Q8_0"), "Q4_K_M", "Tiny-Q8_0.gguf"),
        (HubModel("Org/Tiny-Q8_0"), "Q8_0", "Tiny-Q8_0.gguf"),
        (HubModel("Org/Tiny"), "", "Tiny.gguf"),
    ],
)
def test_weights_are_called_by_repository_and_quantization(target: HubModel, quantization: str, name: str) -> None:
    assert names([layer(GGUF_TYPE), layer(MMPROJ_TYPE, number=1)], target, quantization)[0] == name


def test_files_with_paths_keep_them_and_may_not_lead_out() -> None:
    target = HubModel("Org/Tiny")
    assert names([layer(FILE_TYPE, "sub/config.json")], target) == ["sub/config.json"]
    for path in ("../x", "/etc/passwd", "", ".git/config"):
        with pytest.raises(Unsupported, match="no name that a repository can hold"):
            names([layer(FILE_TYPE, path)], target)
    with pytest.raises(Unsupported, match="two files called a"):
        names([layer(FILE_TYPE, "a"), layer(FILE_TYPE, "a", 1)], target)
    with pytest.raises(Unsupported, match="no files"):
        names([], target)
