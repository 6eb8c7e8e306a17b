"""One file of another server, fetched so that nobody can look around with it: neither where, nor what, nor how long.

One parser reads an address. Its name is resolved once, every address behind it is looked at, and exactly those are
connected to; so is every redirection. No proxy is asked, and nothing that identifies anybody is sent.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from dmr.store.registry.addresses import is_public, unwrapped

MAX_URL = 8192  # characters
MAX_REDIRECTS = 3
CONNECT_TIMEOUT = 5.0  # seconds for one address
SILENCE_TIMEOUT = 10.0  # seconds without a byte
MAX_BYTES = 32 << 20  # of one file
_PIECE = 1 << 16  # bytes
_REDIRECTS = (301, 302, 303, 307, 308)
_PUBLIC_PORTS = (80, 443)
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_.])?")
_UNSEEN = re.compile(r"[\x00-\x20\x7f\\]")

Resolve = Callable[[str, int], Sequence[str]]  # a name and a port to addresses; raises OSError


class Refused(Exception):
    """What is wrong with it, as the end of a sentence that begins with the address."""


class Target(NamedTuple):
    """Where one request goes. `is_named`: the settings name this host."""

    scheme: str
    host: str
    port: int
    path: str  # with its query
    is_named: bool


class Hosts:
    """Which other servers may be asked, as DMR_FETCH_MEDIA says: "off", "public", names with or without a port."""

    def __init__(self, said: Sequence[str] = ()) -> None:
        named = {item.lower() for item in said}
        self.any = bool(named) and "off" not in named
        self._public = "public" in named
        self._named = named - {"public", "off"}

    def target(self, url: str) -> Target:
        """Raises Refused."""
        if len(url) > MAX_URL or _UNSEEN.search(url):
            raise Refused("is no URL, or is longer than one may be")
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (parts.hostname or "").encode("idna").decode().lower()
            path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
            query = quote(parts.query, safe="/?%:@!$&'()*+,;=~-._")
        except ValueError:
            raise Refused("is no URL") from None
        if parts.scheme not in ("http", "https"):
            raise Refused("is neither http nor https")
        if "@" in parts.netloc:
            raise Refused("has a user name in it, and none is sent")
        if not _NAME.fullmatch(host) and not _is_address(host):
            raise Refused("names no host")
        usual = 443 if parts.scheme == "https" else 80
        where = f"{path}?{query}" if query else path
        return self._allowed(Target(parts.scheme, host, usual if port is None else port, where, False))

    def _allowed(self, target: Target) -> Target:
        shown = f"[{target.host}]" if ":" in target.host else target.host
        is_usual = target.port == (443 if target.scheme == "https" else 80)
        if f"{shown}:{target.port}" in self._named or (is_usual and shown in self._named):
            return target._replace(is_named=True)
        if not self._public:
            raise Refused("is on a host that the server may not ask; DMR_FETCH_MEDIA has those that it may")
        if target.port not in _PUBLIC_PORTS:
            raise Refused("has a port that the server may not ask; DMR_FETCH_MEDIA would have to name it with the host")
        return target


def may_connect(address: str, is_named: bool) -> bool:
    """Whether an address may be connected to: a public one, or any but the machine's own link for a named host."""
    ip = unwrapped(address)
    if ip.is_multicast or ip.is_unspecified or ip.is_link_local:
        return False
    return is_named or is_public(ip)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Download:
    """Fetches in the thread that calls `fetch`; any other may `stop` it."""

    def __init__(
        self,
        hosts: Hosts,
        trusts: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        *,
        resolve: Resolve = resolve,
        may_connect: Callable[[str, bool], bool] = may_connect,
    ) -> None:
        self._hosts = hosts
        self._trusts = trusts
        self._resolve = resolve
        self._may_connect = may_connect
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """End what is being fetched, and whatever would be."""
        with self._lock:
            self._is_stopped = True
            if self._connection is not None:
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)

    def fetch(self, url: str, kind: str, max_bytes: int = MAX_BYTES) -> bytes:
        """The file, an "image" or "audio". Raises Refused."""
        for _ in range(MAX_REDIRECTS + 1):
            target = self._hosts.target(url)
            with contextlib.closing(self._connect(target)) as connection:
                try:
                    with contextlib.closing(self._ask(connection, target)) as answer:
                        if answer.status not in _REDIRECTS:
                            return _content(answer, kind, max_bytes)
                        url = _redirected(target, url, answer.headers.get("Location", ""))
                except (OSError, http.client.HTTPException, ValueError) as error:
                    raise Refused(f"could not be fetched: {_reason(error)}") from error
        raise Refused("leads from one address to another, and on")

    def _ask(self, connection: socket.socket, target: Target) -> http.client.HTTPResponse:
        kind = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
        client = kind(target.host, target.port)
        client.sock = connection  # so that it does not connect by itself, and resolves nothing
        client.request("GET", target.path, headers={"Accept-Encoding": "identity", "User-Agent": "dmr"})
        return client.getresponse()

    def _connect(self, target: Target) -> socket.socket:
        try:
            addresses = self._resolve(target.host, target.port)
        except (OSError, UnicodeError):
            raise Refused("is on a host that cannot be found") from None
        if not addresses or not all(self._may_connect(address, target.is_named) for address in addresses):
            raise Refused("is on a host without a public address")
        problem: Exception = OSError("nobody answers")
        for address in addresses:
            try:
                return self._opened(address, target)
            except OSError as error:
                problem = error
        raise Refused(f"could not be fetched: {_reason(problem)}") from problem

    def _opened(self, address: str, target: Target) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._adopt(connection)
            connection.settimeout(CONNECT_TIMEOUT)
            connection.connect((address, target.port))
            if not self._may_connect(connection.getpeername()[0], target.is_named):
                raise Refused("is on a host without a public address")
            connection.settimeout(SILENCE_TIMEOUT)
            if target.scheme == "https":
                connection = self._trusts().wrap_socket(connection, server_hostname=target.host)
                self._adopt(connection)
            return connection
        except BaseException:
            connection.close()
            raise

    def _adopt(self, connection: socket.socket) -> None:
        with self._lock:
            if self._is_stopped:
                raise Refused("was not waited for")
            self._connection = connection


def _redirected(target: Target, url: str, location: str) -> str:
    if not location:
        raise Refused("leads nowhere")
    following = urljoin(url, location)
    if target.scheme == "https" and not following.lower().startswith("https:"):
        raise Refused("leads from https to what is not")
    return following


def _content(answer: http.client.HTTPResponse, kind: str, max_bytes: int) -> bytes:
    if answer.status != 200:
        raise Refused(f"was answered with status {answer.status}")
    media_type = answer.headers.get_content_type() if "Content-Type" in answer.headers else ""
    if media_type not in ("", "application/octet-stream") and not media_type.startswith(f"{kind}/"):
        raise Refused(f"is of type '{media_type[:60]}', not {kind}")
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused("comes compressed, which was not asked for")
    if answer.length is not None and answer.length > max_bytes:
        raise Refused(f"has {answer.length} bytes; {max_bytes} are taken")
    data = bytearray()
    while piece := answer.read(_PIECE):
        data += piece
        if len(data) > max_bytes:
            raise Refused(f"has more than {max_bytes} bytes, which are all that is taken")
    if answer.length:
        raise Refused("ended before its end")
    return bytes(data)


def _reason(error: Exception) -> str:
    """Without addresses: who asks learns nothing of the network."""
    if isinstance(error, TimeoutError):
        return "it takes too long"
    if isinstance(error, ssl.SSLError):
        return f"its certificate or its TLS is refused ({getattr(error, 'verify_message', '') or error.reason})"
    if isinstance(error, ConnectionRefusedError):
        return "nobody answers"
    return "the connection broke, or it is no HTTP"
