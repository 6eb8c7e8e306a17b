"""Pulling and pushing, against a registry and a hub on loopback that fail in every way they can."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import pytest
from loopback_registry import LoopbackRegistry, running
from transfer_models import NOBODY, bring

from dmr.errors import RegistryError, RemoteModelNotFound, Unauthorized, Unsupported
from dmr.store import download
from dmr.store.pull import RegistryOptions
from dmr.store.registry.transport import TransferCancelled
from dmr.store.store import ModelStore
from dmr.store.transfers import pull, push
from dmr.types import TransferProgress

pytestmark = pytest.mark.usefixtures("impatient")


def weights(registry: LoopbackRegistry) -> str:
    return max(registry.blobs, key=lambda digest: len(registry.blobs[digest]))


def test_what_was_pushed_can_be_pulled_byte_for_byte(
    name: str, source: ModelStore, target: ModelStore, registry: LoopbackRegistry
) -> None:
    reports = bring(target, name)
    assert target.get(name).id == source.get("test/model").id
    assert target.files(name).weights[0].read_bytes() == source.files("test/model").weights[0].read_bytes()
    last = [report for report in reports if report.layer == weights(registry)][-1]
    assert last.layer_done == last.layer_size == len(registry.blobs[weights(registry)])
    assert last.total == sum(map(len, registry.blobs.values()))
    assert not list((target.root / "blobs" / "sha256").glob("*.incomplete"))


def test_what_is_there_is_not_fetched_again(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    bring(target, name)
    registry.requests.clear()
    assert [report.layer for report in bring(target, name) if report.layer] == []
    assert registry.count("GET", "/blobs/") == 0


def test_what_the_registry_has_is_not_sent_again(name: str, source: ModelStore, registry: LoopbackRegistry) -> None:
    push(source, "test/model", name.replace("v1", "v2"), NOBODY, lambda _: None)
    assert registry.count("POST", "uploads") == 0
    assert registry.manifests["test/model:v2"] == registry.manifests["test/model:v1"]


def test_a_broken_download_is_resumed(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    size = len(registry.blobs[weights(registry)])
    registry.cut_after = [1 << 21, 1 << 19]
    bring(target, name)
    assert registry.bytes_sent[weights(registry)] == size
    assert target.get(name)


def test_a_later_pull_goes_on_where_the_last_one_ended(
    name: str, target: ModelStore, registry: LoopbackRegistry
) -> None:
    digest, blobs = weights(registry), target.root / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / f"{digest.removeprefix('sha256:')}.incomplete").write_bytes(registry.blobs[digest][: 1 << 21])
    bring(target, name)
    assert registry.bytes_sent[digest] == len(registry.blobs[digest]) - (1 << 21)


@pytest.mark.parametrize("mischief", ["ignores_ranges", "lies_about_ranges"])
def test_a_range_that_is_not_honoured_means_from_the_start(
    name: str, target: ModelStore, registry: LoopbackRegistry, mischief: str
) -> None:
    setattr(registry, mischief, True)
    digest, blobs = weights(registry), target.root / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / f"{digest.removeprefix('sha256:')}.incomplete").write_bytes(registry.blobs[digest][:1000])
    bring(target, name)
    assert target.files(name).weights[0].read_bytes() == registry.blobs[digest]


def test_damaged_leftovers_are_found_out(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    digest, blobs = weights(registry), target.root / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / f"{digest.removeprefix('sha256:')}.incomplete").write_bytes(b"x" * 1000)
    bring(target, name)
    assert target.verify(name) == []
    assert registry.bytes_sent[digest] == 2 * len(registry.blobs[digest]) - 1000


def test_wrong_bytes_never_get_a_name(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    registry.wrong_bytes = True
    with pytest.raises(RegistryError, match="another digest"):
        bring(target, name)
    assert target.models() == []
    assert not [path for path in (target.root / "blobs" / "sha256").iterdir() if path.suffix != ".incomplete"]


def test_passing_failures_are_tried_again(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    registry.failures = [503, 429, 500]
    bring(target, name)
    assert target.get(name)


def test_a_source_that_goes_in_circles_is_given_up(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    registry.denies_ranges = True  # a little comes, then the rest of it is denied, so that all begins anew
    registry.cut_after = [1 << 17] * 40
    with pytest.raises(RegistryError, match="begun anew"):
        bring(target, name)
    assert len(registry.cut_after) > 20


def test_a_source_that_drips_is_given_up(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    registry.cut_after = [10] * 40
    with pytest.raises(RegistryError, match="broke off 5 times"):
        bring(target, name)


def test_a_mirror_does_not_get_the_token_of_the_request(
    name: str, target: ModelStore, registry: LoopbackRegistry
) -> None:
    bring(target, "test/model:v1", RegistryOptions(mirrors=(registry.host,), token="secret", environ={}))
    assert registry.count("GET", "/blobs/") > 0
    assert all("authorization" not in headers for _, _, headers in registry.requests)


def test_a_registry_that_is_gone_is_told(target: ModelStore, registry: LoopbackRegistry, name: str) -> None:
    registry.close()
    with pytest.raises(RegistryError, match="cannot be reached"):
        bring(target, name)


def test_without_the_network_the_model_in_the_store_will_do(
    name: str, target: ModelStore, registry: LoopbackRegistry
) -> None:
    bring(target, name)
    registry.close()
    (warning,) = bring(target, name)
    assert warning.is_warning
    assert "cannot be reached" in warning.message


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
def test_credentials_of_the_environment_are_used(
    name: str, target: ModelStore, registry: LoopbackRegistry, tmp_path: Path, scheme: str
) -> None:
    registry.user, registry.scheme = "me:secret", scheme
    with pytest.raises(Unauthorized):
        bring(target, name)
    (tmp_path / "config.json").write_text(f'{{"auths": {{"{registry.host}": {{"auth": "bWU6c2VjcmV0"}}}}}}')
    bring(target, name, RegistryOptions(environ={"DOCKER_CONFIG": str(tmp_path)}))
    assert target.get(name)


def test_a_credential_helper_is_asked(
    name: str, target: ModelStore, registry: LoopbackRegistry, tmp_path: Path
) -> None:
    registry.user = "me:secret"
    helper = tmp_path / "docker-credential-test"
    helper.write_text('#!/bin/sh\nread key\necho "{\\"Username\\":\\"me\\",\\"Secret\\":\\"secret\\"}"\n')
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text('{"credsStore": "test"}')
    environ = {"DOCKER_CONFIG": str(tmp_path), "PATH": f"{tmp_path}:/bin:/usr/bin"}
    bring(target, name, RegistryOptions(environ=environ))
    assert target.get(name)


def test_a_token_of_the_request_is_sent_as_it_is(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    registry.user = "me:secret"
    registry.tokens.add("given")
    bring(target, name, RegistryOptions(token="given"))
    with pytest.raises(Unauthorized):
        bring(target, name + "x", RegistryOptions(token="wrong"))


def test_secrets_are_not_carried_to_another_host(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    with running(LoopbackRegistry()) as elsewhere:
        elsewhere.blobs.update(registry.blobs)
        registry.user = "me:secret"
        registry.tokens.add("given")
        registry.redirect_to = f"http://{elsewhere.host}"
        bring(target, name, RegistryOptions(token="given"))
        assert elsewhere.requests
        assert all("authorization" not in headers for _, _, headers in elsewhere.requests)


def test_unknown_names_and_other_things_are_told(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    with pytest.raises(RemoteModelNotFound):
        bring(target, f"{registry.host}/test/none")
    raw = b'{"schemaVersion":2,"config":{"mediaType":"application/x","digest":"sha256:%s","size":2},"layers":[]}'
    registry.manifests["test/image:v1"] = (raw % (b"a" * 64), "application/vnd.oci.image.manifest.v1+json")
    with pytest.raises(Unsupported, match="application/x"):
        bring(target, f"{registry.host}/test/image:v1")
    registry.manifests["test/many:v1"] = (b"{}", "application/vnd.oci.image.index.v1+json")
    with pytest.raises(Unsupported, match="several platforms"):
        bring(target, f"{registry.host}/test/many:v1")


def test_eight_pulls_at_once_are_one_transfer(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    registry.hold.clear()
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(bring, target, name) for _ in range(8)]
        time.sleep(0.3)
        registry.hold.set()
        for job in jobs:
            job.result(20)
    assert registry.bytes_sent[weights(registry)] == len(registry.blobs[weights(registry)])


def test_a_file_that_is_renamed_under_who_waited_for_it_is_begun_anew(
    name: str, target: ModelStore, registry: LoopbackRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list[Path]()

    def lock(file: FileIO) -> bool:
        if not taken:
            path = Path(f"/proc/self/fd/{file.fileno()}").readlink()  # other files come at the same time
            taken.append(path)
            path.unlink()
        return True

    monkeypatch.setattr(download, "_try_lock", lock)
    monkeypatch.setattr(Path, "exists", lambda path: True)  # a look that is over when it is used
    bring(target, name)
    monkeypatch.undo()
    assert taken
    assert target.verify(name) == []


def test_a_cancelled_pull_keeps_what_has_come(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    stop = threading.Event()

    def report(progress: TransferProgress) -> None:
        if progress.layer_size > 1 << 20 and progress.layer_done >= 1 << 20:
            stop.set()

    with pytest.raises(TransferCancelled):
        pull(target, name, NOBODY, report, stop.is_set)
    digest = weights(registry)
    left = target.root / "blobs" / "sha256" / f"{digest.removeprefix('sha256:')}.incomplete"
    assert left.stat().st_size >= 1 << 20
    bring(target, name)
    assert target.get(name)
