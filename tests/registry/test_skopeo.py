"""Skopeo, another client of registries, reads what we push, and we pull what it pushes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from registry.conftest import Start
from transfer_models import MODELS, NOBODY, blobs_of, bring

from dmr.store.store import ModelStore
from dmr.store.transfers import push

pytestmark = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")


def skopeo(*arguments: str) -> str:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", MODELS)
def test_both_read_what_the_other_has_pushed(kind: str, start: Start, target: ModelStore, tmp_path: Path) -> None:
    registry, layout = start(), tmp_path / "layout"
    store, name = ModelStore(tmp_path / "store"), f"{registry.host}/test/{kind.lower()}:v1"
    MODELS[kind](store, tmp_path, name)
    files = blobs_of(store, name)
    push(store, name, name, NOBODY, lambda _: None)
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}")
    assert raw.encode() == files[store.get(name).id]

    skopeo("copy", "--src-tls-verify=false", f"docker://{name}", f"oci:{layout}:v1")
    (manifest,) = json.loads((layout / "index.json").read_text())["manifests"]
    assert manifest["digest"] == store.get(name).id
    copied = {f"sha256:{path.name}": path.read_bytes() for path in (layout / "blobs" / "sha256").iterdir()}
    assert copied == files

    other = f"{registry.host}/other/{kind.lower()}:v2"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:v1", f"docker://{other}")
    bring(target, other)
    assert blobs_of(target, other) == files
    assert len(target.files(other).weights) == len(store.files(name).weights)
