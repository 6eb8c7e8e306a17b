"""`models.json`: which models the store has, and their tags. What others wrote into it and we do not know is kept."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dmr.errors import InvalidReference, StoreError
from dmr.store.digest import Digest, parse_digest
from dmr.store.reference import parse_reference
from dmr.types import Value

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_log = logging.getLogger(__name__)


class Entry(Value, frozen=True):
    """One model: its ID, its fully qualified tags, and the digests of all its blobs, the config's included."""

    id: Digest
    tags: tuple[str, ...]
    files: tuple[Digest, ...]
    extra: Mapping[str, Any] = {}

    def with_tag(self, tag: str) -> Entry:
        return msgspec.structs.replace(self, tags=tuple(dict.fromkeys([*self.tags, tag])))

    def without_tags(self, tags: Sequence[str]) -> Entry:
        return msgspec.structs.replace(self, tags=tuple(tag for tag in self.tags if tag not in tags))


class Index(Value, frozen=True):
    """All entries in order. `unreadable` are elements we cannot understand, `extra` the document's unknown fields."""

    entries: tuple[Entry, ...] = ()
    unreadable: tuple[Any, ...] = ()
    extra: Mapping[str, Any] = {}

    def find_id(self, model_id: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.id == model_id), None)

    def find_tag(self, tag: str) -> Entry | None:
        return next((entry for entry in self.entries if tag in entry.tags), None)

    def find_loosely(self, text: str) -> Entry | None:
        """The first model whose name's last part is `text`: `smollm2` finds `foo/smollm2:v2`."""
        name, _, tag = text.strip().partition(":")
        for entry in self.entries:
            for stored_name, stored_tag in (
                full.rsplit("/", 1)[-1].split(":", 1) for full in entry.tags if ":" in full
            ):
                if stored_name == name.lower() and tag in ("", stored_tag):
                    return entry
        return None

    def digests_kept_aside(self) -> set[Digest]:
        """Whatever looks like a digest in the elements that are not understood."""
        found = _DIGEST.findall(msgspec.json.encode(self.unreadable).decode())
        return {Digest(text) for text in found}

    def with_entry(self, new: Entry) -> Index:
        """Put an entry in place of the one with its ID, or last. Its tags leave all other entries."""
        entries = [new if entry.id == new.id else entry.without_tags(new.tags) for entry in self.entries]
        if self.find_id(new.id) is None:
            entries.append(new)
        return msgspec.structs.replace(self, entries=tuple(entries))

    def without(self, model_id: str) -> Index:
        return msgspec.structs.replace(self, entries=tuple(entry for entry in self.entries if entry.id != model_id))


def parse_index(raw: bytes) -> Index:
    """Read `models.json`. Elements that cannot be understood are kept aside with a log warning.

    Raises:
        StoreError: the document as a whole is not an index.
    """
    try:
        document = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreError(f"The store's models.json is damaged: {error}.") from error
    models = document.pop("models", None)
    if models is None:
        models = []
    if not isinstance(models, list):
        raise StoreError("The store's models.json is damaged: 'models' is not a list.")
    entries: dict[Digest, Entry] = {}
    unreadable = []
    for element in models:
        entry = _parse_entry(element)
        if entry is None:
            unreadable.append(element)
        elif entry.id in entries:
            entries[entry.id] = _merge(entries[entry.id], entry)
        else:
            entries[entry.id] = entry
    return Index(tuple(entries.values()), tuple(unreadable), document)


def encode_index(index: Index) -> bytes:
    models = [
        {"id": entry.id, "tags": list(entry.tags), "files": list(entry.files), **entry.extra} for entry in index.entries
    ]
    return msgspec.json.encode({"models": [*models, *index.unreadable], **index.extra})


def _parse_entry(element: Any) -> Entry | None:
    try:
        fields = dict(element)
        model_id = parse_digest(fields.pop("id"))
        tags = tuple(_qualified(tag) for tag in msgspec.convert(fields.pop("tags", None) or [], list[str]))
        files = tuple(parse_digest(file) for file in fields.pop("files", None) or [])
    except (StoreError, msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
        _log.warning("an entry of the store's models.json is not understood and left alone: %s", error)
        return None
    return Entry(model_id, tuple(dict.fromkeys(tags)), files, fields)


def _merge(first: Entry, second: Entry) -> Entry:
    return Entry(
        first.id,
        tuple(dict.fromkeys([*first.tags, *second.tags])),
        tuple(dict.fromkeys([*first.files, *second.files])),
        {**second.extra, **first.extra},
    )


def _qualified(tag: str) -> str:
    """Older stores hold shorter or aliased spellings."""
    try:
        return str(parse_reference(tag))
    except InvalidReference:
        return tag
