"""Sends a model to the hub as one commit: large files by Git LFS first, then the commit that names them.

`preupload` says which files are large, the LFS batch where these go (in one piece or in parts), and a commit is lines
of JSON: a header, small files in base64, large ones by their SHA-256.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from dmr.errors import RegistryError, RemoteModelNotFound, Unauthorized
from dmr.store.digest import hex_of
from dmr.store.hugging_face.access import find_endpoint, find_token
from dmr.store.hugging_face.client import Hub, list_in
from dmr.store.hugging_face.files_of_model import PushedFile, name_files
from dmr.store.hugging_face.large_files import LFS_JSON, LargeFileSender
from dmr.store.hugging_face.names import DEFAULT_REVISION, HubModel
from dmr.store.index import Entry
from dmr.store.layout import Layout
from dmr.store.manifest import Layer, parse_manifest
from dmr.store.pull import RegistryOptions, Report, layer_reporter
from dmr.store.registry.transport import Transport
from dmr.store.side_by_side import side_by_side

NUM_PARALLEL = 4
SAMPLE_BYTES = 512  # by which the hub tells text from other data
MAX_SMALL_BYTES = 10 << 20  # in a commit itself
SUMMARY = "Upload a model with dmr"


def push_to_hub(
    layout: Layout, entry: Entry, target: HubModel, options: RegistryOptions, transport: Transport, report: Report
) -> None:
    """Commit the model's files to the branch that `target` names. A repository that does not exist is made, private.

    What the hub has already is not sent again; other files of the repository stay.

    Raises:
        Unauthorized: there is no token, or it may not write there.
        RemoteModelNotFound: there is no such branch.
        Unsupported, RegistryError, StoreError, TransferCancelled
    """
    token = find_token(options.environ, options.token)
    hub = Hub(find_endpoint(options.environ), token, transport)
    if not token:
        raise Unauthorized(f"To push to {target.repository}, set HF_TOKEN to a token that may write there.")
    manifest = parse_manifest(layout.read_raw_manifest(entry.id))
    files = name_files(manifest, layout.read_config(manifest).config, target)
    _make_repository(hub, target)
    large = _large_files(hub, layout, target, files)
    uploads = _where_to(hub, target.repository, [file for file in files if file.path in large])
    layers = {file.layer.digest: file.layer for file in files}
    total = sum(layer.size for layer in layers.values())
    sender = LargeFileSender(hub, transport, layout.blobs)

    def send(layer: Layer) -> None:
        sender.send(layer, uploads.get(hex_of(layer.digest), {}), layer_reporter(layer, total, report))

    side_by_side(send, list(layers.values()), NUM_PARALLEL, transport)
    _commit(hub, layout, target, files, large)


def _make_repository(hub: Hub, target: HubModel) -> None:
    try:
        hub.find_commit(target.repository, target.revision)
    except RemoteModelNotFound:
        if target.revision != DEFAULT_REVISION:
            raise
        owner, _, name = target.repository.partition("/")
        wish = {"name": name, "organization": owner, "type": "model", "private": True}
        with hub.post("/api/repos/create", target.repository, wish, passed=(409,)):
            pass


def _large_files(hub: Hub, layout: Layout, target: HubModel, files: Sequence[PushedFile]) -> set[str]:
    """Their paths, by the hub's own rules for the repository."""
    described = []
    for file in files:
        with layout.blobs.open(file.layer.digest) as opened:
            sample = base64.b64encode(opened.read(SAMPLE_BYTES) or b"").decode()
        described.append({"path": file.path, "size": file.layer.size, "sample": sample})
    path = f"/api/models/{target.repository}/preupload/{quote(target.revision, safe='')}"
    with hub.post(path, target.repository, {"files": described}) as answer:
        modes = {one["path"]: one["uploadMode"] for one in list_in(answer, "files", "path", "uploadMode")}
    return {file.path for file in files if modes.get(file.path) == "lfs" or file.layer.size > MAX_SMALL_BYTES}


def _where_to(hub: Hub, repository: str, files: Sequence[PushedFile]) -> dict[str, Any]:
    """For each SHA-256 what is to be done; nothing for what the hub has."""
    if not files:
        return {}
    objects = [
        {"oid": oid, "size": size} for oid, size in {hex_of(f.layer.digest): f.layer.size for f in files}.items()
    ]
    wish = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": objects, "hash_algo": "sha256"}
    with hub.post(f"/{repository}.git/info/lfs/objects/batch", repository, wish, LFS_JSON) as answer:
        told = list_in(answer, "objects", "oid")
    for one in told:
        if isinstance(one.get("error"), dict):
            raise RegistryError(f"The hub takes no file for {repository}: {str(one['error'].get('message'))[:300]}")
    return {one["oid"]: one.get("actions") or {} for one in told}


def _commit(hub: Hub, layout: Layout, target: HubModel, files: Sequence[PushedFile], large: set[str]) -> None:
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": SUMMARY, "description": ""}}]
    for file in files:
        if file.path in large:
            oid = hex_of(file.layer.digest)
            value = {"path": file.path, "algo": "sha256", "oid": oid, "size": file.layer.size}
            lines.append({"key": "lfsFile", "value": value})
        else:
            content = base64.b64encode(layout.read_blob(file.layer.digest, MAX_SMALL_BYTES)).decode()
            lines.append({"key": "file", "value": {"content": content, "path": file.path, "encoding": "base64"}})
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    url = f"{hub.endpoint}/api/models/{target.repository}/commit/{quote(target.revision, safe='')}"
    with hub.request("POST", url, target.repository, {"Content-Type": "application/x-ndjson"}, body):
        pass
