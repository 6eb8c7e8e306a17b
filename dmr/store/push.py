"""Pushes a model to a registry: blobs that it lacks, then the manifest, byte for byte as it is in the store."""

from __future__ import annotations

from collections.abc import Callable
from io import FileIO
from typing import BinaryIO, cast

from dmr.errors import RegistryError, StoreError
from dmr.store.download import is_whole
from dmr.store.index import Entry
from dmr.store.layout import Layout
from dmr.store.manifest import MANIFEST_TYPE, Descriptor, parse_manifest
from dmr.store.pull import RegistryOptions, Report, layer_reporter, open_repository
from dmr.store.reference import Reference
from dmr.store.registry.client import Repository
from dmr.store.registry.transport import MAX_ATTEMPTS, Transport
from dmr.store.side_by_side import side_by_side

NUM_PARALLEL_LAYERS = 5


class _Told:
    """A file that tells how far it was read, and ends when nobody wants it any more."""

    def __init__(self, file: FileIO, transport: Transport, report: Callable[[int], None]) -> None:
        self._file = file
        self._transport = transport
        self._report = report

    def read(self, size: int = -1) -> bytes:
        self._transport.check_cancelled()
        data = self._file.read(size if size > 0 else 1 << 20)
        self._report(self._file.tell())
        return data or b""


def push_model(
    layout: Layout,
    entry: Entry,
    reference: Reference,
    options: RegistryOptions,
    transport: Transport,
    report: Report,
) -> None:
    """Raises RemoteModelNotFound, Unauthorized, RegistryError, StoreError, TransferCancelled"""
    raw = layout.read_raw_manifest(entry.id)
    manifest = parse_manifest(raw)
    repository = open_repository(reference, options, transport)
    total = sum(blob.size for blob in manifest.blobs)

    def send(blob: Descriptor) -> None:
        _push_blob(layout, repository, blob, transport, layer_reporter(blob, total, report))

    side_by_side(send, manifest.blobs, NUM_PARALLEL_LAYERS, transport)
    repository.put_manifest(reference.tag or entry.id, raw, manifest.media_type or MANIFEST_TYPE)


def _push_blob(
    layout: Layout, repository: Repository, blob: Descriptor, transport: Transport, tell: Callable[[int], None]
) -> None:
    """An upload that breaks off is begun anew, unless the registry says that this is no use."""
    if not is_whole(layout.blobs, blob.digest, blob.size):
        raise StoreError(f"The blob {blob.digest} is missing or too short here; pull the model again.")
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            if not repository.has_blob(blob.digest):
                with layout.blobs.open(blob.digest) as file:
                    repository.put_blob(blob, cast(BinaryIO, _Told(file, transport, tell)))
            tell(blob.size)
            return
        except RegistryError as error:
            if error.retry_after is None or attempt == MAX_ATTEMPTS:
                raise
            transport.pause(attempt)
