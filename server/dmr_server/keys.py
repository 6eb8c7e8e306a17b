"""Who may use the server: the keys, and the middleware that asks for them. Without a keys file everybody may."""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import falcon

from dmr.config.keys import INFERENCE, ApiKey, digest_of_key, read_keys
from dmr.errors import DmrError
from dmr_server.errors import KeyRefused, ScopeMissing
from dmr_server.key_limits import Admission, KeyLimits
from dmr_server.recording.draft import draft_of
from dmr_server.scopes import scope_of

LOOK_INTERVAL = 1.0  # seconds between two looks at the file
_PLEASE = "send one as 'Authorization: Bearer KEY' or in 'x-api-key'"

log = logging.getLogger("dmr.server")


class KeyRing:
    """The keys of a file, read again when it changes. A file that has become wrong changes nothing, and is told of."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises InvalidRequest: the file cannot be used."""
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._state = _state_of(path)
        self._keys = read_keys(path)

    def find(self, given: str) -> ApiKey | None:
        """Whose key it is. Each is compared, so that the time tells nothing."""
        self._look()
        digest = digest_of_key(given)
        found: ApiKey | None = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_INTERVAL:
            return
        self._looked = now
        state = _state_of(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            self._keys = read_keys(self._path)
        except DmrError as error:
            log.error("The keys stay as they were: %s", error.message)


class KeyCheck:
    """Middleware; it comes after what chooses the dialect, and before whatever answers."""

    def __init__(self, keys: KeyRing | None, limits: KeyLimits, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._limits = limits
        self._clock = clock

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        req.context.key_check = self  # for what answers before there is a resource

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        scope = scope_of(req, resource)
        if scope is not None:
            self.admit(req, resp, scope)

    def admit(self, req: falcon.Request, resp: falcon.Response, scope: str) -> None:
        """Let a request in whose key allows it. Raises KeyRefused, ScopeMissing, TooManyRequests."""
        if self._keys is None:
            return
        key = self._key_of(req, resp)
        if not key.allows(scope):
            raise ScopeMissing(f"The key '{key.name}' may not do this: it needs the scope '{scope}'.")
        req.context.key = key
        if key.has_limits and scope == INFERENCE and req.method == "POST":
            req.context.admission = self._limits.enter(key)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        admission: Admission | None = getattr(req.context, "admission", None)
        if admission is None:
            return

        def leave() -> None:
            draft = draft_of(req)
            admission.leave(draft.num_input_tokens + draft.num_output_tokens if draft is not None else 0)

        if resp.stream is None:
            leave()
        else:
            resp.stream = _Counted(resp.stream, leave)

    def _key_of(self, req: falcon.Request, resp: falcon.Response) -> ApiKey:
        assert self._keys is not None
        given = list(_given(req))
        key = next((key for key in map(self._keys.find, given) if key is not None), None)
        if key is not None and (key.expires is None or self._clock() < key.expires):
            return key
        resp.set_header("WWW-Authenticate", 'Bearer realm="dmr"')
        if key is not None:
            raise KeyRefused(f"The key '{key.name}' has expired.")
        if given:
            log.warning("a key that is not known came from %s", req.remote_addr or "the Unix socket")
            raise KeyRefused("Incorrect API key provided: it is none of this server's.")
        raise KeyRefused(f"This server asks for an API key: {_PLEASE}.")


class _Counted:
    """A streamed body, at whose end a request is counted out."""

    def __init__(self, body: Any, leave: Callable[[], None]) -> None:
        self._source = body
        self._body = iter(body)
        self._leave = leave

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece: bytes = next(self._body)
        return piece

    def close(self) -> None:
        try:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()
        finally:
            self._leave()


def _given(req: falcon.Request) -> Iterator[str]:
    """The keys that a request brings: clients with several settings may send two."""
    scheme, _, credentials = (req.get_header("Authorization") or "").strip().partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        yield credentials.strip()
    if other := (req.get_header("x-api-key") or "").strip():
        yield other


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
