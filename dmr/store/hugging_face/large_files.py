"""Large files on their way to the hub, by Git LFS: in one piece or in parts, to where the hub says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from io import FileIO
from typing import Any
from urllib.parse import urlsplit

import urllib3

from dmr.errors import RegistryError
from dmr.store.blobs import BlobStore
from dmr.store.digest import hex_of
from dmr.store.hugging_face.client import Hub
from dmr.store.manifest import Layer
from dmr.store.registry.addresses import is_private_host
from dmr.store.registry.transport import MAX_ATTEMPTS, PASSING_STATUSES, RETRY_AFTER, Transport

LFS_JSON = "application/vnd.git-lfs+json"
PIECE = 1 << 20  # bytes

Tell = Callable[[int], None]  # bytes that are sent


class LargeFileSender:
    """Any thread. Methods raise RegistryError, StoreError, TransferCancelled, and Unauthorized."""

    def __init__(self, hub: Hub, transport: Transport, blobs: BlobStore) -> None:
        self._hub = hub
        self._transport = transport
        self._blobs = blobs

    def send(self, layer: Layer, actions: Mapping[str, Any], tell: Tell) -> None:
        """Do what the hub's LFS batch wants done with a file; without any action it is there, or goes another way."""
        try:
            upload = actions.get("upload") or {}
            href, header = str(upload.get("href", "")), dict(upload.get("header") or {})
            parts = [url for _, url in sorted((int(name), str(url)) for name, url in header.items() if name.isdigit())]
            chunk_size = int(header.get("chunk_size", 0))
            verify = str((actions.get("verify") or {}).get("href", ""))
        except (AttributeError, TypeError, ValueError):
            raise RegistryError("The hub does not say clearly where a file is to be sent.") from None
        if href and chunk_size > 0:
            self._put_parts(layer, href, parts, chunk_size, tell)
        elif href:
            self._put(layer, href, 0, layer.size, tell)
        if href and verify:
            self._post(verify, {"oid": hex_of(layer.digest), "size": layer.size}, layer)
        tell(layer.size)

    def _put_parts(self, layer: Layer, href: str, urls: Sequence[str], chunk_size: int, tell: Tell) -> None:
        if len(urls) != -(-layer.size // chunk_size):
            raise RegistryError(f"The hub wants {layer.digest} in parts that do not make up {layer.size} bytes.")
        told = []
        for number, url in enumerate(urls):
            begin = number * chunk_size
            etag = self._put(layer, url, begin, min(chunk_size, layer.size - begin), tell)
            told.append({"partNumber": number + 1, "etag": etag})
        self._post(href, {"oid": hex_of(layer.digest), "parts": told}, layer)

    def _put(self, layer: Layer, url: str, begin: int, size: int, tell: Tell) -> str:
        """Send a stretch of a file; the ETag of the answer. The address is a secret of its own: no token goes along."""
        self._check_address(url)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                with self._blobs.open(layer.digest) as file:
                    file.seek(begin)
                    body, headers = _Stretch(file, size, self._transport, tell), {"Content-Length": str(size)}
                    with self._open("PUT", url, headers, body) as response:
                        if 200 <= response.status < 300:
                            return str(response.headers.get("ETag", ""))
                        raise _refusal(layer, response.status)
            except RegistryError as error:
                if error.retry_after is None or attempt == MAX_ATTEMPTS:
                    raise
                self._transport.pause(attempt)
        raise AssertionError("unreachable")

    def _post(self, url: str, document: Any, layer: Layer) -> None:
        """The token goes to the hub itself only."""
        if url.startswith(self._hub.endpoint + "/"):
            with self._hub.post(url.removeprefix(self._hub.endpoint), "", document, LFS_JSON):
                return
        self._check_address(url)
        headers = {"Accept": LFS_JSON, "Content-Type": LFS_JSON}
        with self._open("POST", url, headers, json.dumps(document).encode()) as response:
            if not 200 <= response.status < 300:
                raise _refusal(layer, response.status)

    def _open(
        self, method: str, url: str, headers: Mapping[str, str], body: Any
    ) -> AbstractContextManager[urllib3.BaseHTTPResponse]:
        """Where the hub has sent us."""
        return self._transport.open(method, url, headers, body, follow=False, named_by=self._hub.endpoint)

    def _check_address(self, url: str) -> None:
        """The hub says where files go, but not into the network that this machine is in."""
        parts, own = urlsplit(url), urlsplit(self._hub.endpoint)
        if parts.scheme not in ("http", "https") or (own.scheme == "https" and parts.scheme != "https"):
            raise RegistryError("The hub wants files sent to something that is no safe web address.")
        if is_private_host(parts.hostname or "") and not self._transport.is_private(self._hub.endpoint):
            raise RegistryError("The hub wants files sent to a private address.")


def _refusal(layer: Layer, status: int) -> RegistryError:
    text = f"The hub's storage did not take {layer.digest} (status {status})."
    return RegistryError(text, retry_after=RETRY_AFTER if status in PASSING_STATUSES else None)


class _Stretch:
    """So many bytes from where a file stands; tells how far it is, and ends when nobody wants it any more."""

    def __init__(self, file: FileIO, size: int, transport: Transport, tell: Tell) -> None:
        self._file = file
        self._left = size
        self._transport = transport
        self._tell = tell

    def read(self, size: int = -1) -> bytes:
        self._transport.check_cancelled()
        data = self._file.read(min(size if size > 0 else PIECE, self._left)) or b""
        self._left -= len(data)
        self._tell(self._file.tell())
        return data
