"""Docker Model Runner's pull and push: one JSON object a line while a model travels (its distribution API).

Lines are never HTML-escaped, for whom upstream does that: JSON that has to be unescaped first is no JSON.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Union

import falcon
import msgspec

from dmr.errors import (
    DmrError,
    InternalError,
    InvalidReference,
    InvalidRequest,
    ModelNotFound,
    RegistryError,
    RemoteModelNotFound,
    Unauthorized,
    Unsupported,
)
from dmr.types import Tick, TransferProgress
from dmr_server.bodies import parse_json, read_body
from dmr_server.dialect import Client
from dmr_server.errors import ClientGone, row_of

if TYPE_CHECKING:
    from dmr.service import Service

log = logging.getLogger("dmr.server")

Mode = Literal["pull", "push"]
_DONE = {"pull": "Model pulled successfully", "push": "Model pushed successfully"}
_MOVED = {"pull": "Downloaded", "push": "Uploaded"}


class WireLayer(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str = ""
    size: int = msgspec.field(default=-1)
    current: int = msgspec.field(default=-1)


class WireStep(msgspec.Struct, frozen=True):
    """One line."""

    type: Literal["progress", "success", "warning", "error"]
    message: str
    total: int
    layer: WireLayer
    mode: Mode


class PullRequest(msgspec.Struct, frozen=True):
    reference: str = msgspec.field(name="from", default="")
    token: Union[str, None] = msgspec.field(name="bearer-token", default=None)
    insecure: Union[bool, None] = None  # ours: plain http, or https whose certificate nobody checks


class PushRequest(msgspec.Struct, frozen=True):
    token: Union[str, None] = msgspec.field(name="bearer-token", default=None)
    insecure: Union[bool, None] = None  # ours


class TransferDialect:
    """One line of text, in upstream's words where it has some and with ours behind them."""

    media_type = "text/plain; charset=utf-8"

    def __init__(self, mode: Mode) -> None:
        self._mode = mode

    def error(self, error: DmrError, request_id: str) -> tuple[int, bytes]:
        status, text = row_of(error).status, error.message
        if isinstance(error, Unauthorized):
            text = f"Unauthorized: {text}"
        elif isinstance(error, (ModelNotFound, RemoteModelNotFound)):
            text = f"Model not found: {text}"
        elif isinstance(error, InvalidReference):
            text = f"Invalid model reference: {text}"
        elif isinstance(error, Unsupported):
            status = 422
        elif isinstance(error, RegistryError):
            # Upstream's command line repeats what failed with 502, but here it has been repeated often enough.
            status, text = 500, f"error while {self._mode}ing model: {text}"
        elif status >= 500:
            text = f"error while {self._mode}ing model: {text}"
        return status, f"{text}\n".encode()


def pull(req: falcon.Request, resp: falcon.Response, service: Service, max_body_bytes: int) -> None:
    """POST /models/create"""
    req.context.dialect = TransferDialect("pull")
    wanted = _read(req, PullRequest, max_body_bytes)
    if not wanted.reference:
        raise InvalidRequest("invalid request body: 'from' must name a model", param="from")
    steps = service.pull(wanted.reference, wanted.token, bool(wanted.insecure))
    _stream(req, resp, steps, "pull", lambda: _cached(service, wanted.reference))


def push(req: falcon.Request, resp: falcon.Response, service: Service, name: str, max_body_bytes: int) -> None:
    """POST /models/{name}/push"""
    req.context.dialect = TransferDialect("push")
    wanted = _read(req, PushRequest, max_body_bytes)
    service.get_stored_model(name)
    steps = service.push(name, name, wanted.token, bool(wanted.insecure))
    _stream(req, resp, steps, "push", lambda: _DONE["push"])


def _cached(service: Service, reference: str) -> str:
    """What is said of a model of which nothing had to be brought."""
    size = ""
    with suppress(DmrError):  # somebody has removed it since
        size = service.get_stored_model(reference).config.size
    return f"Using cached model: {size}" if size else "Using cached model"


def _read(req: falcon.Request, kind: type[Any], max_body_bytes: int) -> Any:
    data = read_body(req, max_body_bytes)
    try:
        return msgspec.convert(parse_json(data) if data.strip() else {}, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"invalid request body: {error}") from None


def _stream(
    req: falcon.Request,
    resp: falcon.Response,
    steps: Iterator[Tick | TransferProgress],
    mode: Mode,
    unmoved: Callable[[], str],
) -> None:
    """What goes wrong before the first step gets a true status code. `unmoved`: the last line if no layer moved."""
    client = Client(req.env)
    first: TransferProgress | None = None
    try:
        for step in steps:
            client.check(now=isinstance(step, Tick))
            if isinstance(step, TransferProgress):
                first = step
                break
    except BaseException:
        _close(steps)
        raise
    resp.content_type = falcon.MEDIA_JSON if req.get_header("Accept") == falcon.MEDIA_JSON else falcon.MEDIA_TEXT
    resp.set_headers({"Cache-Control": "no-cache"})
    resp.stream = _Lines(_encode(first, steps, client, mode, unmoved), steps)


class _Lines:
    """The body of the answer; `close` cancels the transfer, if nobody else waits for it."""

    def __init__(self, lines: Generator[bytes, None, None], steps: Iterator[Any]) -> None:
        self._lines = lines
        self._steps = steps

    def __iter__(self) -> Iterator[bytes]:
        return self._lines

    def close(self) -> None:
        self._lines.close()
        _close(self._steps)


def _close(steps: Iterator[Any]) -> None:
    close = getattr(steps, "close", None)
    if close is not None:
        close()


def _encode(
    first: TransferProgress | None,
    steps: Iterator[Tick | TransferProgress],
    client: Client,
    mode: Mode,
    unmoved: Callable[[], str],
) -> Generator[bytes, None, None]:
    moved = False
    try:
        if first is not None:
            moved = bool(first.layer)
            yield _line(first, mode)
        for step in steps:
            client.check(now=isinstance(step, Tick))
            if isinstance(step, TransferProgress):
                moved = moved or bool(step.layer)
                yield _line(step, mode)
        yield _end("success", _DONE[mode] if moved else unmoved(), mode)
    except ClientGone:
        log.debug("the client left during a %s", mode)
    except DmrError as error:
        yield _end("error", f"Error: {error.message}", mode)
    except Exception:
        log.exception("a %s failed", mode)
        yield _end("error", f"Error: {InternalError('something went wrong here').message}", mode)


def _line(step: TransferProgress, mode: Mode) -> bytes:
    message = step.message or f"{_MOVED[mode]}: {step.layer_done / 1e6:.2f} MB"
    layer = WireLayer(step.layer, step.layer_size, step.layer_done) if step.layer else WireLayer(size=0, current=0)
    kind: Literal["progress", "warning"] = "warning" if step.is_warning else "progress"
    return msgspec.json.encode(WireStep(kind, message, step.total, layer, mode)) + b"\n"


def _end(kind: Literal["success", "error"], message: str, mode: Mode) -> bytes:
    return msgspec.json.encode(WireStep(kind, message, 0, WireLayer(size=0, current=0), mode)) + b"\n"
