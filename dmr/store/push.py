"""Pushes a model to a registry: blobs that it lacks, then the manifest, byte for byte as it is in the store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from typing import BinaryIO, cast

from dmr.errors import RegistryError
from dmr.store.index import Entry
from dmr.store.layout import Layout
from dmr.store.manifest import MANIFEST_TYPE, Descriptor, parse_manifest
from dmr.store.pull import RegistryOptions, Report, layer_reporter, open_repository
from dmr.store.reference import Reference
from dmr.store.registry.client import Repository
from dmr.store.registry.transport import MAX_ATTEMPTS, Transport

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
    blobs = manifest.blobs
    total = sum(blob.size for blob in blobs)
    with ThreadPoolExecutor(NUM_PARALLEL_LAYERS, thread_name_prefix="layer") as pool:
        jobs = [pool.submit(_push_blob, layout, repository, blob, total, transport, report) for blob in blobs]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            transport.give_up()
            raise
    repository.put_manifest(reference.tag or entry.id, raw, manifest.media_type or MANIFEST_TYPE)


def _push_blob(
    layout: Layout, repository: Repository, blob: Descriptor, total: int, transport: Transport, report: Report
) -> None:
    """An upload that breaks off is begun anew, unless the registry says that this is no use."""
    tell = layer_reporter(blob, total, report)
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
