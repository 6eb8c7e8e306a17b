"""Pulls a model from a registry: manifest, config, layers side by side, and last of all its place in the index.

A model that the store has whole needs no registry: one that is asked for by its digest is not looked up at all, a tag
is looked up briefly, for it may have moved, and means what it meant if nobody answers.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import msgspec
import urllib3

from dmr.errors import DmrError, RegistryError, RemoteModelNotFound, StoreError, Unauthorized, Unsupported
from dmr.store.blobs import BlobStore
from dmr.store.digest import digest_of
from dmr.store.disk import store_errors
from dmr.store.download import check_size, download_blob, is_whole, num_bytes_left
from dmr.store.gguf_config import format_size
from dmr.store.index import Entry
from dmr.store.layout import Layout
from dmr.store.manifest import CONFIG_TYPES, Descriptor, Manifest, parse_manifest
from dmr.store.model_config import MAX_CONFIG_BYTES
from dmr.store.reference import Reference, parse_reference
from dmr.store.registry.client import Repository
from dmr.store.registry.credentials import find_credentials
from dmr.store.registry.transport import BRIEF, STEADY, Patience, Transport
from dmr.store.side_by_side import side_by_side
from dmr.types import TransferProgress

NUM_PARALLEL_LAYERS = 4
MAX_ADOPTIONS = 3  # a model that shares blobs may be removed while they are counted on
# A layer is told of after so many seconds, or so many bytes: a line for each piece would be more than anybody reads.
REPORT_INTERVAL = 0.1
MIN_REPORT_BYTES = 1 << 20
MAX_REPORTS = 200  # by bytes

Report = Callable[[TransferProgress], None]
OpenBlob = Callable[[Descriptor, int], AbstractContextManager[urllib3.BaseHTTPResponse]]  # from an offset on


class RegistryOptions(msgspec.Struct, frozen=True):
    """How registries are reached. `environ` is where credentials and proxies are looked for."""

    insecure: bool = False
    mirrors: tuple[str, ...] = ()  # hosts that are asked before the default registry
    token: str | None = None  # of this request
    environ: Mapping[str, str] = {}
    certificates: str = ""  # a file of authorities to trust beside the system's
    private: tuple[str, ...] | None = None  # hosts of registries that may be at private addresses; None = any


class BlobRemoved(StoreError):
    """A blob that was there has gone while the rest was fetched."""

    code = "blob_removed"


def pull_model(
    layout: Layout,
    reference: Reference,
    options: RegistryOptions,
    transport: Transport,
    report: Report,
    lock_timeout: float,
    place: AbstractContextManager[None],
) -> Entry:
    """Bring a model and give it its tag. What is there already is not fetched again; what is damaged is.

    `place` is entered only if something has to be fetched.

    Raises:
        RemoteModelNotFound, Unauthorized, RegistryError, Unsupported, StoreError, TransferCancelled
    """
    known = find_whole(layout, reference)
    if known is not None and reference.digest:
        return adopt(layout, layout.read_raw_manifest(known.id), reference, lock_timeout)
    try:
        raw, repositories = find_manifest(reference, options, transport, STEADY if known is None else BRIEF)
    except RegistryError as error:
        if known is None:
            raise
        text = f"The model that is here is used, for the registry cannot tell whether there is a newer one: {error}"
        report(TransferProgress(text, is_warning=True))
        return known
    if is_all_there(layout, check_manifest(raw)):
        with contextlib.suppress(BlobRemoved):
            return adopt(layout, raw, reference, lock_timeout)
    with place:
        return _bring(layout, raw, reference, repositories, transport, report, lock_timeout)


def _bring(
    layout: Layout,
    raw: bytes,
    reference: Reference,
    repositories: Sequence[Repository],
    transport: Transport,
    report: Report,
    lock_timeout: float,
) -> Entry:
    manifest = parse_manifest(raw)
    for _ in range(MAX_ADOPTIONS - 1):
        _fetch_missing(layout, repositories, manifest, transport, report)
        with contextlib.suppress(BlobRemoved):
            return adopt(layout, raw, reference, lock_timeout)
    _fetch_missing(layout, repositories, manifest, transport, report)
    return adopt(layout, raw, reference, lock_timeout)


def find_whole(layout: Layout, reference: Reference) -> Entry | None:
    """The model of a name, or of its digest if it has one, as long as all of its blobs are there."""
    try:
        index = layout.read_index()
        entry = index.find_id(reference.digest) if reference.digest else index.find_tag(str(reference))
        if entry is None:
            return None
        manifest = layout.read_manifest(entry.id)
    except DmrError:  # the registry may have what is damaged here
        return None
    return entry if is_all_there(layout, manifest) else None


def is_all_there(layout: Layout, manifest: Manifest) -> bool:
    """Whether every blob is there, as long as it should be."""
    return all(is_whole(layout.blobs, blob.digest, blob.size) for blob in manifest.blobs)


def adopt(layout: Layout, raw_manifest: bytes, reference: Reference, lock_timeout: float) -> Entry:
    """Take a model whose blobs are all there into the index, under a name (none for a bare digest)."""
    manifest = parse_manifest(raw_manifest)
    with layout.lock(lock_timeout):
        for digest in manifest.digests:
            if not layout.blobs.has(digest):
                raise BlobRemoved(f"The blob {digest} was removed while the model was pulled; pull it again.")
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
    credentials = None if token else find_credentials(registry.rpartition("://")[2].rstrip("/"), options.environ)
    return Repository(transport, registry, reference.repository, credentials, token, options.insecure)


def parse_remote(text: str, default_registry: str) -> Reference:
    """What a user wants pulled or pushed; raises InvalidReference, Unsupported."""
    reference = parse_reference(text, default_registry)
    if reference.registry == "huggingface.co":
        raise Unsupported("Models of this hub are not pulled as OCI artifacts.")
    return reference


def find_manifest(
    reference: Reference, options: RegistryOptions, transport: Transport, patience: Patience = STEADY
) -> tuple[bytes, list[Repository]]:
    """The manifest's bytes, and who may have its blobs: mirrors come first and may fail in any way.

    Raises:
        RemoteModelNotFound, Unauthorized, RegistryError, Unsupported, TransferCancelled
    """
    wanted = reference.digest or reference.tag
    mirrors = options.mirrors if reference.registry == "docker.io" else ()
    repositories = [open_repository(reference, options, transport, mirror) for mirror in mirrors]
    repositories.append(open_repository(reference, options, transport))
    for number, repository in enumerate(repositories[:-1]):
        try:
            return repository.manifest(wanted, BRIEF), repositories[number:]
        except (RegistryError, RemoteModelNotFound, Unauthorized, Unsupported):
            continue
    return repositories[-1].manifest(wanted, patience), repositories[-1:]


def check_manifest(raw: bytes) -> Manifest:
    """Read a manifest that came from a registry. Raises Unsupported, StoreError: no model, or an impossible one."""
    manifest = parse_manifest(raw)
    kind = manifest.config.media_type
    if kind not in CONFIG_TYPES:
        raise Unsupported(
            f"This is no model that can be pulled: its config has the type '{kind[:200]}'; supported are "
            f"{', '.join(CONFIG_TYPES)}. A newer version may be able to read it."
        )
    if manifest.config.size > MAX_CONFIG_BYTES:
        raise Unsupported(f"The model's config has {manifest.config.size} bytes, more than {MAX_CONFIG_BYTES}.")
    for blob in manifest.blobs:
        check_size(blob.size)
    return manifest


def _fetch_missing(
    layout: Layout, repositories: Sequence[Repository], manifest: Manifest, transport: Transport, report: Report
) -> None:
    """From the first repository, and what that does not give, from those after it."""
    total = sum(blob.size for blob in manifest.blobs)
    for number, repository in enumerate(repositories, 1):
        missing = [blob for blob in manifest.blobs if not is_whole(layout.blobs, blob.digest, blob.size)]
        check_space(layout, missing)
        try:
            open_blob = functools.partial(_open_blob, repository)
            fetch_all(layout.blobs, missing, open_blob, total, transport.part(), report)
            return
        except (RegistryError, RemoteModelNotFound, Unauthorized):
            if number == len(repositories):
                raise


def check_space(layout: Layout, missing: Sequence[Descriptor]) -> None:
    """Now rather than after hours. Raises StoreError."""
    wanted = sum(num_bytes_left(layout.blobs, blob.digest, blob.size) for blob in missing)
    with store_errors(f"write to {layout.root}"):
        layout.blobs.folder.mkdir(parents=True, exist_ok=True)
        space = os.statvfs(layout.blobs.folder)
    free = space.f_bavail * space.f_frsize
    if wanted > free:
        raise StoreError(
            f"The model needs {format_size(wanted)} more, but only {format_size(free)} are free in {layout.root}: "
            "make room, or remove models that are not needed."
        )


def _open_blob(
    repository: Repository, blob: Descriptor, offset: int
) -> AbstractContextManager[urllib3.BaseHTTPResponse]:
    return repository.blob(blob.digest, offset)


def fetch_all(
    blobs: BlobStore,
    missing: Sequence[Descriptor],
    open_blob: OpenBlob,
    total: int,
    transport: Transport,
    report: Report,
) -> None:
    """Several at a time, the largest first; one that fails ends the others, and `transport`.

    Raises:
        RemoteModelNotFound, Unauthorized, RegistryError, StoreError, TransferCancelled
    """

    def fetch(blob: Descriptor) -> None:
        tell = layer_reporter(blob, total, report)
        download_blob(blobs, blob.digest, blob.size, functools.partial(open_blob, blob), transport, tell)

    side_by_side(fetch, missing, NUM_PARALLEL_LAYERS, transport)


def layer_reporter(blob: Descriptor, total: int, report: Report) -> Callable[[int], None]:
    """Reports of one layer, not more often than anybody can read, and always of its end."""
    lock, step = threading.Lock(), max(MIN_REPORT_BYTES, blob.size // MAX_REPORTS)
    last_done, last_time = -step, 0.0

    def tell(done: int) -> None:
        nonlocal last_done, last_time
        with lock:
            now = time.monotonic()
            is_due = not 0 <= done - last_done < step or now - last_time >= REPORT_INTERVAL
            if done == last_done or (done < blob.size and not is_due):
                return
            last_done, last_time = done, now
        report(TransferProgress("", total, blob.digest, blob.size, done))

    return tell
