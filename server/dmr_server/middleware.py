"""What happens to every request: its path is cleaned, its dialect is known, its answer can be told from others."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import falcon
from falcon.routing import BaseConverter

from dmr_server.dialect import Dialect
from dmr_server.streaming import Streamer

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SLASHES = re.compile(r"//+")


class CleanPath:
    """Routes on the path as it was sent: a slash inside of a model name may be `%2F`, and is no separator then.

    Every segment is decoded, save for the slashes and percent signs in it; `ModelName` decodes these. Doubled slashes
    and one at the end are dropped, as upstream does.
    """

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        segments = [_segment(segment) for segment in raw_path(req.env).split("/")]
        path = _SLASHES.sub("/", "/".join(segments))
        req.path = path.rstrip("/") or "/"


def raw_path(environ: Mapping[str, Any]) -> str:
    """The path of a request as it was sent."""
    raw = environ.get("RAW_URI")
    if raw is None:  # a server that only tells the decoded path
        return quote(environ["PATH_INFO"].encode("iso-8859-1"))
    if not raw.startswith("/"):
        return urlsplit(raw).path or "/"  # the absolute form that proxies send
    return str(raw).partition("?")[0].partition("#")[0]


def _segment(raw: str) -> str:
    return unquote(raw).replace("%", "%25").replace("/", "%2F") if "%" in raw else raw


class ModelsForAnthropic:
    """`GET /v1/models` belongs to two APIs; the header that each of Anthropic's clients sends tells which is meant."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        if req.method in ("GET", "HEAD") and _is_under(req.path, "/v1/models") and req.get_header("anthropic-version"):
            req.path = f"/anthropic{req.path}"


class ModelName(BaseConverter):
    """The rest of the path as one model name."""

    CONSUME_MULTIPLE_SEGMENTS = True

    def convert(self, value: Any) -> str:
        return unquote("/".join(value))


def fresh_request_id() -> str:
    return f"req_{uuid.uuid4().hex}"


class RequestId:
    """`x-request-id` on every answer: the client's own if it is sane, else a fresh one."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        asked = req.get_header("x-request-id") or ""
        req.context.request_id = asked if _SANE_ID.fullmatch(asked) else fresh_request_id()
        # "request-id" is the name in Anthropic's API.
        resp.set_headers({"x-request-id": req.context.request_id, "request-id": req.context.request_id})


class Sending:
    """How answers go out: who sends the streams, and how long a client may take nothing."""

    def __init__(self, write_timeout: float) -> None:
        self._streamer = Streamer(write_timeout)
        self._write_timeout = write_timeout
        whole = int(write_timeout)
        self._timeout = struct.pack("ll", whole, int((write_timeout - whole) * 1e6))

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        req.context.streamer = self._streamer
        connection = req.env.get("gunicorn.socket")
        if isinstance(connection, ssl.SSLSocket):  # it does not heed the kernel's
            connection.settimeout(self._write_timeout)
        elif connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, self._timeout)


class ChooseDialect:
    """Errors are told in the dialect of the resource; without a resource the path decides."""

    def __init__(self, by_prefix: Mapping[str, Dialect]) -> None:
        self._by_prefix = by_prefix  # longest first; "" is the last resort

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        req.context.dialect = next(
            dialect for prefix, dialect in self._by_prefix.items() if _is_under(req.path, prefix)
        )

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        req.context.dialect = getattr(resource, "dialect", req.context.dialect)


def _is_under(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")
