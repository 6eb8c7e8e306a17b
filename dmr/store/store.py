"""The model store: list, find, import, tag and remove models in a folder that upstream can read and write as well."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from dmr.errors import Conflict, DmrError, InvalidReference, ModelNotFound, StoreError, Unsupported
from dmr.store import housekeeping
from dmr.store.blobs import Progress
from dmr.store.digest import Digest
from dmr.store.import_plan import MAX_TEXT_BYTES, plan_import
from dmr.store.importer import import_model
from dmr.store.index import Entry, Index
from dmr.store.layout import Layout
from dmr.store.manifest import Layer, chat_template_layer, mmproj_layer, weight_layers
from dmr.store.record import read_record
from dmr.store.reference import DEFAULT_REGISTRY, looks_like_id, parse_reference
from dmr.store.uploads import Uploads, read_digest
from dmr.types import ModelRecord, Removal, StoreUsage

_log = logging.getLogger(__name__)


class ModelFiles(msgspec.Struct, frozen=True):
    """What an engine opens. `weights` in shard order."""

    weights: tuple[Path, ...]
    mmproj: Path | None = None
    chat_template: Path | None = None


class ModelStore:
    """A store at `root`, which is created by the first write. Safe for any number of threads and processes.

    Readers take no lock. Writers wait up to `lock_timeout` seconds for each other, then raise Unavailable.
    Any method raises StoreError when the store is damaged, newer than this code, or the disk does not obey.
    Every `reference_text` may be a name in any spelling, an ID, the ID's first 12 digits, or `name@digest`.
    """

    def __init__(self, root: Path, default_registry: str = DEFAULT_REGISTRY, lock_timeout: float = 60.0) -> None:
        self.root = root
        self.default_registry = default_registry
        self.lock_timeout = lock_timeout
        self._layout = Layout(root)

    def models(self) -> list[ModelRecord]:
        """All models in the order they came; those that cannot be read are skipped with a log warning."""
        records = []
        for entry in self._layout.read_index().entries:
            try:
                records.append(self._record(entry))
            except DmrError as error:
                _log.warning("the model %s is skipped: %s", entry.id, error)
        return records

    def get(self, reference_text: str, loose: bool = False) -> ModelRecord:
        """One model; with `loose` the last part of its name is enough.

        Raises:
            ModelNotFound, InvalidReference.
        """
        entry = self._find(reference_text, loose)
        try:
            return self._record(entry)
        except StoreError:
            return self._record(self._find(reference_text, loose))  # it may have been removed between the two reads

    def files(self, reference_text: str) -> ModelFiles:
        """The files of a model, all present and of the right size.

        Raises:
            ModelNotFound, InvalidReference.
            Unsupported: the model has no GGUF weights.
        """
        manifest = self._layout.read_manifest(self._find(reference_text).id)
        model_format = self._layout.read_config(manifest).config.format
        weights = weight_layers(manifest, model_format)
        if not weights:
            raise Unsupported(f"The model '{reference_text}' has the format '{model_format}'; only GGUF can be run.")
        mmproj, template = mmproj_layer(manifest), chat_template_layer(manifest)
        return ModelFiles(
            weights=tuple(self._whole_path(layer) for layer in weights),
            mmproj=self._whole_path(mmproj) if mmproj else None,
            chat_template=self._whole_path(template) if template else None,
        )

    def chat_template(self, reference_text: str) -> str | None:
        """The template that lies beside the weights and goes before the one in them, if there is one.

        Raises:
            ModelNotFound, InvalidReference.
        """
        layer = chat_template_layer(self._layout.read_manifest(self._find(reference_text).id))
        return None if layer is None else self._layout.read_blob(layer.digest, MAX_TEXT_BYTES).decode(errors="replace")

    def import_gguf(
        self,
        path: Path,
        reference: str,
        move: bool = False,
        progress: Progress | None = None,
        *,
        mmproj: Path | None = None,
        chat_template: Path | None = None,
        licenses: Sequence[Path] = (),
    ) -> ModelRecord:
        """Take files in and tag the model. The same files again are the same model; the tag leaves any other.

        With `move` the files are gone afterwards, but only once the model is safely in the store.

        Raises:
            InvalidReference, InvalidModelFile.
        """
        tag = self.parse_tag(reference)
        plan = plan_import(path, mmproj, chat_template, licenses)
        return self._record(import_model(self._layout, plan, tag, move, progress, self.lock_timeout))

    def has_file(self, digest: str) -> bool:
        """Whether a file is here as a blob or as an upload. Raises InvalidRequest for what is no digest."""
        wanted = read_digest(digest)
        return self._layout.blobs.has(wanted) or Uploads(self.root).has(wanted)

    def add_file(self, source: BinaryIO, size: int | None, digest: str) -> None:
        """Take in a file of which a model is to be made: see `dmr.store.uploads`.

        Raises:
            InvalidRequest: that is no digest, or not that of what came.
        """
        Uploads(self.root).receive(source, size, read_digest(digest))

    def tag(self, source: str, target: str) -> ModelRecord:
        """Give a model one more tag, taking it from any other model. The source may be loose.

        Raises:
            ModelNotFound, InvalidReference.
        """
        tag = self.parse_tag(target)
        self._find(source, loose=True)
        with self._layout.lock(self.lock_timeout):
            index = self._layout.read_index()
            entry = self._resolve(index, source, loose=True)[0].with_tag(tag)
            self._layout.write_index(index.with_entry(entry))
        return self._record(entry)

    def remove(self, reference_text: str, force: bool = False) -> Removal:
        """Remove a tag, and with its last tag the model; by ID the model with all its tags.

        Raises:
            ModelNotFound, InvalidReference.
            Conflict: without `force`, by ID while the model has several tags, or while somebody holds it.
        """
        self._find(reference_text)
        with self._layout.lock(self.lock_timeout):
            index = self._layout.read_index()
            entry, tag = self._resolve(index, reference_text)
            if tag is None and len(entry.tags) > 1 and not force:
                raise Conflict(
                    f'unable to delete "{reference_text}" (must be forced) due to multiple tag references: '
                    + ", ".join(entry.tags)
                )
            if tag is not None and len(entry.tags) > 1:
                self._layout.write_index(index.with_entry(entry.without_tags([tag])))
                return Removal(untagged=(tag,))
            remaining = index.without(entry.id)
            if not force and self._layout.is_held(entry, remaining):
                raise Conflict(f"The model '{reference_text}' is in use by another process; unload it there, or force.")
            self._layout.write_index(remaining)
            self._layout.delete_model(entry, remaining)
            return Removal(untagged=entry.tags, deleted=(entry.id,))

    def names(self) -> list[str]:
        """One tag of each model, its ID if it has none; also of those that cannot be read."""
        return [entry.tags[0] if entry.tags else entry.id for entry in self._layout.read_index().entries]

    def would_delete(self, reference_text: str, force: bool) -> bool:
        """Whether `remove` would remove the model itself. Raises ModelNotFound, InvalidReference."""
        entry, tag = self._resolve(self._layout.read_index(), reference_text)
        return len(entry.tags) <= 1 or (tag is None and force)

    def hold(self, reference_text: str) -> contextlib.ExitStack:
        """Keep a model's weights from being removed by others, until that is closed or this process ends.

        Raises:
            ModelNotFound, InvalidReference, StoreError.
        """
        manifest = self._layout.read_manifest(self._find(reference_text).id)
        with contextlib.ExitStack() as held:
            for layer in weight_layers(manifest, self._layout.read_config(manifest).config.format):
                held.enter_context(self._layout.blobs.hold(layer.digest))
            return held.pop_all()

    def verify(self, reference_text: str) -> list[Digest]:
        """Hash all of a model again; the digests of what is damaged or missing, the manifest's being the ID.

        Raises:
            ModelNotFound, InvalidReference.
        """
        entry = self._find(reference_text)
        damaged = []
        try:
            self._layout.read_manifest(entry.id)
        except StoreError:
            damaged.append(entry.id)
        blobs = sorted(self._layout.all_digests(entry))
        return damaged + [digest for digest in blobs if not self._layout.blobs.is_intact(digest)]

    def disk_usage(self) -> int:
        """Bytes of the whole folder."""
        return self._layout.disk_usage()

    def usage(self) -> StoreUsage:
        """The same by what the bytes are for."""
        return housekeeping.usage(self._layout)

    def collect(self) -> int:
        """Delete what belongs to no model and has not been touched for a week; returns the bytes freed."""
        return housekeeping.collect(self._layout, self.lock_timeout)

    def purge(self, force: bool = False) -> Removal:
        """Remove everything. A folder that is no store is left alone: StoreError.

        Raises:
            Conflict: somebody holds a model, and not `force`.
        """
        return housekeeping.purge(self._layout, self.lock_timeout, force)

    def parse_tag(self, text: str) -> str:
        """The full name of a tag to be given. Raises InvalidReference."""
        reference = parse_reference(text, self.default_registry)
        if reference.digest:
            raise InvalidReference(f"'{text}' has a digest; a model is tagged with a plain name.")
        return str(reference)

    def name_of(self, record: ModelRecord, text: str) -> str:
        """The model's full name, the one it was asked for by if that is one of its own; empty if it has none."""
        asked = ""
        with contextlib.suppress(InvalidReference):  # an ID
            asked = str(parse_reference(text, self.default_registry))
        return asked if asked in record.tags else next(iter(record.tags), "")

    def _find(self, text: str, loose: bool = False) -> Entry:
        return self._resolve(self._layout.read_index(), text, loose)[0]

    def _resolve(self, index: Index, text: str, loose: bool = False) -> tuple[Entry, str | None]:
        """The model, and the tag it was addressed by, if it was by one."""
        text = text.strip()
        if looks_like_id(text):
            if entry := _find_id(index, text):
                return entry, None
            if len(text) > 12:
                raise ModelNotFound(text)
        reference = parse_reference(text, self.default_registry)
        tag = None if reference.digest else str(reference)
        entry = index.find_tag(tag) if tag else index.find_id(reference.digest)
        if entry is None and loose and "/" not in text:
            tag, entry = None, index.find_loosely(text)
        if entry is None:
            raise ModelNotFound(text)
        return entry, tag

    def _record(self, entry: Entry) -> ModelRecord:
        return read_record(self._layout, entry)

    def _whole_path(self, layer: Layer) -> Path:
        path = self._layout.blobs.path_of(layer.digest)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise StoreError(f"The blob {layer.digest} is missing; remove the model and pull it again.") from error
        if size != layer.size:
            raise StoreError(
                f"The blob {layer.digest} has {size} of {layer.size} bytes; remove the model and pull it again."
            )
        return path


def _find_id(index: Index, text: str) -> Entry | None:
    if len(text) > 12:
        return index.find_id(f"sha256:{text.removeprefix('sha256:')}")
    found = [entry for entry in index.entries if entry.id.startswith(f"sha256:{text}")]
    if len(found) > 1:
        raise InvalidReference(f"The ID '{text}' is ambiguous: {len(found)} models begin with it.")
    return found[0] if found else None
