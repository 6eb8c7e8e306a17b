"""Where things lie in the store's folder, and how they are read and written there. Upstream's layout, version 1."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from dmr.errors import DmrError, StoreError
from dmr.store.blobs import BlobStore
from dmr.store.digest import Digest, digest_of, hex_of
from dmr.store.disk import store_errors, sweep, write_atomically
from dmr.store.index import Entry, Index, encode_index, parse_index
from dmr.store.lock import exclusive_lock
from dmr.store.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from dmr.store.model_config import MAX_CONFIG_BYTES, StoredConfig, parse_config

VERSION = "1.0.0"

_log = logging.getLogger(__name__)


class _LayoutFile(msgspec.Struct, frozen=True):
    version: str


class Layout:
    """Files of one store. A folder that does not exist reads as an empty store; `lock` makes it.

    Methods raise StoreError when a file is damaged or the disk does not obey.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = BlobStore(root)

    def manifest_path(self, model_id: Digest) -> Path:
        return self.root / "manifests" / "sha256" / hex_of(model_id)

    def bundle_path(self, model_id: Digest) -> Path:
        return self.root / "bundles" / "sha256" / hex_of(model_id)

    def exists(self) -> bool:
        """Whether the folder is a store. Raises StoreError if its layout is newer than ours."""
        return self._check_version()

    @contextlib.contextmanager
    def lock(self, timeout: float) -> Iterator[None]:
        """Be the only writer. Raises Unavailable if another one does not finish within `timeout` seconds."""
        self._check_version()
        with exclusive_lock(self.root / "dmr.lock", timeout):
            if not self._check_version():
                with store_errors(f"write to {self.root}"):
                    write_atomically(self.root / "layout.json", msgspec.json.encode(_LayoutFile(VERSION)))
            for folder in (self.root, self.blobs.folder, self.root / "manifests" / "sha256"):
                sweep(folder)
            yield

    def read_index(self) -> Index:
        self._check_version()
        raw = self._read(self.root / "models.json")
        return Index() if raw is None else parse_index(raw)

    def read_index_or_nothing(self) -> Index:
        """An index that nobody can read counts as empty: for who is about to throw it away."""
        with contextlib.suppress(StoreError):
            return self.read_index()
        return Index()

    def write_index(self, index: Index) -> None:
        with store_errors("write models.json"):
            write_atomically(self.root / "models.json", encode_index(index))

    def read_manifest(self, model_id: Digest) -> Manifest:
        return parse_manifest(self.read_raw_manifest(model_id))

    def read_raw_manifest(self, model_id: Digest) -> bytes:
        raw = self._read(self.manifest_path(model_id), MAX_MANIFEST_BYTES)
        if raw is None or digest_of(raw) != model_id:
            raise StoreError(f"The manifest of the model {model_id} is {'missing' if raw is None else 'damaged'}.")
        return raw

    def write_manifest(self, raw: bytes) -> None:
        with store_errors("write a manifest"):
            write_atomically(self.manifest_path(digest_of(raw)), raw)

    def read_config(self, manifest: Manifest) -> StoredConfig:
        return parse_config(self.read_blob(manifest.config.digest, MAX_CONFIG_BYTES, "config "), manifest)

    def read_blob(self, digest: Digest, limit: int, kind: str = "") -> bytes:
        """A small blob, checked; `kind` tells in an error what it was."""
        raw = self._read(self.blobs.path_of(digest), limit)
        if raw is None or digest_of(raw) != digest:
            raise StoreError(f"The {kind}blob {digest} is {'missing' if raw is None else 'damaged'}.")
        return raw

    def delete_manifest(self, model_id: Digest) -> None:
        with store_errors(f"delete the manifest {model_id}"):
            self.manifest_path(model_id).unlink(missing_ok=True)

    def all_digests(self, entry: Entry) -> set[Digest]:
        """The model's blobs by index and manifest; either may know more than the other."""
        with contextlib.suppress(DmrError):
            return {*entry.files, *self.read_manifest(entry.id).digests}
        return set(entry.files)

    def delete_model(self, entry: Entry, remaining: Index) -> None:
        """Remove the files of a model that is in the index no more. What cannot be removed is logged and left."""
        digests = self.all_digests(entry)
        for path in (self.manifest_path(entry.id), self.bundle_path(entry.id)):
            try:
                _remove_tree(path)
            except OSError as error:
                _log.warning("%s of a removed model is left behind: %s", path, error)
        self.delete_unreferenced(digests, remaining)

    def is_held(self, entry: Entry, remaining: Index) -> bool:
        """Whether somebody uses a blob that would go with this model."""
        shared = {digest for other in remaining.entries for digest in self.all_digests(other)}
        return any(map(self.blobs.is_held, self.all_digests(entry) - shared))

    def delete_unreferenced(self, digests: Iterable[Digest], index: Index) -> None:
        """Delete those blobs that no model of the index needs."""
        needed = index.digests_kept_aside().union(*(self.all_digests(entry) for entry in index.entries))
        for digest in set(digests) - needed:
            try:
                self.blobs.delete(digest)
            except StoreError as error:
                _log.warning("a blob is left behind: %s", error)

    def disk_usage(self) -> int:
        """Bytes of all files; several names of one file (bundles) count once."""
        sizes: dict[tuple[int, int], int] = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                with contextlib.suppress(OSError):  # removed meanwhile
                    found = os.lstat(os.path.join(folder, name))  # noqa: PTH118
                    sizes[found.st_dev, found.st_ino] = found.st_size
        return sum(sizes.values())

    def _check_version(self) -> bool:
        """Whether the store exists. Raises StoreError if its layout is newer than ours."""
        raw = self._read(self.root / "layout.json")
        if raw is None:
            return False
        try:
            version = msgspec.json.decode(raw, type=_LayoutFile).version
            major = int(version.split(".")[0])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise StoreError(f"The store's layout.json is damaged: {error}.") from error
        if major > int(VERSION.split(".")[0]):
            raise StoreError(
                f"The store {self.root} has layout version {version[:50]}; this version reads up to {VERSION}."
            )
        return True

    def _read(self, path: Path, limit: int = 1 << 30) -> bytes | None:
        with store_errors(f"read {path.relative_to(self.root)}"):
            try:
                with path.open("rb") as file:
                    if os.fstat(file.fileno()).st_size > limit:
                        raise StoreError(f"{path.relative_to(self.root)} is larger than the {limit} bytes it may have.")
                    return file.read()
            except FileNotFoundError:
                return None


def _remove_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
