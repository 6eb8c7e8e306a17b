"""The files of one commit of a repository, and their way into the blobs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import urllib3

from dmr.errors import RegistryError
from dmr.store.blobs import StagedBlob
from dmr.store.digest import Digest
from dmr.store.download import check_size, is_whole
from dmr.store.hugging_face.client import Hub, HubFile
from dmr.store.hugging_face.names import HubModel
from dmr.store.import_plan import MAX_TEXT_BYTES
from dmr.store.layout import Layout
from dmr.store.manifest import FILEPATH_ANNOTATION, GGUF_TYPE, LICENSE_TYPE, Descriptor, Layer, is_license_file
from dmr.store.pull import MAX_ADOPTIONS, BlobRemoved, Report, check_space, fetch_all
from dmr.store.registry.transport import Transport
from dmr.types import TransferProgress

MAX_LICENSES = 4


class Source(NamedTuple):
    hub: Hub
    model: HubModel
    commit: str
    files: Sequence[HubFile]

    @property
    def repository(self) -> str:
        return self.model.repository

    def read(self, file: HubFile) -> bytes:
        return self.hub.read(self.repository, self.commit, file)


def find_source(hub: Hub, model: HubModel) -> Source:
    """What the revision is now. All that follows asks for this commit: a branch may move meanwhile.

    Raises:
        RemoteModelNotFound, Unauthorized, RegistryError, StoreError, TransferCancelled
    """
    commit = hub.find_commit(model.repository, model.revision)
    return Source(hub, model, commit, hub.list_files(model.repository, commit))


def digest_of_file(file: HubFile) -> Digest:
    """Raises RegistryError for a file that the hub keeps no SHA-256 of."""
    if file.digest is None:
        raise RegistryError(f"The hub tells no SHA-256 of {file.path}, so it cannot be brought safely.")
    return file.digest


def fetch_files(
    layout: Layout, source: Source, files: Sequence[HubFile], num_more: int, transport: Transport, report: Report
) -> None:
    """Large files into the blobs; what is there already is left as it is. `num_more` small ones come beside them.

    Raises:
        RemoteModelNotFound, Unauthorized, RegistryError, StoreError, TransferCancelled
    """
    by_digest = {digest_of_file(file): file for file in files}
    for file in files:
        check_size(file.size)
    total = sum(file.size for file in by_digest.values())
    report(TransferProgress(f"Found {len(files) + num_more} files ({total / 2**20:.2f} MB total)", total))

    def find_missing() -> list[Descriptor]:
        described = (Descriptor(GGUF_TYPE, digest, file.size) for digest, file in by_digest.items())
        return [blob for blob in described if not is_whole(layout.blobs, blob.digest, blob.size)]

    def open_blob(blob: Descriptor, offset: int) -> AbstractContextManager[urllib3.BaseHTTPResponse]:
        return source.hub.open(source.repository, source.commit, by_digest[blob.digest].path, offset)

    # What was there at first may have gone with another model while the rest came.
    for _ in range(MAX_ADOPTIONS):
        if not (missing := find_missing()):
            return
        check_space(layout, missing)
        fetch_all(layout.blobs, missing, open_blob, total, transport.part(), report)
    if find_missing():
        raise BlobRemoved(f"Files of {source.repository} were removed while others came; pull it again.")


def license_files(files: Sequence[HubFile]) -> list[HubFile]:
    """The licences' texts, of the topmost folder."""
    found = [
        file
        for file in files
        if "/" not in file.path and is_license_file(file.name) and 0 < file.size <= MAX_TEXT_BYTES
    ]
    return found[:MAX_LICENSES]


def stage_text(
    layout: Layout, source: Source, file: HubFile, media_type: str, cleanup: contextlib.ExitStack
) -> tuple[Layer, StagedBlob]:
    """A small file as a layer that has no name yet."""
    blob = layout.blobs.stage_bytes(source.read(file))
    cleanup.callback(layout.blobs.discard, blob)
    return Layer(media_type, blob.digest, blob.size, {FILEPATH_ANNOTATION: file.name}), blob


def stage_licenses(
    layout: Layout, source: Source, cleanup: contextlib.ExitStack
) -> tuple[list[Layer], list[StagedBlob]]:
    staged = [stage_text(layout, source, file, LICENSE_TYPE, cleanup) for file in license_files(source.files)]
    return [layer for layer, _ in staged], [blob for _, blob in staged]
