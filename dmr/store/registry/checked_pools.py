"""Connections to exactly the addresses that were looked at: a name may mean something else a moment later."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationParseError, NameResolutionError
from urllib3.util.connection import allowed_gai_family

from dmr.store.registry.addresses import Address, unwrapped

Check = Callable[[str, Address], None]  # of a host and one of its addresses; raises what is to be told


def checked_pools(check: Check) -> Mapping[str, type[HTTPConnectionPool]]:
    """The pools of a `PoolManager`, by scheme, whose connections go only where `check` lets them."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, super()._new_conn, check)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, super()._new_conn, check)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _connect(connection: HTTPConnection, connect: Callable[[], socket.socket], check: Check) -> socket.socket:
    """To the first address that answers. None is tried before all of them are checked."""
    name = connection._dns_host  # `host` leaves out a dot at the end, which the name's resolution minds
    found = _resolve(connection, name)
    for address in found:
        check(connection.host, unwrapped(address))
    problem: HTTPError | None = None
    try:
        for address in found:
            connection.host = address  # for `connect` alone: certificates and headers are those of the name
            try:
                return connect()
            except HTTPError as error:
                problem = error
    finally:
        connection.host = name
    raise problem or urllib3.exceptions.NewConnectionError(connection, f"{name} has no address")


def _resolve(connection: HTTPConnection, name: str) -> list[str]:
    try:
        found = socket.getaddrinfo(name.strip("[]"), connection.port, allowed_gai_family(), socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    except UnicodeError:
        raise LocationParseError(f"{name}, a label is empty or too long") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
