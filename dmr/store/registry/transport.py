"""HTTP as the store uses it: bounded waits, retries with back-off, redirects that carry no secret to another host."""

from __future__ import annotations

import ipaddress
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from dmr.errors import RegistryError

MAX_REDIRECTS = 10
MAX_ATTEMPTS = 5
MAX_WAIT = 30.0  # seconds between two attempts
TIMEOUT = urllib3.Timeout(connect=20.0, read=60.0)
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)

Cancelled = Callable[[], bool]


class TransferCancelled(Exception):
    """Nobody waits for this transfer any more."""


class Transport:
    """One connection pool for each way out (direct, or through a proxy). Any thread."""

    def __init__(self, cancelled: Cancelled = lambda: False, certificates: str | None = None) -> None:
        """`certificates`: a file of authorities to trust, beside the system's SSL_CERT_FILE."""
        self._cancelled = cancelled
        self._given_up = threading.Event()
        self._options: dict[str, Any] = {"maxsize": 16, "retries": False, "timeout": TIMEOUT}
        trusted = certificates or os.environ.get("SSL_CERT_FILE")
        if trusted:
            self._options["ca_certs"] = trusted
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def check_cancelled(self) -> None:
        if self._given_up.is_set() or self._cancelled():
            raise TransferCancelled

    def give_up(self) -> None:
        """End whatever goes on: one part has failed, so the others are for nothing."""
        self._given_up.set()

    @contextmanager
    def open(
        self, method: str, url: str, headers: Mapping[str, str], body: Any = None, follow: bool = True
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """The response, its body unread. Statuses that a later attempt may cure are retried first.

        Redirects are followed for GET and HEAD. `Authorization` goes to the first host only.

        Raises:
            RegistryError: no answer after all attempts, or a redirect that must not be followed.
            TransferCancelled
        """
        response = self._attempts(method, url, headers, body, follow and method in ("GET", "HEAD"))
        try:
            yield response
        finally:
            response.close()

    def _attempts(
        self, method: str, url: str, headers: Mapping[str, str], body: Any, follow: bool
    ) -> urllib3.BaseHTTPResponse:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self.check_cancelled()
            is_last = attempt == MAX_ATTEMPTS or (body is not None and not isinstance(body, bytes))
            try:
                response = self._follow(method, url, headers, body, follow)
            except urllib3.exceptions.HTTPError as error:
                if is_last or isinstance(error, urllib3.exceptions.SSLError):
                    raise RegistryError(f"{_host(url)} cannot be reached: {_reason(error)}.") from error
                self.pause(attempt)
                continue
            if response.status not in _RETRIED or is_last:
                return response
            after = response.headers.get("Retry-After", "")
            response.close()
            self.pause(attempt, float(after) if after.isdigit() else 0.0)
        raise AssertionError("unreachable")

    def pause(self, attempt: int, at_least: float = 0.0) -> None:
        """Wait before the next attempt: longer each time, never all clients at once."""
        seconds = min(MAX_WAIT, max(at_least, 0.25 * 2**attempt * (0.5 + random.random())))
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check_cancelled()
            time.sleep(min(left, 0.2))

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], body: Any, follow: bool
    ) -> urllib3.BaseHTTPResponse:
        origin = url
        for _ in range(MAX_REDIRECTS + 1):
            response = self._pool(url).request(
                method, url, headers=dict(headers), body=body, preload_content=False, redirect=False
            )
            target = response.headers.get("Location")
            if not follow or response.status not in _REDIRECTS or not target:
                return response
            response.close()
            target = urljoin(url, target)
            _check_redirect(origin, url, target)
            if _origin(target) != _origin(url):
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            url = target
        raise RegistryError(f"{_host(origin)} redirects more than {MAX_REDIRECTS} times.")

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = "" if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme, "")
        with self._lock:
            pool = self._pools.get(proxy)
            if pool is None:
                pool = urllib3.ProxyManager(proxy, **self._options) if proxy else urllib3.PoolManager(**self._options)
                self._pools[proxy] = pool
            return pool


def is_private_host(host: str) -> bool:
    """Whether a host has an address that the internet cannot reach; a name that does not resolve counts as public."""
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return any(not ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_global for entry in found)


def _check_redirect(origin: str, source: str, target: str) -> None:
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RegistryError(f"{_host(origin)} redirects to something that is no web address.")
    if urlsplit(source).scheme == "https" and parts.scheme != "https":
        raise RegistryError(f"{_host(origin)} redirects from https to plain http ({_host(target)}).")
    if is_private_host(parts.hostname) and not is_private_host(urlsplit(origin).hostname or ""):
        raise RegistryError(f"{_host(origin)} redirects to the private address {_host(target)}.")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason).rpartition(": ")[2] or type(error).__name__
