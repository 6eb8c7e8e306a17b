"""Who can reach a server with these settings, and what requests may reach through it."""

from __future__ import annotations

import ipaddress

from dmr.config.settings import ANY_REGISTRY, AUTOMATIC, NO_REGISTRY, Settings


def is_loopback(host: str) -> bool:
    """Whether who listens on this address can only be reached from the same machine; of names localhost alone is so."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_of_this_machine(settings: Settings) -> bool:
    """Whether only programs of the same machine can send requests: by the loopback interface or a Unix socket."""
    has_ports = settings.plain or settings.tls.enabled
    return not has_ports or is_loopback(settings.host)


def private_registries(settings: Settings) -> tuple[str, ...] | None:
    """The hosts of the registries at private addresses that requests may name; None: they may name any.

    Where keys are asked for, only administrators can name a registry at all.
    """
    said = {entry.lower() for entry in settings.registry.private}
    is_safe = is_of_this_machine(settings) or settings.keys is not None
    if ANY_REGISTRY in said or (AUTOMATIC in said and is_safe):
        return None
    return tuple(sorted(said - {AUTOMATIC, NO_REGISTRY}))
