"""Whether a registry is spoken to over https or over plain http."""

from __future__ import annotations

import contextlib
import ipaddress
from urllib.parse import urlsplit

from dmr.errors import RegistryError
from dmr.store.registry.transport import BRIEF, Transport


def find_scheme(transport: Transport, host: str, insecure: bool) -> str:
    """https, but for registries of this machine, of `.local`, and those that are called insecure.

    They are asked over plain http first, and over https if they do not answer that. An insecure one need then have no
    certificate that anybody could check.
    """
    if not insecure and not _is_local(host):
        return "https"
    if _speaks_plainly(transport, host):
        return "http"
    if insecure:
        transport.trust_blindly(host)
    return "https" if _answers(transport, f"https://{host}/v2/") else "http"


def _speaks_plainly(transport: Transport, host: str) -> bool:
    """Servers of https answer plain http with 400, with a redirect, or not at all."""
    with (
        contextlib.suppress(RegistryError),
        transport.open("GET", f"http://{host}/v2/", {}, follow=False, patience=BRIEF) as response,
    ):
        return response.status != 400 and not response.headers.get("Location", "").startswith("https:")
    return False


def _answers(transport: Transport, url: str) -> bool:
    """A certificate that is not believed is an answer too: whoever goes on will be told of it."""
    try:
        with transport.open("GET", url, {}, follow=False, patience=BRIEF):
            return True
    except RegistryError as error:
        return error.retry_after is None and "wrong version" not in error.message


def _is_local(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".local"):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return False
