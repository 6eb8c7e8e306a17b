"""Where a transfer may go: a registry that somebody names must not be a way to look around in a private network."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from dmr.errors import RegistryNotAllowed
from dmr.store.registry.addresses import addresses_of, check_link, is_public

VARIABLE = "DMR_PRIVATE_REGISTRIES"
_USUAL_PORTS = {"http": 80, "https": 443}


class _Place(NamedTuple):
    """A host and a port; None = the usual ones."""

    host: str
    port: int | None


class PrivateHosts:
    """Which registries may be at private addresses."""

    def __init__(self, hosts: Sequence[str] | None = None, own: Iterable[str] = ()) -> None:
        """`hosts`: with a port, or for the usual ones; None = any. `own`: hosts and URLs that no request has named."""
        self._has_all = hosts is None
        self._places = {place for entry in (*(hosts or ()), *own) if (place := _place_of(entry)) is not None}

    def allow(self, url: str) -> bool:
        place, usual = _place_of(url), _USUAL_PORTS.get(urlsplit(url).scheme)
        if self._has_all or place is None:
            return self._has_all
        port = place.port or usual
        return _Place(place.host, port) in self._places or (port == usual and _Place(place.host, None) in self._places)


class Reach:
    """Of one transfer, which asks the same few hosts again and again. Any thread."""

    def __init__(self, allowed: PrivateHosts) -> None:
        self._allowed = allowed
        self._private: dict[str, bool] = {}  # by host

    def is_private(self, url: str) -> bool:
        """Whether a host is at a private address, where it may be.

        What was found first counts until the end: a host that was public then is connected to at public addresses only.

        Raises:
            RegistryNotAllowed: it is at one, and may not be.
            RegistryError: it is at a link-local address.
        """
        host = urlsplit(url).hostname or ""
        if host not in self._private:
            found = addresses_of(host)
            for address in found:
                check_link(host, address)
            if not found:  # nobody knows what it may mean a moment later
                return False
            self._private[host] = not all(map(is_public, found))
        if self._private[host] and not self._allowed.allow(url):
            place = urlsplit(url).netloc.rpartition("@")[2]
            raise RegistryNotAllowed(
                f"The registry {place} is at a private address, where this server asks none that a request names, "
                f"but for those that {VARIABLE} allows."
            )
        return self._private[host]


def _place_of(text: str) -> _Place | None:
    """None: there is no host in it."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return None
    with contextlib.suppress(ValueError):  # one address has many spellings
        host = ipaddress.ip_address(host).compressed
    return _Place(host, port) if host else None
