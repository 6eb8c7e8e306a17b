"""How much the holder of a key may ask for: requests at a time, requests and tokens in a minute.

All workers count together, in small files below the runtime folder. What counts at a time are locks, which the system
takes back from a worker that dies; what counts in a minute are buckets that fill up again evenly.
"""

from __future__ import annotations

import fcntl
import functools
import os
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dmr.config.keys import ApiKey
from dmr.errors import TooManyRequests

MINUTE = 60.0
_BUCKETS = struct.Struct("<ddd")  # requests left, tokens left, and when that was so (monotonic seconds, of this boot)


class KeyLimits:
    """Any thread, any process that uses the same folder."""

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`folder` is made if it is not there; None = one of its own, for one process."""
        self._given_folder = folder
        self._clock = clock

    def enter(self, key: ApiKey) -> Admission:
        """Count in a request. Raises TooManyRequests, and counts nothing then."""
        slot = self._take_slot(key)
        try:
            if key.requests_per_minute or key.tokens_per_minute:
                self._draw(key)
        except BaseException:
            _close(slot)
            raise
        return Admission(self, key, slot)

    def charge(self, key: ApiKey, num_tokens: int) -> None:
        """So many tokens were read and written for this key."""
        with _Buckets(self._path(key, "minute"), key, self._clock()) as buckets:
            buckets.num_tokens -= num_tokens

    @functools.cached_property
    def _folder(self) -> Path:
        if self._given_folder is None:
            return Path(tempfile.mkdtemp(prefix="dmr-limits-"))
        self._given_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._given_folder

    def _take_slot(self, key: ApiKey) -> int | None:
        """One of as many locks as there may be requests at a time; None where there is no such limit."""
        for number in range(key.max_requests):
            slot = os.open(self._path(key, str(number)), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(slot)
                continue
            return slot
        if key.max_requests:
            raise TooManyRequests(
                f"The key '{key.name}' may have {key.max_requests} requests in progress at a time, and has them."
            )
        return None

    def _draw(self, key: ApiKey) -> None:
        with _Buckets(self._path(key, "minute"), key, self._clock()) as buckets:
            if key.tokens_per_minute and buckets.num_tokens <= 0:
                raise TooManyRequests(
                    f"The key '{key.name}' may use {key.tokens_per_minute} tokens a minute, and has used them.",
                    retry_after=(1 - buckets.num_tokens) * MINUTE / key.tokens_per_minute,
                )
            if key.requests_per_minute and buckets.num_requests < 1:
                raise TooManyRequests(
                    f"The key '{key.name}' may send {key.requests_per_minute} requests a minute, and has sent them.",
                    retry_after=(1 - buckets.num_requests) * MINUTE / key.requests_per_minute,
                )
            buckets.num_requests -= 1

    def _path(self, key: ApiKey, what: str) -> Path:
        return self._folder / f"{key.digest.hex()[:16]}.{what}"


class Admission:
    """A request that is counted in, until it leaves."""

    def __init__(self, limits: KeyLimits, key: ApiKey, slot: int | None) -> None:
        self._limits = limits
        self._key = key
        self._slot = slot
        self._has_left = False

    def leave(self, num_tokens: int) -> None:
        """The request is over; `num_tokens` were read and written for it. Idempotent."""
        if self._has_left:
            return
        self._has_left = True
        _close(self._slot)
        if self._key.tokens_per_minute and num_tokens:
            self._limits.charge(self._key, num_tokens)


class _Buckets:
    """What is left of a minute's requests and tokens, while nobody else may look at it."""

    def __init__(self, path: Path, key: ApiKey, now: float) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._key = key
        self._now = now
        self.num_requests = self.num_tokens = 0.0

    def __enter__(self) -> _Buckets:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        data = os.pread(self._file, _BUCKETS.size, 0)
        requests, tokens = float(self._key.requests_per_minute), float(self._key.tokens_per_minute)
        if len(data) == _BUCKETS.size:
            left_requests, left_tokens, since = _BUCKETS.unpack(data)
            share = (self._now - since) / MINUTE
            if share >= 0:  # else it is of another boot
                requests = min(requests, left_requests + share * requests)
                tokens = min(tokens, left_tokens + share * tokens)
        self.num_requests, self.num_tokens = requests, tokens
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                os.pwrite(self._file, _BUCKETS.pack(self.num_requests, self.num_tokens, self._now), 0)
        finally:
            os.close(self._file)


def _close(slot: int | None) -> None:
    if slot is not None:
        with suppress(OSError):
            os.close(slot)
