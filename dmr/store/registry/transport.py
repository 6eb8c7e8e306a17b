"""HTTP as the store uses it: bounded waits, retries with back-off, redirects that carry no secret to another host."""

from __future__ import annotations

import os
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import urllib3

from dmr.errors import RegistryError
from dmr.store.registry.addresses import check_host, check_link, check_still_public, is_private_host
from dmr.store.registry.checked_pools import checked_pools
from dmr.store.registry.interruption import Interruption
from dmr.store.registry.proxies import Proxy, proxy_for
from dmr.store.registry.reach import PrivateHosts, Reach
from dmr.store.registry.trust import OWN_VARIABLE, blind_context, trusting_context

USER_AGENT = "dmr"
MAX_REDIRECTS = 10
MAX_ATTEMPTS = 5
MAX_WAIT = 30.0  # seconds between two attempts
LONG_WAIT = 120.0  # seconds: a server that asks for more is not asked again
RETRY_AFTER = 5.0  # seconds; in errors that may pass
PASSING_STATUSES = (408, 425, 429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_POOLS = {True: checked_pools(check_link), False: checked_pools(check_still_public)}  # by whether it may be private

Cancelled = Callable[[], bool]


class Patience(NamedTuple):
    """How long an answer is waited for. `connect` and `read` in seconds of silence."""

    attempts: int
    connect: float
    read: float


STEADY = Patience(MAX_ATTEMPTS, 20.0, 60.0)
BRIEF = Patience(1, 5.0, 15.0)  # where there is something else to go on with


class _Ask(NamedTuple):
    """One request. `is_private`: it may lead to private addresses, for it begins at one."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Any
    follow: bool
    patience: Patience
    is_private: bool


class TransferCancelled(Exception):
    """Nobody waits for this transfer any more."""


class Transport:
    """Connections of one transfer, and whether it is still wanted. Any thread."""

    def __init__(
        self,
        cancelled: Cancelled = lambda: False,
        certificates: str = "",
        environ: Mapping[str, str] = os.environ,
        private: PrivateHosts = PrivateHosts(),  # noqa: B008 - it never changes
    ) -> None:
        """`certificates`: a file of authorities to trust beside the system's; `environ`: proxies, SSL_CERT_FILE.

        `private`: which hosts may be at private addresses.
        """
        self._cancelled = cancelled
        self._given_up = threading.Event()
        self._reach = Reach(private)
        self._ways_out = _WaysOut(certificates, environ)
        self._interruption = Interruption(self.is_unwanted)

    def part(self) -> Transport:
        """The same connections, for a part of the work that can be given up without the rest."""
        part = Transport(self.is_unwanted)
        part._ways_out, part._reach = self._ways_out, self._reach
        return part

    def trust_blindly(self, host: str) -> None:
        """Check no certificates of `host` (with its port): its user has said so."""
        self._ways_out.blindly_trusted.add(host)

    def is_private(self, url: str) -> bool:
        """Whether a host is at a private address, where it may be. Raises RegistryNotAllowed, RegistryError."""
        return self._reach.is_private(url)

    def check_cancelled(self) -> None:
        if self.is_unwanted():
            raise TransferCancelled

    def is_unwanted(self) -> bool:
        """Whether it was cancelled or given up."""
        return self._given_up.is_set() or self._cancelled()

    def give_up(self) -> None:
        """End whatever goes on: one part has failed, so the others are for nothing."""
        self._given_up.set()

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Any = None,
        follow: bool = True,
        patience: Patience = STEADY,
        named_by: str = "",
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """The response, its body unread. Statuses that a later attempt may cure are retried first.

        Redirects are followed for GET and HEAD. `Authorization` goes to the first host only. `named_by`: the address
        of the server that has sent us here: like its redirects, this leads to a private address only from one.

        Raises:
            RegistryNotAllowed: it is at a private address, and may not be.
            RegistryError: no answer after all attempts, or a redirect that must not be followed.
            TransferCancelled
        """
        is_private = self._reach.is_private(named_by or url)
        ask = _Ask(method, url, headers, body, follow and method in ("GET", "HEAD"), patience, is_private)
        response = self._attempts(ask)
        self._interruption.watch(response)
        try:
            yield response
        finally:
            self._interruption.forget(response)
            response.close()

    def _attempts(self, ask: _Ask) -> urllib3.BaseHTTPResponse:
        for attempt in range(1, ask.patience.attempts + 1):
            self.check_cancelled()
            is_last = attempt == ask.patience.attempts or (ask.body is not None and not isinstance(ask.body, bytes))
            try:
                response = self._follow(ask)
            except urllib3.exceptions.HTTPError as error:
                if is_last or isinstance(error, urllib3.exceptions.SSLError):
                    raise _unreachable(ask.url, error) from error
                self.pause(attempt)
                continue
            after = response.headers.get("Retry-After", "")
            seconds = float(after) if after.isdecimal() and after.isascii() else 0.0
            if response.status not in PASSING_STATUSES or is_last or seconds > LONG_WAIT:
                return response
            response.close()
            self.pause(attempt, seconds)
        raise AssertionError("unreachable")

    def pause(self, attempt: int, at_least: float = 0.0) -> None:
        """Wait before the next attempt: longer each time, never all clients at once."""
        seconds = min(MAX_WAIT, max(at_least, 0.25 * 2**attempt * (0.5 + random.random())))
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check_cancelled()
            time.sleep(min(left, 0.2))

    def _follow(self, ask: _Ask) -> urllib3.BaseHTTPResponse:
        url, headers = ask.url, {"User-Agent": USER_AGENT, **ask.headers}
        timeout = urllib3.Timeout(connect=ask.patience.connect, read=ask.patience.read)
        options: dict[str, Any] = {"preload_content": False, "redirect": False, "timeout": timeout}
        for _ in range(MAX_REDIRECTS + 1):
            pools = self._ways_out.to(url, ask.is_private)
            response = pools.request(ask.method, url, headers=dict(headers), body=ask.body, **options)
            target = response.headers.get("Location")
            if not ask.follow or response.status not in _REDIRECTS or not target:
                return response
            response.close()
            target = join_address(url, target)
            _check_redirect(ask.url, url, target, ask.is_private)
            if _origin(target) != _origin(url):
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            url = target
        raise RegistryError(f"{_host(ask.url)} redirects more than {MAX_REDIRECTS} times.")


class _WaysOut:
    """A connection pool for each way out: direct or through a proxy, with certificates checked or not, and where to."""

    def __init__(self, certificates: str, environ: Mapping[str, str]) -> None:
        self._certificates = certificates
        self._environ = environ
        self._pools: dict[tuple[Proxy | None, str, bool], urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self.blindly_trusted: set[str] = set()

    def to(self, url: str, is_private: bool) -> urllib3.PoolManager:
        """`is_private`: it may be at a private address. A proxy looks names up itself, and goes where it is let.

        Raises:
            RegistryError: the proxy or a file of certificates cannot be used.
        """
        proxy = proxy_for(url, self._environ)
        # A context is made only where one is needed: it takes as long as a whole request on a fast network.
        is_plain = urlsplit(url).scheme == "http" and not (proxy and proxy.address.startswith("https:"))
        kind = "plain" if is_plain else "blind" if _host(url) in self.blindly_trusted else "checked"
        with self._lock:
            key = (proxy, kind, is_private)
            if key not in self._pools:
                self._pools[key] = self._make(*key)
            return self._pools[key]

    def _make(self, proxy: Proxy | None, kind: str, is_private: bool) -> urllib3.PoolManager:
        options: dict[str, Any] = {"maxsize": 16, "retries": False}
        checked: ssl.SSLContext | None = None
        if kind != "plain":
            checked = trusting_context(self._certificates, self._environ)
            options["ssl_context"] = blind_context() if kind == "blind" else checked
        if proxy is None:
            manager = urllib3.PoolManager(**options)
            manager.pool_classes_by_scheme = dict(_POOLS[is_private])
            return manager
        headers = urllib3.make_headers(proxy_basic_auth=proxy.login) if proxy.login else None
        return urllib3.ProxyManager(proxy.address, proxy_headers=headers, proxy_ssl_context=checked, **options)


def join_address(base: str, target: str) -> str:
    """The address that a server has named, as seen from `base`. Raises RegistryError: it is none."""
    try:
        joined = urljoin(base, target)
        parts = urlsplit(joined)
        _ = parts.hostname, parts.port
    except ValueError:
        raise RegistryError(f"{_host(base)} names an address that cannot be read: {target[:200]!r}.") from None
    return joined


def _check_redirect(origin: str, source: str, target: str, is_private: bool) -> None:
    """`is_private`: the origin is at a private address."""
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RegistryError(f"{_host(origin)} redirects to something that is no web address.")
    if urlsplit(source).scheme == "https" and parts.scheme != "https":
        raise RegistryError(f"{_host(origin)} redirects from https to plain http ({_host(target)}).")
    check_host(parts.hostname)
    if not is_private and is_private_host(parts.hostname):
        raise RegistryError(f"{_host(origin)} redirects to the private address {_host(target)}.")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _unreachable(url: str, error: Exception) -> RegistryError:
    reason = _reason(error)
    hint = ""
    if "issuer" in reason or "self-signed" in reason:
        hint = f" If an authority of your own has signed its certificate, name that one's file in {OWN_VARIABLE}."
    text = f"{_host(url)} cannot be reached: {reason.removesuffix('.')}.{hint}"
    return RegistryError(text, retry_after=None if isinstance(error, urllib3.exceptions.SSLError) else RETRY_AFTER)


def _reason(error: BaseException) -> str:
    """The innermost cause, in few words."""
    if isinstance(error, urllib3.exceptions.ProxyError):
        return f"the proxy failed: {_reason(error.original_error)}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    causes = [cause for cause in error.args if isinstance(cause, BaseException)]
    if causes:
        return _reason(causes[-1])
    return str(error).rpartition(": ")[2] or type(error).__name__
