"""What the addresses behind a host's name are: public ones, those of a private network, those of the machine's link."""

from __future__ import annotations

import ipaddress
import socket
from typing import Union

from dmr.errors import RegistryError

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
# Its last four bytes are an address of the older kind (RFC 6052).
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


def unwrapped(address: str) -> Address:
    """An address of the newer kind that carries one of the older is that one. Raises ValueError: it is none."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _TRANSLATED:
            inner = ipaddress.IPv4Address(ip.packed[-4:])
        return inner or ip
    return ip


def is_public(address: Address) -> bool:
    """Whether the whole internet means the same by it."""
    return address.is_global and not address.is_multicast and not getattr(address, "is_site_local", False)


def addresses_of(host: str) -> list[Address]:
    """What a name means now; nothing for one that does not resolve."""
    try:
        found = socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return []
    return [unwrapped(str(entry[4][0])) for entry in found]


def is_private_host(host: str) -> bool:
    """Whether a host has an address that the internet cannot reach; a name that does not resolve counts as public."""
    return not all(map(is_public, addresses_of(host)))


def check_link(host: str, address: Address) -> None:
    """Nobody has a registry at a link-local address, but clouds tell a machine's secrets at one.

    Raises:
        RegistryError: it is such an address, of the host that is named.
    """
    if address.is_link_local or address.is_multicast:
        raise RegistryError(f"{host} is a link-local address: no registry is asked there.")


def check_host(host: str) -> None:
    """Raises RegistryError: the host is at a link-local address."""
    for address in addresses_of(host):
        check_link(host, address)


def check_still_public(host: str, address: Address) -> None:
    """For a host that was public a moment ago. Raises RegistryError: it has another address by now."""
    check_link(host, address)
    if not is_public(address):
        raise RegistryError(f"{host} has turned from a public address to a private one: it is not asked there.")
