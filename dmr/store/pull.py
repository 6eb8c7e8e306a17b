"""Pulls a model from a registry: manifest, config, layers side by side, and last of all its place in the index."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import msgspec

from dmr.errors import RegistryError, RemoteModelNotFound, Unauthorized, Unsupported
from dmr.store.digest import digest_of
from dmr.store.download import check_size, download_blob
from dmr.store.index import Entry
from dmr.store.layout import Layout
from dmr.store.manifest import CONFIG_TYPES, Descriptor, Manifest, parse_manifest
from dmr.store.model_config import MAX_CONFIG_BYTES
from dmr.store.reference import Reference, parse_reference
from dmr.store.registry.client import Repository
from dmr.store.registry.credentials import find_credentials
from dmr.store.registry.transport import TransferCancelled, Transport
from dmr.types import TransferProgress

NUM_PARALLEL_LAYERS = 4
MIN_REPORT_BYTES = 1 << 20  # between two reports about one layer

Report = Callable[[TransferProgress], None]


class RegistryOptions(msgspec.Struct, frozen=True):
    """How registries are reached. `environ` is where credentials are looked for."""

    insecure: bool = False
    mirrors: tuple[str, ...] = ()  # hosts that are asked before the default registry
    token: str | None = None  # of this request
    environ: Mapping[str, str] = {}


def pull_model(
    layout: Layout,
    reference: Reference,
    options: RegistryOptions,
    transport: Transport,
    report: Report,
    lock_timeout: float,
) -> Entry:
    """Bring a model and give it its tag. What is there already is not fetched again.

    Raises:
        RemoteModelNotFound, Unauthorized, RegistryError, Unsupported, StoreError, TransferCancelled
    """
    repository, raw = _find(reference, options, transport)
    manifest = parse_manifest(raw)
    _check_type(manifest)
    for blob in manifest.blobs:
        check_size(blob.size)
    total = sum(blob.size for blob in manifest.blobs)
    missing = [blob for blob in manifest.blobs if not layout.blobs.has(blob.digest)]
    _fetch_all(layout, repository, missing, total, transport, report)
    return adopt(layout, raw, reference, lock_timeout)


def adopt(layout: Layout, raw_manifest: bytes, reference: Reference, lock_timeout: float) -> Entry:
    """Take a model whose blobs are all there into the index, under a name (none for a bare digest)."""
    manifest = parse_manifest(raw_manifest)
    with layout.lock(lock_timeout):
        for digest in manifest.digests:
            if not layout.blobs.has(digest):
                raise RegistryError(f"The blob {digest} was removed while the model was pulled; pull it again.")
        layout.read_config(manifest)
        layout.write_manifest(raw_manifest)
        index = layout.read_index()
        model_id = digest_of(raw_manifest)
        entry = index.find_id(model_id) or Entry(model_id, (), manifest.digests)
        if reference.tag:
            entry = entry.with_tag(str(msgspec.structs.replace(reference, digest="")))
        layout.write_index(index.with_entry(entry))
    return entry


def open_repository(
    reference: Reference, options: RegistryOptions, transport: Transport, mirror: str = ""
) -> Repository:
    """The repository of a reference, at its own registry or at a mirror of it: which gets no token that was given."""
    registry = mirror or reference.registry
    token = None if mirror else options.token
    credentials = None if token else find_credentials(registry, options.environ)
    return Repository(transport, registry, reference.repository, credentials, token, options.insecure)


def parse_remote(text: str, default_registry: str) -> Reference:
    """What a user wants pulled or pushed; raises InvalidReference, Unsupported."""
    reference = parse_reference(text, default_registry)
    if reference.registry == "huggingface.co":
        raise Unsupported("Models of this hub are not pulled as OCI artifacts.")
    return reference


def _find(reference: Reference, options: RegistryOptions, transport: Transport) -> tuple[Repository, bytes]:
    """The manifest, and where it came from: mirrors come first and may fail in any way."""
    wanted = reference.digest or reference.tag
    for mirror in options.mirrors if reference.registry == "docker.io" else ():
        repository = open_repository(reference, options, transport, mirror)
        try:
            return repository, repository.manifest(wanted)[0]
        except (RegistryError, RemoteModelNotFound, Unauthorized):
            continue
    repository = open_repository(reference, options, transport)
    return repository, repository.manifest(wanted)[0]


def _check_type(manifest: Manifest) -> None:
    kind = manifest.config.media_type
    if kind not in CONFIG_TYPES:
        raise Unsupported(
            f"This is no model that can be pulled: its config has the type '{kind[:200]}'; supported are "
            f"{', '.join(CONFIG_TYPES)}. A newer version may be able to read it."
        )
    if manifest.config.size > MAX_CONFIG_BYTES:
        raise Unsupported(f"The model's config has {manifest.config.size} bytes, more than {MAX_CONFIG_BYTES}.")


def _fetch_all(
    layout: Layout,
    repository: Repository,
    missing: list[Descriptor],
    total: int,
    transport: Transport,
    report: Report,
) -> None:
    if not missing:
        return
    with ThreadPoolExecutor(NUM_PARALLEL_LAYERS, thread_name_prefix="layer") as pool:
        jobs = [
            pool.submit(
                download_blob,
                layout.blobs,
                blob.digest,
                blob.size,
                lambda offset, blob=blob: repository.blob(blob.digest, offset),  # type: ignore[misc]
                transport,
                layer_reporter(blob, total, report),
            )
            for blob in sorted(missing, key=lambda blob: -blob.size)
        ]
        _, rest = wait(jobs, return_when=FIRST_EXCEPTION)
        if rest:
            transport.give_up()
            for job in rest:
                job.cancel()
    errors = [error for job in jobs if not job.cancelled() and (error := job.exception()) is not None]
    # A part that was given up is the consequence, not the cause.
    for error in sorted(errors, key=lambda error: isinstance(error, TransferCancelled)):
        raise error


def layer_reporter(blob: Descriptor, total: int, report: Report) -> Callable[[int], None]:
    """Reports of one layer, not more often than its bytes justify."""
    lock, last = threading.Lock(), [-MIN_REPORT_BYTES]

    def tell(done: int) -> None:
        with lock:
            if done < blob.size and 0 <= done - last[0] < MIN_REPORT_BYTES:
                return
            last[0] = done
        report(TransferProgress("", total, blob.digest, blob.size, done))

    return tell
