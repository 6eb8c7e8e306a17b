"""Pushing to a real registry and pulling from it: with and without a user, with and without TLS."""

from __future__ import annotations

import json
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from registry.conftest import PASSWORD, USER, Start
from transfer_models import MODELS, NOBODY, blobs_of, bring

from dmr.errors import RegistryError, RemoteModelNotFound, Unauthorized
from dmr.store.pull import RegistryOptions
from dmr.store.store import ModelStore
from dmr.store.transfers import inspect, push


def send(store: ModelStore, name: str, options: RegistryOptions = NOBODY, source: str = "test/model") -> None:
    push(store, source, name, options, lambda _: None)


def logged_in(folder: Path, host: str, password: str = PASSWORD) -> dict[str, str]:
    """What `docker login` would have left behind, as an environment."""
    auth = b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return {"DOCKER_CONFIG": str(folder)}


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_comes_back_unchanged(kind: str, start: Start, target: ModelStore, tmp_path: Path) -> None:
    registry = start()
    store, name = ModelStore(tmp_path / "store"), f"{registry.host}/test/{kind.lower()}:v1"
    MODELS[kind](store, tmp_path, name)
    send(store, name, source=name)
    bring(target, name)
    assert blobs_of(target, name) == blobs_of(store, name)
    assert inspect(name, "docker.io", NOBODY).id == store.get(name).id
    bring(target, f"{name.removesuffix(':v1')}@{store.get(name).id}")


def test_what_the_registry_has_is_not_sent_again(start: Start, source: ModelStore) -> None:
    registry = start()
    name = f"{registry.host}/test/model"
    send(source, f"{name}:v1")
    uploads = registry.count("PUT", "/blobs/uploads/")
    assert uploads == len(blobs_of(source, "test/model")) - 1  # all but the manifest
    send(source, f"{name}:v2")
    assert registry.count("PUT", "/blobs/uploads/") == uploads
    assert registry.count("PUT", "/manifests/v2") == 1


def test_a_download_that_was_cut_is_resumed(start: Start, source: ModelStore, target: ModelStore) -> None:
    registry = start()
    name = f"{registry.host}/test/model"
    send(source, name)
    files = blobs_of(source, "test/model")
    digest = max(files, key=lambda digest: len(files[digest]))
    blobs = target.root / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    left = len(files[digest]) // 2
    (blobs / f"{digest.removeprefix('sha256:')}.incomplete").write_bytes(files[digest][:left])
    reports = bring(target, name)
    assert next(report.layer_done for report in reports if report.layer == digest) == left
    assert [line for line in registry.requests if digest in line and line.startswith("GET") and line.endswith(" 206")]
    assert blobs_of(target, name) == files


def test_eight_pulls_at_once_fetch_each_blob_once(start: Start, source: ModelStore, target: ModelStore) -> None:
    registry = start()
    name = f"{registry.host}/test/model"
    send(source, name)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: bring(target, name), range(8)))
    for digest in blobs_of(source, "test/model"):
        if digest != source.get("test/model").id:
            assert registry.count("GET", f"/blobs/{digest}") == 1
    assert blobs_of(target, name) == blobs_of(source, "test/model")


def test_what_is_not_there_is_told(start: Start, source: ModelStore, target: ModelStore) -> None:
    registry = start()
    send(source, f"{registry.host}/test/model:v1")
    for missing in ("test/model:v2", "test/none", f"test/model@sha256:{'0' * 64}"):
        with pytest.raises(RemoteModelNotFound, match="no such model"):
            bring(target, f"{registry.host}/{missing}")


def test_a_user_is_asked_for(start: Start, source: ModelStore, target: ModelStore, tmp_path: Path) -> None:
    registry = start(with_user=True)
    name = f"{registry.host}/test/model:v1"
    with pytest.raises(Unauthorized, match="log in"):
        send(source, name)
    with pytest.raises(Unauthorized, match="log in"):
        bring(target, name)
    options = RegistryOptions(environ=logged_in(tmp_path, registry.host))
    send(source, name, options)
    bring(target, name, options)
    assert blobs_of(target, name) == blobs_of(source, "test/model")


def test_a_wrong_password_is_told(start: Start, source: ModelStore, tmp_path: Path) -> None:
    registry = start(with_user=True)
    environ = logged_in(tmp_path, registry.host, "wrong")
    with pytest.raises(Unauthorized, match="refused"):
        send(source, f"{registry.host}/test/model:v1", RegistryOptions(environ=environ))


def test_tls_with_an_authority_of_ones_own(
    start: Start, source: ModelStore, target: ModelStore, tmp_path: Path
) -> None:
    registry = start(with_user=True, with_tls=True)
    name, environ = f"{registry.host}/test/model:v1", logged_in(tmp_path, registry.host)
    with pytest.raises(RegistryError, match="DMR_CA_FILE"):
        send(source, name, RegistryOptions(environ=environ))
    assert registry.certificates is not None
    send(source, name, RegistryOptions(environ=environ, certificates=str(registry.certificates.authority)))
    authorities = {**environ, "SSL_CERT_FILE": str(registry.certificates.authority)}
    bring(target, name, RegistryOptions(environ=authorities))
    assert blobs_of(target, name) == blobs_of(source, "test/model")


def test_tls_that_nobody_checks(start: Start, source: ModelStore, target: ModelStore) -> None:
    registry = start(with_tls=True)
    name = f"{registry.host}/test/model:v1"
    options = RegistryOptions(insecure=True, environ={})
    send(source, name, options)
    bring(target, name, options)
    assert blobs_of(target, name) == blobs_of(source, "test/model")
