"""Where the server is, as users write it: a URL, or `host:port`."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import msgspec

from dmr.cli.unix_socket import SCHEME, connect_unix
from dmr.config import DEFAULT_PORT, DEFAULT_TLS_PORT, Settings
from dmr.errors import InvalidRequest

_CONNECT_TIMEOUT = 5.0  # seconds
_NEAR = ("127.0.0.1", "0.0.0.0", "::")  # what a server listens on that is found as "localhost"
DEFAULT_ADDRESS = f"http://localhost:{DEFAULT_PORT}"


class Address(msgspec.Struct, frozen=True):
    """`url` has no trailing slash; `is_local` says that the host is this machine's loopback."""

    url: str
    is_local: bool

    def accepts(self) -> bool:
        """Whether anything accepts connections there."""
        import socket

        parts = urlsplit(self.url)
        if parts.scheme == SCHEME:
            try:
                connect_unix(parts.path, _CONNECT_TIMEOUT).close()
            except OSError:
                return False
            return True
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_TIMEOUT).close()
        except OSError:
            return False
        return True


def own_address(settings: Settings) -> str:
    """Where a server with these settings is found from its own machine."""
    if not settings.plain and not settings.tls.enabled and settings.socket is not None:
        return f"{SCHEME}://{settings.socket.absolute()}"
    host = settings.host.strip("[]")
    name = "localhost" if host in _NEAR else f"[{host}]" if ":" in host else host
    if not settings.plain and settings.tls.enabled:
        return f"https://{name}:{settings.tls.port or DEFAULT_TLS_PORT}"
    return f"http://{name}:{settings.port or DEFAULT_PORT}"


def parse_address(text: str) -> Address:
    """The address that a user's text means; blanks and quotes around it are dropped, empty means the default.

    Without a scheme it is http and the port defaults to the server's own; with one, to the scheme's.

    Raises:
        InvalidRequest: it is neither a URL nor HOST:PORT.
    """
    text = text.strip().strip("\"'") or DEFAULT_ADDRESS
    if text.startswith(f"{SCHEME}:"):
        return _unix_address(text)
    has_scheme = "://" in text
    try:
        parts = urlsplit(text if has_scheme else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _not_an_address(text) from None
    unusable = parts.username is not None or parts.query or parts.fragment or parts.scheme not in ("http", "https")
    if not host or unusable or not parts.netloc.isascii() or any(c.isspace() for c in text):
        raise _not_an_address(text)
    netloc = parts.netloc if has_scheme or port is not None else f"{parts.netloc.rstrip(':')}:{DEFAULT_PORT}"
    return Address(f"{parts.scheme}://{netloc}{parts.path}".rstrip("/"), _is_loopback(host))


def _unix_address(text: str) -> Address:
    path = text.removeprefix(f"{SCHEME}:")
    path = path[2:] if path.startswith("//") else path
    if not path.startswith("/") or "\0" in path:
        raise InvalidRequest(f"{text!r} is not the address of a Unix socket: expected unix:///PATH.")
    return Address(f"{SCHEME}://{path}", True)


def _not_an_address(text: str) -> InvalidRequest:
    return InvalidRequest(
        f"{text!r} is not the address of a server: expected http://HOST:PORT, https://HOST:PORT, HOST:PORT or "
        "unix:///PATH in --server or MODEL_RUNNER_HOST."
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
