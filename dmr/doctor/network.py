"""The server's port, and whether what lies beyond this machine can be reached."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec
import urllib3

from dmr.config import Settings
from dmr.doctor.finding import Finding, failure, ok, warning
from dmr.errors import RegistryError, StoreError
from dmr.store.hugging_face.access import find_endpoint
from dmr.store.registry.client import api_host
from dmr.store.registry.scheme import find_scheme
from dmr.store.registry.transport import Patience, Transport

_SHORT = Patience(1, 3.0, 5.0)


class _Version(msgspec.Struct):
    """What no other program says of itself."""

    version: str
    llama_cpp_version: str


def check_port(host: str, port: int) -> Finding:
    """Whether a server could listen there, or one of ours does."""
    place = f"{host}:{port}"
    reason = _reason_against(host, port)
    if reason is None:
        return ok("port", f"{place} is free")
    if reason == errno.EADDRINUSE:
        if version := _own_version(host, port):
            return ok("port", f"dmr {version} listens on {place}")
        return failure("port", f"Another program listens on {place}", "End it, or choose another one: --port, or port.")
    return failure(
        "port", f"Nobody can listen on {place}: {os.strerror(reason)}", "Choose another host or port in the settings."
    )


def _reason_against(host: str, port: int) -> int | None:
    """An error number; None = a server could listen."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return errno.EADDRNOTAVAIL
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            return error.errno or errno.EADDRNOTAVAIL
    return None


def _own_version(host: str, port: int) -> str:
    """Empty: it is no server of ours, or its API key keeps it from saying so."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    address = f"[{name}]" if ":" in name else name
    with urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=2.0, read=3.0)) as pool:
        try:
            answer = pool.request("GET", f"http://{address}:{port}/version", preload_content=False)
            return msgspec.json.decode(answer.read(1 << 16), type=_Version).version
        except (urllib3.exceptions.HTTPError, msgspec.MsgspecError):
            return ""


class _Place(NamedTuple):
    check: str
    url: str
    purpose: str


def check_reachable(settings: Settings, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Registries, the hub, and other engines. None of them is needed for models that are here already."""
    try:
        transport = Transport(certificates=settings.registry.certificates, environ=environ)
        places = [*_registries(settings, transport), _Place("hub", find_endpoint(environ), "models of Hugging Face")]
    except (RegistryError, StoreError) as error:
        yield failure("registry", error.message, "Put DMR_REGISTRY_CERTIFICATES or the proxy's variables right.")
        return
    places += [_Place("engine", f"{each.root}/v1/models", f"the engine '{each.name}'") for each in settings.upstreams]
    with ThreadPoolExecutor(max(1, len(places))) as pool:
        yield from pool.map(lambda place: _reach(transport, place), places)


def _registries(settings: Settings, transport: Transport) -> Iterator[_Place]:
    for registry in (settings.registry.default, *settings.registry.mirrors):
        given, _, host = registry.rpartition("://")
        address = api_host(host)
        scheme = given or find_scheme(transport, address, settings.registry.insecure)
        yield _Place("registry", f"{scheme}://{address}/v2/", f"models of {host}")


def _reach(transport: Transport, place: _Place) -> Finding:
    """Any answer will do, also one that asks who we are."""
    try:
        with transport.open("GET", place.url, {}, follow=False, patience=_SHORT):
            return ok(place.check, f"{place.url} answers")
    except RegistryError as error:
        return warning(
            place.check,
            f"{place.url} does not answer: {error.message}",
            f"Without it {place.purpose} cannot be used. Look at the network, HTTPS_PROXY and the certificates.",
        )
