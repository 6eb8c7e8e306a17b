"""Pulls GGUF models from Hugging Face: which files of a repository belong together, and into the store with them.

Its HTTP API: `/api/models/{repo}/tree/{revision}` lists, `/{repo}/resolve/{revision}/{path}` gives a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import msgspec
import urllib3

from dmr.errors import InvalidReference, RegistryError, RemoteModelNotFound, Unauthorized, Unsupported
from dmr.store.blobs import BlobStore
from dmr.store.digest import Digest, parse_digest
from dmr.store.disk import store_errors
from dmr.store.download import check_size, download_blob
from dmr.store.manifest import GGUF_TYPE, Descriptor
from dmr.store.pull import Report, layer_reporter
from dmr.store.registry.transport import Transport
from dmr.store.store import ModelStore
from dmr.types import ModelRecord, TransferProgress

HOSTS = ("huggingface.co", "hf.co")
DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_QUANTIZATION = "Q4_K_M"
REVISION = "main"
MAX_LIST_BYTES = 16 << 20
MAX_PAGES = 50

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SHARD = re.compile(r"(?P<base>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_QUANTIZATION = re.compile(r"(?<![A-Za-z0-9])((?:UD-)?I?Q\d\w*|BF16|F16|F32|MXFP4\w*)(?![A-Za-z0-9])", re.IGNORECASE)
_NEXT_PAGE = re.compile(r'<([^>]+)>\s*;\s*rel="next"')


class HubFile(msgspec.Struct, frozen=True):
    path: str
    size: int
    digest: Digest


class HubModel(msgspec.Struct, frozen=True):
    """`repository` keeps its case; `quantization` is empty if none was asked for."""

    repository: str
    quantization: str


def parse_hub_name(text: str) -> HubModel | None:
    """What `hf.co/org/repo[:quantization]` means; None for a name of another registry. Raises InvalidReference."""
    host, _, rest = text.strip().partition("/")
    if host.lower() not in HOSTS:
        return None
    repository, _, quantization = rest.partition(":")
    parts = repository.split("/")
    if len(parts) != 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise InvalidReference(f"'{text[:100]}' is no model of this hub: expected hf.co/organisation/repository.")
    return HubModel(repository, "" if quantization == "latest" else quantization)


def pull_from_hub(
    store: ModelStore,
    text: str,
    model: HubModel,
    token: str | None,
    environ: Mapping[str, str],
    transport: Transport,
    report: Report,
) -> ModelRecord:
    """Bring the wanted quantization, all its shards and a projector if there is one, and name it `text`.

    Raises:
        RemoteModelNotFound: no such repository, or no such quantization in it: nothing else is taken instead.
        Unauthorized: the repository is private or gated.
        Unsupported, RegistryError, StoreError, TransferCancelled
    """
    hub = _Hub(environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT, token or environ.get("HF_TOKEN"), transport)
    report(TransferProgress("Fetching file list..."))
    files = hub.list_files(model.repository)
    weights = choose_weights(files, model)
    projector = choose_projector(files)
    wanted = (*weights, *([projector] if projector else ()))
    total = sum(file.size for file in wanted)
    report(TransferProgress(f"Found {len(wanted)} files", total))
    blobs = BlobStore(store.root)
    for file in wanted:
        check_size(file.size)
        tell = layer_reporter(Descriptor(GGUF_TYPE, file.digest, file.size), total, report)

        def open_at(offset: int, path: str = file.path) -> AbstractContextManager[urllib3.BaseHTTPResponse]:
            return hub.open(model.repository, path, offset)

        download_blob(blobs, file.digest, file.size, open_at, transport, tell)
    report(TransferProgress("Building model artifact..."))
    return _import(store, blobs, text, weights, projector)


def _import(
    store: ModelStore, blobs: BlobStore, text: str, weights: Sequence[HubFile], projector: HubFile | None
) -> ModelRecord:
    """The importer finds shards by their names, so the blobs get them, in a folder that is gone afterwards."""
    with store_errors("link downloaded files"), tempfile.TemporaryDirectory(dir=store.root, prefix="hub-") as folder:
        paths = []
        for number, file in enumerate(weights, 1):
            name = "model.gguf" if len(weights) == 1 else f"model-{number:05}-of-{len(weights):05}.gguf"
            paths.append(_link(blobs, file, Path(folder) / name))
        mmproj = _link(blobs, projector, Path(folder) / "model.mmproj") if projector else None
        return store.import_gguf(paths[0], text, mmproj=mmproj)


def _link(blobs: BlobStore, file: HubFile, path: Path) -> Path:
    os.link(blobs.path_of(file.digest), path)
    return path


def choose_weights(files: Sequence[HubFile], model: HubModel) -> tuple[HubFile, ...]:
    """The one file, or all shards, of the wanted quantization.

    Raises:
        Unsupported: the repository has no GGUF files.
        RemoteModelNotFound: it has none of that quantization, or too many.
    """
    groups: dict[str, list[HubFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if file.path.lower().endswith(".gguf") and "mmproj" not in file.path.lower():
            shard = _SHARD.fullmatch(file.path)
            groups.setdefault(shard["base"] if shard else file.path, []).append(file)
    if not groups:
        raise Unsupported(f"{model.repository} has no GGUF files; only those can be run.")
    wanted = model.quantization or ("" if len(groups) == 1 else DEFAULT_QUANTIZATION)
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(wanted)}(?![A-Za-z0-9_])", re.IGNORECASE)
    found = [base for base in groups if not wanted or word.search(base)]
    if len(found) != 1:
        raise RemoteModelNotFound(_explain(model.repository, wanted, found, list(groups)))
    chosen = groups[found[0]]
    shard = _SHARD.fullmatch(chosen[0].path)
    if shard and int(shard["count"]) != len(chosen):
        raise RemoteModelNotFound(
            f"{model.repository} has {len(chosen)} of {int(shard['count'])} shards of {found[0]}."
        )
    return tuple(chosen)


def _explain(repository: str, wanted: str, found: Sequence[str], bases: Sequence[str]) -> str:
    quantizations = sorted({match[1] for base in bases if (match := _QUANTIZATION.search(base))})
    there = ", ".join(quantizations or bases)[:500]
    if found:
        return f"{repository} has several files for {wanted}: {', '.join(found)[:500]}."
    return f"{repository} has no {wanted}; it has: {there}. Name one after a colon."


def choose_projector(files: Sequence[HubFile]) -> HubFile | None:
    """The vision projector, half precision first."""
    found = [file for file in files if "mmproj" in file.path.lower() and file.path.lower().endswith(".gguf")]
    return min(found, key=lambda file: ("f16" not in file.path.lower(), file.path), default=None)


class _Hub:
    def __init__(self, endpoint: str, token: str | None, transport: Transport) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._has_token = bool(token)
        self._transport = transport

    def list_files(self, repository: str) -> list[HubFile]:
        url = f"{self._endpoint}/api/models/{repository}/tree/{REVISION}?recursive=true"
        found: list[HubFile] = []
        for _ in range(MAX_PAGES):
            with self._transport.open("GET", url, self._headers) as response:
                self._check(response, repository)
                found += _files_of(_read(response))
                following = _NEXT_PAGE.search(response.headers.get("Link", ""))
            if following is None:
                return found
            url = urljoin(url, following[1])
            if not url.startswith(self._endpoint + "/"):
                break
        raise RegistryError(f"The list of files of {repository} does not end.")

    @contextlib.contextmanager
    def open(self, repository: str, path: str, offset: int) -> Any:
        url = f"{self._endpoint}/{repository}/resolve/{REVISION}/{quote(path)}"
        headers = {**self._headers, **({"Range": f"bytes={offset}-"} if offset else {})}
        with self._transport.open("GET", url, headers) as response:
            if response.status != 416:
                self._check(response, repository)
            yield response

    def _check(self, response: urllib3.BaseHTTPResponse, repository: str) -> None:
        status = response.status
        if status in (200, 206):
            return
        if status in (401, 403):
            hint = (
                "its conditions were not accepted, or the token may not read it" if self._has_token else "set HF_TOKEN"
            )
            raise Unauthorized(f"{repository} is private, gated or does not exist: {hint}.")
        if status == 404:
            raise RemoteModelNotFound(f"{repository} does not exist on the hub.")
        if status == 429:
            raise RegistryError("The hub takes no more requests for now (rate limit); try again later.")
        raise RegistryError(f"The hub answered {status}.")


def _read(response: urllib3.BaseHTTPResponse) -> Any:
    try:
        data = response.read(MAX_LIST_BYTES + 1)
        if len(data) > MAX_LIST_BYTES:
            raise RegistryError("The hub's list of files is too long.")
        return json.loads(data)
    except (urllib3.exceptions.HTTPError, ValueError, RecursionError) as error:
        raise RegistryError(f"The hub's list of files cannot be understood: {error}.") from error


def _size_of(lfs: dict[str, Any]) -> int:
    size = lfs.get("size")
    if not isinstance(size, int) or size < 0:
        raise RegistryError(f"The hub's list of files cannot be understood: a size is {ascii(size)[:100]}.")
    return size


def _files_of(listed: Any) -> list[HubFile]:
    """Large files only: those are told with their SHA-256."""
    found = []
    for entry in listed if isinstance(listed, list) else ():
        lfs = entry.get("lfs") if isinstance(entry, dict) else None
        if isinstance(lfs, dict) and entry.get("type") == "file" and isinstance(entry.get("path"), str):
            oid = str(lfs.get("oid", ""))
            digest = parse_digest(oid if oid.startswith("sha256:") else f"sha256:{oid}")
            found.append(HubFile(entry["path"], _size_of(lfs), digest))
    return found
