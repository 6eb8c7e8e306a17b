"""One repository of one registry: read and write its manifests and blobs (the OCI distribution specification)."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

import urllib3

from dmr.errors import RegistryError, RemoteModelNotFound, StoreError, Unauthorized, Unsupported
from dmr.store.digest import Digest, digest_of
from dmr.store.manifest import MANIFEST_TYPE, MAX_MANIFEST_BYTES, Descriptor
from dmr.store.registry.addresses import check_host, is_private_host
from dmr.store.registry.challenge import Challenge, parse_challenge
from dmr.store.registry.credentials import Credentials
from dmr.store.registry.scheme import find_scheme
from dmr.store.registry.transport import (
    PASSING_STATUSES,
    RETRY_AFTER,
    STEADY,
    Patience,
    Transport,
    join_address,
)

HUB_HOST = "registry-1.docker.io"
DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MAX_TOKEN_BYTES = 1 << 20
MAX_ERROR_BYTES = 1 << 16


def api_host(registry: str) -> str:
    """Where the registry of a name is asked."""
    return HUB_HOST if registry == "docker.io" else registry.rstrip("/")


class Repository:
    """`host/name` at a registry. Any thread."""

    def __init__(
        self,
        transport: Transport,
        registry: str,
        name: str,
        credentials: Credentials | None = None,
        token: str | None = None,
        insecure: bool = False,
    ) -> None:
        """`token` is sent as it is, instead of one from the registry's own token service.

        `registry` may begin with `http://` or `https://`; otherwise `find_scheme` tells how it is spoken to.
        """
        self._transport = transport
        self._given_scheme, _, host = registry.rpartition("://")
        self._host = api_host(host)
        self._name = name
        self._insecure = insecure
        self._credentials = credentials
        self._given = f"Bearer {token}" if token else ""
        self._authorization: dict[str, str] = {}  # by action: "pull" or "pull,push"
        self._lock = threading.Lock()

    @functools.cached_property
    def _scheme(self) -> str:
        return self._given_scheme or find_scheme(self._transport, self._host, self._insecure)

    def manifest(self, reference: str, patience: Patience = STEADY) -> bytes:
        """The bytes of a manifest by tag or digest, checked against the digest.

        Raises:
            RemoteModelNotFound, Unauthorized, RegistryError, TransferCancelled
            Unsupported: it is an index of several manifests.
        """
        headers = {"Accept": ", ".join((MANIFEST_TYPE, DOCKER_MANIFEST_TYPE, *INDEX_TYPES))}
        with self._open("GET", f"manifests/{quote(reference)}", headers, patience=patience) as response:
            self._check(response)
            raw = _read_bounded(response, MAX_MANIFEST_BYTES)
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            told = response.headers.get("Docker-Content-Digest")
        expected = reference if reference.startswith("sha256:") else told
        if expected and expected.startswith("sha256:") and digest_of(raw) != expected:
            raise RegistryError(f"{self._host} sent a manifest whose digest is not {expected}.")
        if media_type in INDEX_TYPES:
            raise Unsupported(f"{self._host}/{self._name}:{reference} is an image for several platforms, no model.")
        return raw

    @contextmanager
    def blob(self, digest: Digest, offset: int = 0) -> Iterator[urllib3.BaseHTTPResponse]:
        """A blob's bytes from `offset` on, if the registry can do that: see the status (206) and Content-Range."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._open("GET", f"blobs/{digest}", headers) as response:
            if response.status != 416:
                self._check(response)
            yield response

    def has_blob(self, digest: Digest) -> bool:
        with self._open("HEAD", f"blobs/{digest}", {}, actions="pull,push") as response:
            if response.status not in (200, 404):
                self._check(response)
            return response.status == 200

    def put_blob(self, descriptor: Descriptor, body: BinaryIO) -> None:
        """Upload a blob in one piece. Raises as `manifest`, and StoreError when the registry takes it for damaged."""
        with self._open("POST", "blobs/uploads/", {"Content-Length": "0"}, actions="pull,push") as response:
            self._check(response, (202,))
            location = self._upload_address(response.headers.get("Location", ""))
        mark = "&" if urlsplit(location).query else "?"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(descriptor.size)}
        url = f"{location}{mark}{urlencode({'digest': descriptor.digest})}"
        if urlsplit(url)[:2] == urlsplit(self._url(""))[:2]:
            headers |= self._headers("pull,push")
        with self._transport.open("PUT", url, headers, body, follow=False, named_by=self._url("")) as response:
            self._check(response, (201, 204))

    def _upload_address(self, location: str) -> str:
        """Registries behind a proxy that ends TLS often do not know that they are spoken to over https."""
        own, parts = urlsplit(self._url("")), urlsplit(join_address(self._url("blobs/uploads/"), location))
        if parts.netloc == own.netloc:
            return parts._replace(scheme=own.scheme).geturl()
        if parts.scheme not in ("http", "https") or (own.scheme == "https" and parts.scheme == "http"):
            raise RegistryError(f"{self._host} wants the model sent to an address that is not safe: {parts.netloc}.")
        check_host(parts.hostname or "")
        if is_private_host(parts.hostname or "") and not self._transport.is_private(own.geturl()):
            raise RegistryError(f"{self._host} wants the model sent to the private address {parts.netloc}.")
        return parts.geturl()

    def put_manifest(self, reference: str, raw: bytes, media_type: str = MANIFEST_TYPE) -> None:
        path, headers = f"manifests/{quote(reference)}", {"Content-Type": media_type}
        with self._open("PUT", path, headers, raw, actions="pull,push") as response:
            self._check(response, (201, 200))

    def _url(self, path: str) -> str:
        return f"{self._scheme}://{self._host}/v2/{self._name}/{path}"

    def _headers(self, actions: str) -> dict[str, str]:
        value = self._given or self._authorization.get(actions, "")
        return {"Authorization": value} if value else {}

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        actions: str = "pull",
        patience: Patience = STEADY,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """One request; on a challenge it is sent once more with what the challenge asks for."""
        url = self._url(path)
        sent = self._headers(actions)
        with self._transport.open(method, url, {**headers, **sent}, body, patience=patience) as response:
            challenge = parse_challenge(response.headers.get("WWW-Authenticate", ""))
            if response.status != 401 or challenge is None or self._given:
                yield response
                return
        self._authorize(challenge, actions, sent.get("Authorization", ""), patience)
        with self._transport.open(
            method, url, {**headers, **self._headers(actions)}, body, patience=patience
        ) as response:
            yield response

    def _authorize(self, challenge: Challenge, actions: str, refused: str, patience: Patience) -> None:
        with self._lock:
            if self._authorization.get(actions, "") not in ("", refused):  # another thread was faster
                return
            if challenge.scheme == "basic":
                if self._credentials is None:
                    raise Unauthorized(f"{self._host} asks for a user name and a password: log in there first.")
                self._authorization[actions] = self._credentials.basic
            else:
                self._authorization[actions] = f"Bearer {self._fetch_token(challenge, actions, patience)}"

    def _fetch_token(self, challenge: Challenge, actions: str, patience: Patience) -> str:
        realm = challenge.parameters.get("realm", "")
        self._check_realm(realm)
        query = {"scope": f"repository:{self._name}:{actions}"}
        if service := challenge.parameters.get("service"):
            query["service"] = service
        headers: dict[str, str] = {}
        body, method, url = None, "GET", f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(query)}"
        if self._credentials is not None and self._credentials.username:
            headers["Authorization"] = self._credentials.basic
        elif self._credentials is not None:
            form = {**query, "grant_type": "refresh_token", "client_id": "dmr"}
            body = urlencode({**form, "refresh_token": self._credentials.password}).encode()
            method, url, headers = "POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}
        with self._transport.open(
            method, url, headers, body, follow=False, patience=patience, named_by=self._url("")
        ) as response:
            self._check(response)
            answer = _read_bounded(response, MAX_TOKEN_BYTES)
        try:
            document = json.loads(answer)
            return str(document.get("token") or document["access_token"])
        except (ValueError, KeyError, AttributeError, TypeError):
            raise RegistryError(f"{self._host}'s token service gave no token.") from None

    def _check_realm(self, realm: str) -> None:
        """A registry must not make us send credentials to wherever it likes."""
        join_address(self._url(""), realm)
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryError(f"{self._host} names no usable token service.")
        if parts.scheme == "http" and self._scheme == "https":
            raise RegistryError(f"{self._host} wants credentials sent over plain http to {parts.netloc}.")
        check_host(parts.hostname)
        own = self._url("")
        is_other = parts.hostname != urlsplit(own).hostname
        if is_other and is_private_host(parts.hostname) and not self._transport.is_private(own):
            raise RegistryError(f"{self._host} names a token service at the private address {parts.netloc}.")

    def _check(self, response: urllib3.BaseHTTPResponse, expected: tuple[int, ...] = (200, 206)) -> None:
        status = response.status
        if status in expected:
            return
        where = f"{self._host}/{self._name}"
        if status in (401, 403):
            raise Unauthorized(f"{where}: access was refused. Log in, or check that the name is right.")
        if status == 404:
            raise RemoteModelNotFound(f"{where} has no such model.")
        reason = _reason_of(response)
        if "DIGEST_INVALID" in reason:
            raise StoreError(f"{where} found the blob damaged: {reason}.")
        text = f"{where} answered {status}{': ' + reason if reason else ''}."
        raise RegistryError(text, retry_after=RETRY_AFTER if status in PASSING_STATUSES else None)


def _read_bounded(response: urllib3.BaseHTTPResponse, limit: int) -> bytes:
    try:
        data = response.read(limit + 1)
    except urllib3.exceptions.HTTPError as error:
        raise RegistryError(f"The answer broke off: {error}.") from error
    if len(data) > limit:
        raise RegistryError(f"The answer is larger than the {limit} bytes it may have.")
    return data


def _reason_of(response: urllib3.BaseHTTPResponse) -> str:
    """What a registry says about its refusal: the specification's `errors`, else nothing."""
    try:
        errors: Any = json.loads(response.read(MAX_ERROR_BYTES))["errors"]
        return "; ".join(f"{entry.get('code', '')} {entry.get('message', '')}".strip() for entry in errors)[:500]
    except (urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return ""
