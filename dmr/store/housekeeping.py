"""What a store's space goes to, and how it is had back: what no model needs is collected, or all is purged."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from dmr.errors import Conflict, StoreError
from dmr.store.digest import hex_of
from dmr.store.disk import STALE_SECONDS, store_errors, sweep
from dmr.store.index import Index
from dmr.store.layout import Layout
from dmr.store.uploads import Uploads
from dmr.types import Removal, StoreUsage

WORKSHOPS = ("hub-*", "shards-*", "conversion-*")  # folders in which models are put together; gone when that is done
_WORKSHOP_NAMES = tuple(pattern.removesuffix("*") for pattern in WORKSHOPS)
_HEX = re.compile(r"[0-9a-f]{64}")
_KINDS = ("models", "bundles", "reclaimable", "unfinished", "other")  # a file of several names is of the first

_log = logging.getLogger(__name__)


class _Needed:
    """The names of what the index's models need, as hex digits."""

    def __init__(self, layout: Layout, index: Index) -> None:
        aside = set(map(hex_of, index.digests_kept_aside()))
        self.models = {hex_of(entry.id) for entry in index.entries} | aside
        self.blobs = {hex_of(digest) for entry in index.entries for digest in layout.all_digests(entry)} | aside


def usage(layout: Layout) -> StoreUsage:
    """Bytes by kind; several names of one file (bundles) count once. Raises StoreError."""
    needed = _Needed(layout, layout.read_index())
    files: dict[tuple[int, int], tuple[int, int]] = {}  # inode to (kind, size)
    for folder, _, names in os.walk(layout.root):
        for name in names:
            path = Path(folder) / name
            with contextlib.suppress(OSError):  # removed meanwhile
                found = path.lstat()
                kind = _KINDS.index(_kind_of(path.relative_to(layout.root).parts, needed))
                inode = found.st_dev, found.st_ino
                files[inode] = min(files.get(inode, (kind, 0))[0], kind), found.st_size
    totals = {name: sum(size for kind, size in files.values() if kind == number) for number, name in enumerate(_KINDS)}
    return StoreUsage(**totals)


def _kind_of(parts: tuple[str, ...], needed: _Needed) -> str:
    kind = parts[0] if len(parts) > 2 else ""
    if parts[-1].endswith(".incomplete") or kind == "uploads" or parts[0].startswith(_WORKSHOP_NAMES):
        return "unfinished"
    if kind == "blobs":
        return "models" if parts[2] in needed.blobs else "reclaimable"
    if kind == "manifests":
        return "models" if parts[2] in needed.models else "reclaimable"
    if kind == "bundles":
        return "bundles" if parts[2] in needed.models else "reclaimable"
    return "other"


def collect(layout: Layout, lock_timeout: float, age: float = STALE_SECONDS) -> int:
    """Delete what no model needs and nobody has touched for `age` seconds; returns the bytes that this has freed.

    Blobs without a model are what a pull that broke off has left for the next one, and others may write beside us
    without our lock: hence the age.

    Raises:
        StoreError, Unavailable
    """
    if not layout.exists():
        return 0
    before = layout.disk_usage()
    with layout.lock(lock_timeout):
        needed = _Needed(layout, layout.read_index())
        for path in _leftovers(layout, needed):
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_ctime > age:
                    _remove(path)
        for folder in (layout.root, layout.blobs.folder, layout.root / "manifests" / "sha256"):
            sweep(folder, age)
    Uploads(layout.root).sweep()
    freed = before - layout.disk_usage()
    if freed > 0:
        _log.info("%d bytes of %s, which no model needed, are free again", freed, layout.root)
    return max(0, freed)


def _leftovers(layout: Layout, needed: _Needed) -> Iterator[Path]:
    """Bundles come before the blobs whose other names they hold."""
    kinds = (("bundles", needed.models), ("manifests", needed.models), ("blobs", needed.blobs))
    for kind, names in kinds:
        for path in (layout.root / kind / "sha256").glob("*"):
            if _HEX.fullmatch(path.name) and path.name not in names:
                yield path
    for pattern in WORKSHOPS:
        yield from layout.root.glob(pattern)


def purge(layout: Layout, lock_timeout: float, force: bool = False) -> Removal:
    """Remove all models and whatever else lies in the store; the folder stays, an empty store.

    The index goes first, so a purge that breaks off has left no model, and what files it has left the next one takes.

    Raises:
        StoreError: the folder is no store, or does not obey. Unavailable.
        Conflict: another process uses a model, and not `force`.
    """
    if not layout.root.exists():
        return Removal()
    if not layout.exists():
        raise StoreError(f"{layout.root} is no model store: it has no layout.json. Nothing was removed.")
    with layout.lock(lock_timeout):
        entries = layout.read_index_or_nothing().entries
        if not force and (held := [entry for entry in entries if layout.is_held(entry, Index())]):
            names = ", ".join(next(iter(entry.tags), entry.id) for entry in held)
            raise Conflict(f"In use by another process: {names}. Unload them there, or use force.")
        layout.write_index(Index())
        with store_errors(f"empty {layout.root}"):
            for kind in ("bundles", "manifests", "blobs", "uploads"):
                for path in (layout.root / kind / "sha256").glob("*"):
                    _remove(path)
            for pattern in ("*.incomplete", *WORKSHOPS):
                for path in layout.root.glob(pattern):
                    _remove(path)
    tags = tuple(tag for entry in entries for tag in entry.tags)
    return Removal(untagged=tags, deleted=tuple(entry.id for entry in entries))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
