"""Which proxy a request goes through: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in either case of letters."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from dmr.errors import RegistryError

_PORTS = {"http": 80, "https": 443}


class Proxy(NamedTuple):
    """`address` holds no secret; `login` is "user:password" or empty."""

    address: str
    login: str = ""


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """None = go there directly, as to this very machine always. Raises RegistryError for a proxy of another kind."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    text = _lookup(environ, f"{parts.scheme}_proxy") or _lookup(environ, "all_proxy")
    if not text or _is_this_machine(host):
        return None
    if _is_exempt(host, parts.port or _PORTS.get(parts.scheme, 0), _lookup(environ, "no_proxy")):
        return None
    return _parse(text)


def _lookup(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _parse(text: str) -> Proxy:
    parts = urlsplit(text if "://" in text else f"http://{text}")
    place = parts.netloc.rpartition("@")[2]
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RegistryError(f"The proxy '{parts.scheme}://{place}' cannot be used: only http and https proxies are.")
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    return Proxy(f"{parts.scheme}://{place}", login)


def _is_this_machine(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _is_exempt(host: str, port: int, exempt: str) -> bool:
    return any(_matches(host, port, entry) for entry in exempt.lower().replace(",", " ").split())


def _matches(host: str, port: int, entry: str) -> bool:
    """`example.com` means its subdomains too, `.example.com` only them; a network or a port may be given."""
    if entry == "*":
        return True
    address = _address(host)
    if address is not None:
        try:
            if address in ipaddress.ip_network(entry.strip("[]"), strict=False):
                return True
        except ValueError:
            pass
    try:
        parts = urlsplit(f"//{entry}")
        name, wanted_port = (parts.hostname or "").removeprefix("*"), parts.port
    except ValueError:  # no host at all
        return False
    if not name or wanted_port not in (None, port):
        return False
    return host == name or (address is None and host.endswith(name if name[0] == "." else f".{name}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
