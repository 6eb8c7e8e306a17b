"""Pulling from a hub on loopback that speaks the routes of Hugging Face, and fails in the ways it can."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import LoopbackHub
from loopback_registry import running
from transfer_models import bring
from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.errors import (
    InvalidModelFile,
    InvalidReference,
    RegistryError,
    RemoteModelNotFound,
    StoreError,
    Unauthorized,
    Unsupported,
)
from dmr.store.hugging_face.access import find_token
from dmr.store.hugging_face.names import HubModel, parse_hub_name
from dmr.store.pull import RegistryOptions
from dmr.store.reference import parse_reference
from dmr.store.store import ModelStore
from dmr.types import TransferProgress

NAME = "hf.co/Org/Tiny-GGUF"
pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with running(LoopbackHub()) as server:
        yield server


def options(hub: LoopbackHub, token: str | None = None, **environ: str) -> RegistryOptions:
    return RegistryOptions(token=token, environ={"HF_ENDPOINT": f"http://{hub.host}", **environ})


def tiny(number: int, **metadata: object) -> bytes:
    return gguf_bytes({"general.architecture": "llama", "x": number, **metadata}, tensors=[Tensor("a")])


def big(number: int, num_mib: int = 2) -> bytes:
    data = bytes((index + number) % 256 for index in range(256)) * (num_mib << 12)
    return gguf_bytes({"general.architecture": "llama"}, tensors=[Tensor("a", (len(data) // 4,), data=data)])


def shards(prefix: str, count: int = 2) -> dict[str, bytes]:
    return {
        f"{prefix}-{number + 1:05}-of-{count:05}.gguf": gguf_bytes(
            {"general.architecture": "llama", "split.no": number, "split.count": count, "split.tensors.count": count},
            tensors=[Tensor(f"{prefix[-3:]}{number}")],
        )
        for number in range(count)
    }


def projector(name: str) -> bytes:
    return gguf_bytes({"general.architecture": "clip", "general.name": name})


def weights_of(store: ModelStore, name: str) -> bytes:
    return store.files(name).weights[0].read_bytes()


def messages(reports: list[TransferProgress]) -> list[str]:
    return [report.message for report in reports if report.message]


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "model", "stored"),
    [
        ("hf.co/Org/Tiny-GGUF", HubModel("Org/Tiny-GGUF"), "org/tiny-gguf:latest"),
        ("huggingface.co/Org/Tiny:latest", HubModel("Org/Tiny"), "org/tiny:latest"),
        ("HF.co/Org/Tiny:Q8_0", HubModel("Org/Tiny", "Q8_0"), "org/tiny:Q8_0"),
        ("hf.co/Org/Tiny:Q8_0@v1.2", HubModel("Org/Tiny", "Q8_0", "v1.2"), "org/tiny:Q8_0--v1.2"),
        ("hf.co/Org/Tiny@v1.2:Q8_0", HubModel("Org/Tiny", "Q8_0", "v1.2"), "org/tiny:Q8_0--v1.2"),
        ("hf.co/Org/Tiny@refs/pr/3", HubModel("Org/Tiny", "", "refs/pr/3"), "org/tiny:latest--refs--pr--3"),
        ("hf.co/Org/Tiny:latest--refs--pr--3", HubModel("Org/Tiny", "", "refs/pr/3"), "org/tiny:latest--refs--pr--3"),
        ("hf.co/Org/Tiny:Q8_0@main", HubModel("Org/Tiny", "Q8_0"), "org/tiny:Q8_0"),
    ],
)
def test_a_name_says_repository_quantization_and_revision(text: str, model: HubModel, stored: str) -> None:
    assert parse_hub_name(text) == model
    assert str(parse_reference(text)) == f"huggingface.co/{stored}"


def test_the_names_of_the_manual_are_read_as_it_says() -> None:
    page = (Path(__file__).parents[3] / "docs" / "hugging-face.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(hf\.co/\S+)` \| `(\S+)` \|$", page, re.MULTILINE)
    assert len(rows) == 5
    assert [str(parse_reference(typed)) for typed, _ in rows] == [stored for _, stored in rows]


@pytest.mark.parametrize(
    "text",
    [
        "hf.co/x",
        "hf.co/a/b/c",
        "hf.co/../x",
        "hf.co/Org/Tiny@",
        "hf.co/Org/Tiny@a--b",
        "hf.co/Org/Tiny@-x",
        "hf.co/Org/Tiny@sha256:12",
        "hf.co/Org/Tiny@sha256:" + "a" * 64,
        "hf.co/Org/Tiny@" + "a" * 200,
        "hf.co/Org/Tiny:Q8_0@v1@v2",
    ],
)
def test_names_that_the_hub_cannot_have_are_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_hub_name(text)


@pytest.mark.parametrize("text", ["ai/smollm2", "hf.co.example.com/a/b", "smollm2", "registry.example.com/hf.co/x"])
def test_other_names_are_none_of_the_hub(text: str) -> None:
    assert parse_hub_name(text) is None


# --- which files -----------------------------------------------------------------------------------------------------


def test_a_quantization_is_pulled(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {
        "README.md": b"# tiny",
        "tiny-Q4_K_M.gguf": tiny(1),
        "tiny-Q8_0.gguf": tiny(2),
        "sub/tiny-Q2_K.gguf": tiny(3),
        "UD-Q8_K_XL/tiny.gguf": tiny(4),
        "tiny-imatrix.gguf": tiny(5),
    }
    wanted = {"": 1, ":q8_0": 2, ":Q2_K": 3, ":UD-Q8_K_XL": 4, ":tiny-q8_0": 2, ":tiny-Q8_0.gguf": 2}
    for tag, number in wanted.items():
        bring(target, NAME + tag, options(hub))
        assert weights_of(target, NAME + tag) == tiny(number)


def test_progress_tells_what_is_taken(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"tiny-Q4_K_M.gguf": big(1), "tiny-Q8_0.gguf": tiny(2), "LICENSE": b"Do."}
    reports = bring(target, NAME, options(hub))
    assert messages(reports) == [
        "Fetching file list...",
        "Selected Q4_K_M quantization (default)",
        "Found 2 files (2.00 MB total)",
        "Building model artifact...",
    ]
    last = [report for report in reports if report.layer][-1]
    assert last.layer_done == last.layer_size == last.total == len(big(1))


def test_no_other_quantization_is_taken_instead(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"tiny-Q8_0.gguf": tiny(2), "tiny-Q2_K.gguf": tiny(3), "mmproj-F16.gguf": projector("a")}
    with pytest.raises(RemoteModelNotFound, match=r"no Q4_K_M; it has: Q2_K, Q8_0\. Name one after a colon"):
        bring(target, NAME, options(hub))
    with pytest.raises(RemoteModelNotFound, match=r"no Q8;"):
        bring(target, f"{NAME}:Q8", options(hub))
    hub.files = {"tiny-Q8_0.gguf": tiny(2)}
    bring(target, NAME, options(hub))


def test_several_models_of_one_quantization_are_told_apart_by_name(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"small-Q8_0.gguf": tiny(1), "large-Q8_0.gguf": tiny(2)}
    with pytest.raises(RemoteModelNotFound, match="several models for Q8_0: large-Q8_0, small-Q8_0"):
        bring(target, f"{NAME}:Q8_0", options(hub))
    bring(target, f"{NAME}:large-Q8_0", options(hub))
    assert weights_of(target, f"{NAME}:large-Q8_0") == tiny(2)


@pytest.mark.parametrize("prefix", ["tiny-Q4_K_M", "Q4_K_M/tiny-Q4_K_M", "Q4_K_M/tiny"])
def test_shards_come_together(hub: LoopbackHub, target: ModelStore, prefix: str) -> None:
    hub.files = {**shards(prefix), "tiny-Q8_0.gguf": tiny(1)}
    bring(target, NAME, options(hub))
    assert [path.read_bytes() for path in target.files(NAME).weights] == list(shards(prefix).values())
    del hub.files[f"{prefix}-00001-of-00002.gguf"]
    with pytest.raises(RemoteModelNotFound, match="1 of 2 shards"):
        bring(target, f"{NAME}:Q4_K_M", options(hub))


def test_the_projector_of_the_same_folder_and_in_half_precision_is_taken(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {
        "one/tiny-Q8_0.gguf": tiny(1),
        "one/mmproj-tiny-BF16.gguf": projector("bf16"),
        "one/mmproj-tiny-F16.gguf": projector("f16"),
        "one/mmproj-tiny-F32.gguf": projector("f32"),
        "a/mmproj-other-F16.gguf": projector("other"),
    }
    bring(target, NAME, options(hub))
    mmproj = target.files(NAME).mmproj
    assert mmproj is not None
    assert mmproj.read_bytes() == projector("f16")
    assert target.get(NAME).has_mmproj


def test_licences_come_along_and_a_template_where_the_weights_have_none(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"t-Q8_0.gguf": tiny(1), "LICENSE": b"You may.", "chat_template.jinja": b"{{ 1 }}", "other.jinja": b"x"}
    bring(target, NAME, options(hub))
    assert target.get(NAME).licenses == ("You may.",)
    assert target.chat_template(NAME) == "{{ 1 }}"
    hub.files = {"t-Q8_0.gguf": tiny(1, **{"tokenizer.chat_template": "own"}), "chat_template.jinja": b"{{ 1 }}"}
    bring(target, NAME, options(hub))
    assert target.chat_template(NAME) is None


def test_a_small_file_that_is_not_what_the_list_says_is_refused(
    hub: LoopbackHub, target: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {"t-Q8_0.gguf": tiny(1), "LICENSE": b"You may."}
    entry = hub._entry
    monkeypatch.setattr(hub, "_entry", lambda files, name: {**entry(files, name), "oid": "0" * 40})
    with pytest.raises(RegistryError, match="not what the hub's list says"):
        bring(target, NAME, options(hub))


def test_files_that_make_no_model_are_not_kept(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"tiny-Q8_0.gguf": b"no model" * 1000}
    with pytest.raises(InvalidModelFile, match=r"tiny-Q8_0\.gguf"):
        bring(target, NAME, options(hub))
    assert list((target.root / "blobs" / "sha256").iterdir()) == []


def test_a_repository_without_weights_is_told(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"README.md": b"x"}
    with pytest.raises(Unsupported, match="neither GGUF files nor safetensors"):
        bring(target, NAME, options(hub))


# --- revisions, and what is there already ----------------------------------------------------------------------------


def test_revisions_stand_side_by_side(hub: LoopbackHub, target: ModelStore) -> None:
    hub.branches = {"main": {"t-Q8_0.gguf": tiny(1)}, "v1": {"t-Q8_0.gguf": tiny(2)}, "refs/pr/3": {"t.gguf": tiny(3)}}
    commit = hub.commit_of("v1")
    for name, number in ((NAME, 1), (f"{NAME}:Q8_0@v1", 2), (f"{NAME}@refs/pr/3", 3), (f"{NAME}@{commit}", 2)):
        bring(target, name, options(hub))
        assert weights_of(target, name) == tiny(number)
    assert "huggingface.co/org/tiny-gguf:Q8_0--v1" in target.get(f"{NAME}:Q8_0@v1").tags
    with pytest.raises(RemoteModelNotFound, match="no such branch, tag or commit"):
        bring(target, f"{NAME}@v9", options(hub))


def test_all_is_asked_of_one_commit(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"tiny-Q8_0.gguf": tiny(1)}
    commit = hub.commit_of("main")
    bring(target, NAME, options(hub))
    asked = [path for _, path, _ in hub.requests]
    assert asked[0] == "/api/models/Org/Tiny-GGUF/revision/main"
    assert all(commit in path for path in asked[1:])


def test_what_is_there_is_not_fetched_again(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"tiny-Q8_0.gguf": tiny(1)}
    bring(target, NAME, options(hub))
    hub.requests.clear()
    assert not [report for report in bring(target, NAME, options(hub)) if report.layer]
    assert hub.count("GET", "/resolve/") == 0
    hub.files = {"tiny-Q8_0.gguf": tiny(2)}
    bring(target, NAME, options(hub))
    assert weights_of(target, NAME) == tiny(2)


def test_without_the_hub_the_model_that_is_here_is_used(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"tiny-Q8_0.gguf": tiny(1)}
    bring(target, NAME, options(hub))
    hub.close()
    warning = bring(target, NAME, options(hub))[-1]
    assert warning.is_warning
    assert "cannot be reached" in warning.message
    with pytest.raises(RegistryError, match="cannot be reached"):
        bring(target, f"{NAME}:Q8_0", options(hub))


def test_a_commit_that_is_here_is_not_asked_for(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"tiny-Q8_0.gguf": tiny(1)}
    name = f"{NAME}@{hub.commit_of('main')}"
    bring(target, name, options(hub))
    hub.requests.clear()
    assert bring(target, name, options(hub)) == []
    assert hub.requests == []


# --- who may, and how often ------------------------------------------------------------------------------------------


def test_tokens_are_looked_for_as_the_hubs_own_tools_do(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert find_token(home) is None
    cache = tmp_path / ".cache" / "huggingface"
    cache.mkdir(parents=True)
    (cache / "token").write_text("hf_file\n")
    assert find_token(home) == "hf_file"
    assert find_token({**home, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}) is None
    (tmp_path / "other").write_text("hf_other")
    assert find_token({**home, "HF_TOKEN_PATH": str(tmp_path / "other")}) == "hf_other"
    assert find_token({**home, "HF_HOME": str(cache)}) == "hf_file"
    assert find_token({**home, "XDG_CACHE_HOME": "~/.cache"}) == "hf_file"
    assert find_token({**home, "HUGGING_FACE_HUB_TOKEN": "hf_old"}) == "hf_old"
    assert find_token({**home, "HF_TOKEN": " hf_env "}) == "hf_env"
    assert find_token({**home, "HF_TOKEN": "hf_env"}, "hf_given") == "hf_given"
    (cache / "token").write_bytes(b"\xff\xfe")
    assert find_token(home) is None


def test_a_private_repository_needs_a_token(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"tiny-Q8_0.gguf": tiny(2)}
    hub.token = "hf_secret"
    with pytest.raises(Unauthorized, match=r"does not exist, or is private: .* HF_TOKEN"):
        bring(target, NAME, options(hub))
    with pytest.raises(Unauthorized, match="does not take the token"):
        bring(target, NAME, options(hub, HF_TOKEN="hf_wrong"))
    bring(target, NAME, options(hub, "hf_secret", HF_TOKEN="hf_wrong"))


def test_a_gated_repository_tells_what_to_do(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"tiny-Q8_0.gguf": tiny(2)}
    hub.token, hub.is_gated = "hf_secret", True
    with pytest.raises(Unauthorized, match=r"is gated: accept its conditions at http://.*/Org/Tiny-GGUF, make a token"):
        bring(target, NAME, options(hub))
    with pytest.raises(Unauthorized, match="the token's owner is not let in"):
        bring(target, NAME, options(hub, HF_TOKEN="hf_wrong"))
    bring(target, NAME, options(hub, HF_TOKEN="hf_secret"))


def test_a_repository_that_does_not_exist_is_told(hub: LoopbackHub, target: ModelStore) -> None:
    with pytest.raises(RemoteModelNotFound, match="Org/None does not exist"):
        bring(target, "hf.co/Org/None", options(hub))


def test_a_limit_that_passes_is_waited_for(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"tiny-Q8_0.gguf": tiny(2)}
    hub.limits = [{"Retry_After": "0"}, {}, {"RateLimit": '"api";r=0;t=0'}]
    bring(target, NAME, options(hub))


@pytest.mark.parametrize(
    ("headers", "seconds"), [({"Retry_After": "77"}, 77), ({"RateLimit": '"api";r=0;t=55'}, 55), ({}, 60)]
)
def test_a_limit_that_stays_is_told_with_its_time(
    hub: LoopbackHub, target: ModelStore, headers: dict[str, str], seconds: int
) -> None:
    hub.limits = [headers] * 20
    with pytest.raises(RegistryError, match=rf"rate limit\); try again in {seconds} s\. With a token") as caught:
        bring(target, NAME, options(hub))
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    "lfs", [{"size": "big"}, {"size": [1]}, {"size": -1}, {"size": 1e400}, {"size": None}, {"oid": "x"}, {"oid": None}]
)
def test_a_list_that_makes_no_sense_is_told(hub: LoopbackHub, target: ModelStore, lfs: dict[str, object]) -> None:
    hub.files = {"tiny-Q8_0.gguf": tiny(2)}
    hub.lfs = lfs
    with pytest.raises((RegistryError, StoreError)):
        bring(target, NAME, options(hub))


# --- the way ---------------------------------------------------------------------------------------------------------


def test_shards_come_side_by_side(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = shards("tiny-Q8_0", 4)
    hub.hold.clear()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(bring, target, NAME, options(hub))
        while hub.num_open < 4 and not job.done():
            time.sleep(0.01)
        hub.hold.set()
        job.result(20)
    assert hub.max_open == 4


def test_a_shard_that_goes_with_another_model_meanwhile_is_fetched_again(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = shards("tiny-Q8_0")
    first, second = hub.files
    blob = target.root / "blobs" / "sha256" / hashlib.sha256(hub.files[first]).hexdigest()
    blob.parent.mkdir(parents=True)
    blob.write_bytes(hub.files[first])
    send_file = hub._send_file

    def remove_first(handler: Any, name: str, data: bytes, headers: dict[str, str]) -> None:
        if name == second:
            blob.unlink()
        send_file(handler, name, data, headers)

    hub._send_file = remove_first  # type: ignore[method-assign]
    bring(target, NAME, options(hub))
    assert len(target.files(NAME).weights) == 2
    assert hub.bytes_sent[first] == len(hub.files[first])


def test_a_file_that_breaks_off_is_resumed(hub: LoopbackHub, target: ModelStore) -> None:
    hub.files = {"tiny-Q8_0.gguf": big(1)}
    hub.cut_after = [1 << 20, 1 << 19]
    bring(target, NAME, options(hub))
    assert hub.bytes_sent["tiny-Q8_0.gguf"] == len(big(1))


def test_a_pull_that_was_killed_goes_on_and_leaves_one_copy(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.files = {"tiny-Q8_0.gguf": big(1, 6)}
    hub.cut_after = [3 << 20]
    code = (
        "import sys, os, signal\nfrom pathlib import Path\n"
        "from dmr.store.pull import RegistryOptions\nfrom dmr.store.store import ModelStore\n"
        "from dmr.store.transfers import pull\n"
        "def die(report):\n"
        "    if report.layer_done >= 2 << 20: os.kill(os.getpid(), signal.SIGKILL)\n"
        "pull(ModelStore(Path(sys.argv[1])), sys.argv[2], RegistryOptions(environ=dict(os.environ)), die)\n"
    )
    environ = {**os.environ, "HF_ENDPOINT": f"http://{hub.host}"}
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path), NAME], env=environ, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    store, blobs = ModelStore(tmp_path), tmp_path / "blobs" / "sha256"
    (left,) = blobs.glob("*.incomplete")
    there = left.stat().st_size
    assert there >= 1 << 20
    hub.bytes_sent.clear()
    bring(store, NAME, options(hub))
    assert hub.bytes_sent["tiny-Q8_0.gguf"] == len(big(1, 6)) - there
    assert weights_of(store, NAME) == big(1, 6)
    assert store.disk_usage() < len(big(1, 6)) + 100_000
