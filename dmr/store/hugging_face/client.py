"""The hub's HTTP API, as far as models need it.

`/api/models/{repository}/revision/{revision}` names a commit, `…/tree/{commit}` lists it page by page, and
`/{repository}/resolve/{commit}/{path}` gives a file. Refusals carry `X-Error-Code` and `X-Error-Message`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

import msgspec
import urllib3

from dmr.errors import RegistryError, RemoteModelNotFound, Unauthorized
from dmr.store.digest import Digest, parse_digest
from dmr.store.registry.transport import STEADY, Patience, Transport

MAX_LIST_BYTES = 16 << 20
MAX_ERROR_BYTES = 1 << 14
MAX_PAGES = 200
DEFAULT_RETRY_AFTER = 60.0  # seconds, where the hub does not say how long its limit lasts

_NEXT_PAGE = re.compile(r'<([^>]+)>\s*;\s*rel="next"')
COMMIT = re.compile(r"[0-9a-f]{40}")
_RATE_LIMIT = re.compile(r"\bt=(\d{1,6})\b")  # of the header RateLimit: seconds until there is room again
_MISSING_REVISION = "RevisionNotFound"
_MISSING_FILE = "EntryNotFound"
_GATED = "GatedRepo"


class HubFile(msgspec.Struct, frozen=True):
    """`digest` is known of large files only; the others have git's hash, `oid`."""

    path: str
    size: int
    digest: Digest | None = None
    oid: str = ""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Hub:
    """One hub, as one user. Any thread. Every method may raise RegistryError and TransferCancelled, and:

    Raises:
        Unauthorized: a private or gated repository, or a token that the hub does not take.
        RemoteModelNotFound: no such repository, revision or file.
    """

    def __init__(self, endpoint: str, token: str | None, transport: Transport, patience: Patience = STEADY) -> None:
        self.endpoint = endpoint
        self.has_token = bool(token)
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self._transport = transport
        self._patience = patience  # with questions; files are waited for

    def find_commit(self, repository: str, revision: str) -> str:
        """The commit that a branch, a tag or the beginning of a commit means now."""
        answer = self._get_json(f"/api/models/{repository}/revision/{quote(revision, safe='')}", repository)
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise RegistryError(f"The hub does not say which commit '{revision}' of {repository} is.")
        return commit

    def list_files(self, repository: str, commit: str) -> list[HubFile]:
        """All files below all folders."""
        found: list[HubFile] = []
        url = f"{self.endpoint}/api/models/{repository}/tree/{commit}?recursive=true"
        for _ in range(MAX_PAGES):
            with self.request("GET", url, repository) as response:
                found += _files_of(read_json(response))
                following = _NEXT_PAGE.search(response.headers.get("Link", ""))
            if following is None:
                return found
            url = urljoin(url, following[1])
            if urlsplit(url)[:2] != urlsplit(self.endpoint)[:2]:
                break
        raise RegistryError(f"The list of files of {repository} does not end.")

    @contextlib.contextmanager
    def open(self, repository: str, commit: str, path: str, offset: int) -> Iterator[urllib3.BaseHTTPResponse]:
        """A file's bytes from `offset` on, if the hub can do that: see the status (206) and Content-Range."""
        url = f"{self.endpoint}/{repository}/resolve/{commit}/{quote(path)}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self.request("GET", url, repository, headers, passed=(416,), patience=STEADY) as response:
            yield response

    def read(self, repository: str, commit: str, file: HubFile) -> bytes:
        """All of a small file, checked against the hash that the list told."""
        with self.open(repository, commit, file.path, 0) as response:
            data = _read_bounded(response, file.size)
        # git's own hash of a file: SHA-1 over a header and the content
        is_right = f"sha256:{hashlib.sha256(data).hexdigest()}" == file.digest
        if not is_right and hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() != file.oid:
            raise RegistryError(f"What came for {file.path} is not what the hub's list says; it was thrown away.")
        return data

    def find(self, query: Mapping[str, str]) -> Any:
        """What `/api/models` finds."""
        return self._get_json(f"/api/models?{urlencode(query)}", "")

    def _get_json(self, path: str, repository: str) -> Any:
        with self.request("GET", self.endpoint + path, repository) as response:
            return read_json(response)

    @contextlib.contextmanager
    def post(
        self,
        path: str,
        repository: str,
        document: Any,
        kind: str = "application/json",
        passed: tuple[int, ...] = (),
    ) -> Iterator[Any]:
        """What the hub answers to a JSON document; None if it has nothing to say."""
        headers = {"Accept": kind, "Content-Type": kind}
        body = json.dumps(document).encode()
        with self.request("POST", self.endpoint + path, repository, headers, body, passed) as response:
            yield read_json(response) if response.headers.get("Content-Length") != "0" else None

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        url: str,
        repository: str,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        passed: tuple[int, ...] = (),
        patience: Patience | None = None,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """An answer of status 2xx, or one of `passed`."""
        sent = {**(headers or {}), **self._authorization}
        with self._transport.open(method, url, sent, body, patience=patience or self._patience) as response:
            if not 200 <= response.status < 300 and response.status not in passed:
                raise self._refusal(response, repository)
            yield response

    def _refusal(self, response: urllib3.BaseHTTPResponse, repository: str) -> Exception:
        """Why it did not work, and what to do."""
        status, code = response.status, response.headers.get("X-Error-Code", "")
        if status in (401, 403):
            return Unauthorized(self._denial(repository, status, code, _detail(response)))
        if status == 404 and code == _MISSING_REVISION:
            return RemoteModelNotFound(f"{repository} has no such branch, tag or commit.")
        if status == 404 and code == _MISSING_FILE:
            return RemoteModelNotFound(f"{repository} has no such file (any more); try again.")
        if status == 404:
            return RemoteModelNotFound(f"{repository or 'That'} does not exist on the hub.")
        if status == 429:
            seconds = _seconds_left(response.headers)
            hint = "" if self.has_token else " With a token in HF_TOKEN the limit is higher."
            text = f"The hub takes no more requests for now (rate limit); try again in {seconds:.0f} s.{hint}"
            return RegistryError(text, retry_after=seconds)
        detail = _detail(response)
        return RegistryError(f"The hub answered with status {status}{f': {detail}' if detail else ''}.")

    def _denial(self, repository: str, status: int, code: str, detail: str) -> str:
        page = f"{self.endpoint}/{repository}"
        if code == _GATED and self.has_token:
            return (
                f"{repository} is gated, and the token's owner is not let in: accept its conditions at {page}, or wait "
                "until its authors have agreed. A fine-grained token also needs the right to read gated repositories."
            )
        if code == _GATED:
            return (
                f"{repository} is gated: accept its conditions at {page}, make a token at "
                f"{self.endpoint}/settings/tokens, and set HF_TOKEN to it."
            )
        if not self.has_token:
            return f"{repository} does not exist, or is private: check its name, or set HF_TOKEN to a token for it."
        if status == 401:
            return f"The hub does not take the token: it is wrong or out of date, or there is no {repository}."
        return f"The token may not do this with {repository}{f': {detail}' if detail else ''}."


def read_json(response: urllib3.BaseHTTPResponse) -> Any:
    """Raises RegistryError for what is no JSON, or too much of it."""
    try:
        return json.loads(_read_bounded(response, MAX_LIST_BYTES))
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"The hub's answer cannot be understood: {error}.") from error


def list_in(answer: Any, key: str, *fields: str) -> list[dict[str, Any]]:
    """The objects of a list in an answer, each of which has these fields as texts. Raises RegistryError."""
    found = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and all(isinstance(one.get(field), str) for field in fields) for one in found
    ):
        raise RegistryError("The hub's answer cannot be understood.")
    return found


def _read_bounded(response: urllib3.BaseHTTPResponse, limit: int) -> bytes:
    try:
        data = bytearray()
        while piece := response.read(min(1 << 20, limit + 1 - len(data))):
            data += piece
            if len(data) > limit:
                raise RegistryError("The hub's answer is longer than it may be.")
        return bytes(data)
    except urllib3.exceptions.HTTPError as error:
        raise RegistryError(f"The hub's answer broke off: {error}.") from error


def _detail(response: urllib3.BaseHTTPResponse) -> str:
    """The hub's own words, one short line."""
    text = response.headers.get("X-Error-Message", "")
    if not text:
        with contextlib.suppress(RegistryError, ValueError, RecursionError, AttributeError):
            text = str(json.loads(_read_bounded(response, MAX_ERROR_BYTES)).get("error", ""))
    return "".join(filter(str.isprintable, text))[:300].strip().removesuffix(".")


def _seconds_left(headers: Mapping[str, str]) -> float:
    after = headers.get("Retry-After", "")
    if after.isdigit():
        return float(after)
    found = _RATE_LIMIT.search(headers.get("RateLimit", ""))
    return float(found[1]) if found else DEFAULT_RETRY_AFTER


def _files_of(listed: Any) -> list[HubFile]:
    if not isinstance(listed, list):
        raise RegistryError("The hub's list of files cannot be understood: it is no list.")
    return [_file_of(entry) for entry in listed if isinstance(entry, dict) and entry.get("type") == "file"]


def _file_of(entry: dict[str, Any]) -> HubFile:
    path, lfs = entry.get("path"), entry.get("lfs")
    if not isinstance(path, str) or not path:
        raise RegistryError("The hub's list of files cannot be understood: a file has no path.")
    if not isinstance(lfs, dict):
        return HubFile(path, _size_of(entry), oid=str(entry.get("oid", "")))
    oid = str(lfs.get("oid", ""))
    return HubFile(path, _size_of(lfs), parse_digest(oid if oid.startswith("sha256:") else f"sha256:{oid}"))


def _size_of(entry: Mapping[str, Any]) -> int:
    size = entry.get("size")
    if not isinstance(size, int) or size < 0:
        raise RegistryError(f"The hub's list of files cannot be understood: a size is {ascii(size)[:100]}.")
    return size
