"""What browsers may do here for the pages that they show: allowed origins, and names that this server answers to."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

import falcon

from dmr.config.reachability import is_loopback
from dmr_server.errors import HostNotAllowed, OriginNotAllowed

# Pages of this machine, as Docker Model Runner allows them, on any port.
LOCAL_ORIGINS = tuple(
    f"{scheme}://{host}:*" for scheme in ("http", "https") for host in ("localhost", "127.0.0.1", "0.0.0.0", "[::1]")
)
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_READABLE = "x-request-id, request-id, retry-after"
_MAX_AGE = "600"  # seconds that a browser need not ask again
# Nobody can have these registered: RFC 6761, RFC 6762, and what ICANN keeps for private use.
_PRIVATE_ENDINGS = (".localhost", ".local", ".internal")
_ANY_PORT = ":*"


class Access:
    """Middleware; it comes after what chooses the dialect, and before whatever answers.

    A page of another site could otherwise send requests, and one whose name is pointed at this machine after it was
    loaded (DNS rebinding) could read the answers too: to a browser both are one site then, so that the name in `Host`
    is all there is to tell. Only servers that listen on the loopback interface look at it: others may have any name.
    """

    def __init__(self, origins: Sequence[str], host: str) -> None:
        """`origins`: beside `LOCAL_ORIGINS`; "*" is any text, ":*" at the end any port. `host`: listened on."""
        self._origins = [_pattern(origin) for origin in (*LOCAL_ORIGINS, *origins)]
        self._checks_host = is_loopback(host) and "*" not in origins

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._check_host(req.get_header("Host"))
        origin = req.get_header("Origin")
        if origin is None:
            return
        resp.append_header("Vary", "Origin")
        if not self._allows(origin):
            raise OriginNotAllowed(f"Origin not allowed: add '{origin[:200]}' to DMR_ORIGINS if you trust it.")
        resp.set_headers({"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true"})
        if req.method == "OPTIONS":
            _answer_preflight(req, resp)
        else:
            resp.set_header("Access-Control-Expose-Headers", _READABLE)

    def _check_host(self, host: str | None) -> None:
        if host is None or not self._checks_host or _is_private(_name_of(host)):
            return
        if not self._allows(f"http://{host}") and not self._allows(f"https://{host}"):
            raise HostNotAllowed(
                f"Host not allowed: this server is for its own machine. Add 'https://{host[:200]}' to DMR_ORIGINS "
                "if it is reached by that name."
            )

    def _allows(self, origin: str) -> bool:
        return any(pattern.fullmatch(origin.lower()) for pattern in self._origins)


def _answer_preflight(req: falcon.Request, resp: falcon.Response) -> None:
    wanted = req.get_header("Access-Control-Request-Headers")
    resp.append_header("Vary", "Access-Control-Request-Headers")
    resp.set_headers(
        {
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": wanted or "*",
            "Access-Control-Max-Age": _MAX_AGE,
        }
    )
    if req.get_header("Access-Control-Request-Private-Network") == "true":
        resp.set_header("Access-Control-Allow-Private-Network", "true")
    resp.status = falcon.HTTP_204
    resp.complete = True


def _pattern(origin: str) -> re.Pattern[str]:
    text, port = origin.lower().rstrip("/"), ""
    if text.endswith(_ANY_PORT):
        text, port = text.removesuffix(_ANY_PORT), r"(?::\d{1,5})?"
    wild = ".*" if text == "*" else "[^/]*"
    return re.compile(wild.join(map(re.escape, text.split("*"))) + port, re.ASCII)


def _name_of(host: str) -> str:
    """`Host` without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".").lower()


def _is_private(name: str) -> bool:
    """Whether no stranger can have this name point at this machine."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(re.fullmatch(r"[a-z0-9_-]+", name)) or name.endswith(_PRIVATE_ENDINGS)
    return True
