"""Models as tar archives: `blobs/sha256/<hex>` and, last, `manifest.json`, which is all that upstream writes and reads.

Ours are OCI image layouts as well (`oci-layout`, `index.json`, the manifest among the blobs), so that other tools take
them and the model's name travels along. Of such a layout without `manifest.json` the index tells which model it is.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Collection, Sequence
from typing import BinaryIO, cast

import msgspec

from dmr.errors import InvalidModelFile, InvalidReference, InvalidRequest, StoreError
from dmr.store.digest import Digest, digest_of, hex_of, parse_digest
from dmr.store.importer import commit_manifest
from dmr.store.layout import Layout
from dmr.store.manifest import CONFIG_TYPES, MANIFEST_TYPE, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from dmr.store.model_config import MAX_CONFIG_BYTES, parse_config
from dmr.store.reference import parse_reference
from dmr.store.store import ModelStore
from dmr.store.tar import Source, TarMember, TarStream, read_members
from dmr.store.uploads import Uploads
from dmr.types import ModelRecord

NAME_ANNOTATION = "org.opencontainers.image.ref.name"
FULL_NAME_ANNOTATION = "io.containerd.image.name"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'

Report = Callable[[int], None]  # bytes of the archive that were read


class ReceivedArchive(msgspec.Struct, frozen=True):
    """A model whose blobs wait as uploads. `name` is the one that the archive gives it, if it gives one."""

    manifest: bytes
    name: str = ""


class _IndexEntry(msgspec.Struct, frozen=True):
    digest: str
    annotations: dict[str, str] = {}


class _Index(msgspec.Struct, frozen=True):
    manifests: tuple[_IndexEntry, ...] = ()


# --- out -------------------------------------------------------------------------------------------------------------


def open_archive(store: ModelStore, reference: str) -> TarStream:
    """A model of the store as an archive. Its files are open from here on: whoever removes the model does no harm.

    Raises:
        ModelNotFound, InvalidReference, StoreError
    """
    layout, record = Layout(store.root), store.get(reference)
    raw = layout.read_raw_manifest(parse_digest(record.id))
    with contextlib.ExitStack() as opened:
        sources = []
        for blob in parse_manifest(raw).blobs:
            file = opened.enter_context(layout.blobs.open(blob.digest))
            if file.seek(0, io.SEEK_END) != blob.size:
                raise StoreError(f"The blob {blob.digest} is damaged; remove the model and pull it again.")
            file.seek(0)
            sources.append(Source(path_in_archive(blob.digest), blob.size, file))
        opened.pop_all()
    return archive_of(sources, raw, store.name_of(record, reference))


def archive_of(blobs: Sequence[Source], manifest: bytes, name: str = "") -> TarStream:
    """The archive of these blobs; `name` is a full reference with its tag."""
    annotations = {NAME_ANNOTATION: name.rpartition(":")[2], FULL_NAME_ANNOTATION: name} if name else {}
    entry = {"mediaType": MANIFEST_TYPE, "digest": digest_of(manifest), "size": len(manifest)}
    index = msgspec.json.encode(
        {"schemaVersion": 2, "manifests": [{**entry, **({"annotations": annotations} if name else {})}]}
    )
    texts = (
        (path_in_archive(digest_of(manifest)), manifest),
        ("oci-layout", _LAYOUT),
        ("index.json", index),
        ("manifest.json", manifest),  # upstream reads no further
    )
    return TarStream([*blobs, *(Source(path, len(text), text) for path, text in texts)])


def path_in_archive(digest: Digest) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


# --- in --------------------------------------------------------------------------------------------------------------


def load_archive(store: ModelStore, source: BinaryIO, reference: str = "", report: Report | None = None) -> ModelRecord:
    """Take the model of an archive into the store, under `reference`, or under the name that the archive gives it.

    Raises:
        InvalidReference, InvalidModelFile, Unsupported, StoreError
    """
    if reference:
        store.parse_tag(reference)
    return adopt_archive(store, receive_archive(store, source, report), reference)


def receive_archive(store: ModelStore, source: BinaryIO, report: Report | None = None) -> ReceivedArchive:
    """Read an archive once; the blobs that the store lacks are uploads afterwards, each with the digest of its name.

    Raises:
        InvalidModelFile: it is damaged or no archive of a model. StoreError. What reading raises goes through.
    """
    layout, uploads, texts, done = Layout(store.root), Uploads(store.root), dict[str, bytes](), 0
    brought: set[Digest] = set()
    layout.read_index()  # a store that is damaged or too new is found before gigabytes have come
    for member in read_members(source):
        path = member.member_name
        if path in ("manifest.json", "index.json"):
            texts[path] = member.content(MAX_MANIFEST_BYTES)
        elif path.startswith("blobs/"):
            brought.add(_receive_blob(layout, uploads, member))
        done += member.size
        if report is not None:
            report(done)
    return _received(layout, uploads, texts, brought)


def _receive_blob(layout: Layout, uploads: Uploads, member: TarMember) -> Digest:
    try:
        digest = parse_digest(member.member_name.removeprefix("blobs/").replace("/", ":", 1))
    except StoreError:
        raise InvalidModelFile(f"{ascii(member.member_name)[:100]} in the archive is not named by a digest.") from None
    if layout.blobs.has(digest) or uploads.has(digest):
        return digest
    try:
        uploads.receive(cast(BinaryIO, member), member.size, digest)
    except InvalidModelFile:
        raise
    except InvalidRequest as error:
        raise InvalidModelFile(f"A blob of the archive is damaged: {error.message}.") from error
    return digest


def _received(
    layout: Layout, uploads: Uploads, texts: dict[str, bytes], brought: Collection[Digest]
) -> ReceivedArchive:
    name, digest = _read_index(texts["index.json"]) if "index.json" in texts else ("", None)
    raw = texts.get("manifest.json")
    if raw is None and digest is not None:
        raw = _read_either(layout, uploads, digest, MAX_MANIFEST_BYTES)
    if raw is None:
        raise InvalidModelFile("The archive has no manifest.json, so it is not that of a model, or it is cut off.")
    _check(_parse(raw), layout, uploads, brought)
    return ReceivedArchive(raw, name if digest in (None, digest_of(raw)) else "")


def _parse(raw: bytes) -> Manifest:
    if raw.lstrip().startswith(b"["):
        raise InvalidModelFile("This is the archive of a container image, not of a model.")
    try:
        return parse_manifest(raw)
    except StoreError as error:
        raise InvalidModelFile(f"The archive cannot be used: {error.message}") from error


def _check(manifest: Manifest, layout: Layout, uploads: Uploads, brought: Collection[Digest]) -> None:
    """Raises InvalidModelFile: blobs are missing or have other sizes. StoreError: what was brought is gone again."""
    if manifest.config.media_type not in CONFIG_TYPES:
        raise InvalidModelFile(
            f"This is no model that can be loaded: its config has the type '{manifest.config.media_type[:200]}'; "
            f"supported are {', '.join(CONFIG_TYPES)}."
        )
    for blob in manifest.blobs:
        size = _size_of(blob.digest, layout, uploads)
        if size is None and blob.digest in brought:
            raise _gone(blob.digest)
        if size is None:
            raise InvalidModelFile(f"The archive lacks the blob {blob.digest}, which its manifest names.")
        if size != blob.size:
            raise InvalidModelFile(f"The blob {blob.digest} has another size than the manifest says.")
    try:
        config = _read_either(layout, uploads, manifest.config.digest, MAX_CONFIG_BYTES)
        parse_config(config or b"", manifest)
    except StoreError as error:
        if manifest.config.digest in brought and _size_of(manifest.config.digest, layout, uploads) is None:
            raise _gone(manifest.config.digest) from error
        raise InvalidModelFile(f"The archive cannot be used: {error.message}") from error


def _gone(digest: Digest) -> StoreError:
    return StoreError(f"The blob {digest} was removed by another process meanwhile; try again.")


def _size_of(digest: Digest, layout: Layout, uploads: Uploads) -> int | None:
    """Bytes of a blob, wherever it lies; others may remove it, or make a blob of an upload, at any moment."""
    uploads.has(digest)  # it is wanted for a while yet
    blob = layout.blobs.path_of(digest)
    for path in (blob, uploads.path_of(digest), blob):
        with contextlib.suppress(OSError):
            return path.stat().st_size
    return None


def _read_index(raw: bytes) -> tuple[str, Digest | None]:
    """The name and the manifest's digest, of an index of one model. Raises InvalidModelFile."""
    try:
        entries = msgspec.json.decode(raw, type=_Index).manifests
        digests = {parse_digest(entry.digest) for entry in entries}
    except (msgspec.MsgspecError, ValueError, RecursionError, StoreError) as error:
        raise InvalidModelFile(f"The archive's index.json cannot be understood: {error}.") from error
    if len(digests) > 1:
        raise InvalidModelFile(f"The archive holds {len(digests)} models; it must be one.")
    names = [entry.annotations.get(FULL_NAME_ANNOTATION, "") for entry in entries]
    names += [entry.annotations.get(NAME_ANNOTATION, "") for entry in entries]
    return next((name for name in names if _is_name(name)), ""), next(iter(digests), None)


def _is_name(name: str) -> bool:
    """A whole reference: a bare tag such as `latest` names nothing."""
    if not ("/" in name or ":" in name):
        return False
    with contextlib.suppress(InvalidReference):
        return not parse_reference(name).digest
    return False


def _read_either(layout: Layout, uploads: Uploads, digest: Digest, limit: int) -> bytes | None:
    """A small blob, wherever it lies now; None if there is none of at most `limit` bytes."""
    for path in (layout.blobs.path_of(digest), uploads.path_of(digest)):
        with contextlib.suppress(OSError):
            if path.stat().st_size <= limit:
                return path.read_bytes()
    return None


def adopt_archive(store: ModelStore, archive: ReceivedArchive, reference: str = "") -> ModelRecord:
    """Make a model of what `receive_archive` has brought. The name leaves any other model.

    Raises:
        InvalidReference, Unsupported, StoreError, Unavailable
    """
    layout, uploads = Layout(store.root), Uploads(store.root)
    tag = store.parse_tag(reference or archive.name) if reference or archive.name else ""
    manifest = parse_manifest(archive.manifest)
    with contextlib.ExitStack() as cleanup:
        staged = [
            uploads.stage(layout.blobs, blob.digest, blob.size, cleanup)
            for blob in manifest.blobs
            if not layout.blobs.has(blob.digest)
        ]
        with layout.lock(store.lock_timeout):
            entry = commit_manifest(layout, archive.manifest, staged, tag)
    for digest in (*manifest.digests, digest_of(archive.manifest)):
        uploads.remove(digest)
    return store.get(entry.id)
