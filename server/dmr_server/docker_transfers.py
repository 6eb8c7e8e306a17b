"""Docker Model Runner's pull and push: one JSON object a line while a model travels (its distribution API)."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Literal, Union

import falcon
import msgspec

from dmr.errors import DmrError, InternalError, InvalidRequest
from dmr.types import Tick, TransferProgress
from dmr_server.bodies import parse_json, read_body
from dmr_server.dialect import Client
from dmr_server.errors import ClientGone

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


class PushRequest(msgspec.Struct, frozen=True):
    token: Union[str, None] = msgspec.field(name="bearer-token", default=None)


def pull(req: falcon.Request, resp: falcon.Response, service: Service, max_body_bytes: int) -> None:
    """POST /models/create"""
    wanted = _read(req, PullRequest, max_body_bytes)
    if not wanted.reference:
        raise InvalidRequest("invalid request body", param="from")
    _stream(req, resp, service.pull(wanted.reference, wanted.token), "pull")


def push(req: falcon.Request, resp: falcon.Response, service: Service, name: str, max_body_bytes: int) -> None:
    """POST /models/{name}/push"""
    wanted = _read(req, PushRequest, max_body_bytes)
    service.get_model(name)
    _stream(req, resp, service.push(name, name, wanted.token), "push")


def _read(req: falcon.Request, kind: type[Any], max_body_bytes: int) -> Any:
    data = read_body(req, max_body_bytes)
    try:
        return msgspec.convert(parse_json(data) if data.strip() else {}, kind)
    except msgspec.ValidationError:
        raise InvalidRequest("invalid request body") from None


def _stream(req: falcon.Request, resp: falcon.Response, steps: Iterator[Tick | TransferProgress], mode: Mode) -> None:
    """What goes wrong before the first step gets a true status code."""
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
    resp.stream = _Lines(_encode(first, steps, client, mode), steps)


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
    first: TransferProgress | None, steps: Iterator[Tick | TransferProgress], client: Client, mode: Mode
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
        yield _end("success", _DONE[mode] if moved or mode == "push" else "Using cached model", mode)
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
    return msgspec.json.encode(WireStep("progress", message, step.total, layer, mode)) + b"\n"


def _end(kind: Literal["success", "error"], message: str, mode: Mode) -> bytes:
    return msgspec.json.encode(WireStep(kind, message, 0, WireLayer(size=0, current=0), mode)) + b"\n"
