"""Docker Model Runner's routes for whole models: load, export, repackage and purge (its distribution API)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Union
from urllib.parse import quote

import falcon
import msgspec

from dmr.errors import InvalidReference, InvalidRequest, ModelNotFound
from dmr.types import Repackaging
from dmr_server.bodies import open_body, parse_json, read_body
from dmr_server.docker_transfers import WireLayer

if TYPE_CHECKING:
    from dmr.service import Service

TAR = "application/x-tar"


class LoadedLine(msgspec.Struct, frozen=True, kw_only=True):
    """The one line of an answer. `id` and `tags` are ours, so that nobody has to look for what was loaded."""

    type: Literal["success"] = "success"
    message: str = "Model loaded successfully"
    total: int = 0
    layer: WireLayer = WireLayer(size=0, current=0)
    mode: Literal["pull"] = "pull"
    id: str
    tags: tuple[str, ...]


class RepackageRequest(msgspec.Struct, frozen=True):
    """`mmproj` is the digest of a file that was uploaded. All but target and context_size are ours."""

    target: str = ""
    context_size: Union[int, None] = None
    chat_template: Union[str, None] = None
    licenses: tuple[str, ...] = ()
    mmproj: str = ""
    format: str = ""


class Repackaged(msgspec.Struct, frozen=True):
    message: str
    source: str
    target: str


def load(req: falcon.Request, resp: falcon.Response, service: Service) -> None:
    """POST /models/load: the body goes to the store piece by piece."""
    body, size = open_body(req)
    if size == 0:
        raise InvalidRequest("the request body is empty; a tar archive is expected")
    record = service.storekeeping.load(body, req.get_param("reference") or "")
    resp.content_type = falcon.MEDIA_JSON if req.get_header("Accept") == falcon.MEDIA_JSON else falcon.MEDIA_TEXT
    resp.data = msgspec.json.encode(LoadedLine(id=record.id, tags=record.tags)) + b"\n"


def is_export(name: str, service: Service) -> bool:
    """Whether the name ends in the action, and is not as a whole that of a model."""
    model, _, action = name.rpartition("/")
    if not model or action != "export":
        return False
    try:
        service.get_model(name)
    except (ModelNotFound, InvalidReference):
        return True
    with suppress(ModelNotFound):  # both are models: the action goes first, as upstream
        service.get_model(model)
        return True
    return False


def export(req: falcon.Request, resp: falcon.Response, service: Service, name: str) -> None:
    """GET /models/{name}/export"""
    archive = service.storekeeping.export(name)
    resp.content_type = TAR
    resp.content_length = archive.size
    resp.set_header("Content-Disposition", _attachment(f"{name}.tar"))
    if req.method == "HEAD":
        archive.close()
    else:
        resp.stream = _Pieces(archive)


class _Pieces:
    def __init__(self, archive: Any) -> None:
        self._archive = archive

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._archive)

    def close(self) -> None:
        self._archive.close()


def _attachment(file_name: str) -> str:
    """A name that any header may hold, and the true one for who can read that."""
    plain = re.sub(r"[^ !#-\[\]-~]", "_", file_name)
    encoded = "" if plain == file_name else f"; filename*=UTF-8''{quote(file_name, safe='')}"
    return f'attachment; filename="{plain}"{encoded}'


def repackage(req: falcon.Request, resp: falcon.Response, service: Service, name: str, max_body_bytes: int) -> None:
    """POST /models/{name}/repackage"""
    try:
        wanted = msgspec.convert(parse_json(read_body(req, max_body_bytes)), RepackageRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"invalid request body: {error}") from None
    if not wanted.target:
        raise InvalidRequest("target is required", param="target")
    wish = Repackaging(
        target=wanted.target,
        context_size=wanted.context_size or None,  # upstream's clients send 0 for none
        chat_template=wanted.chat_template,
        mmproj=wanted.mmproj,
        licenses=wanted.licenses,
        format=wanted.format,
    )
    service.storekeeping.repackage(name, wish)
    message = f'Model repackaged successfully as "{wanted.target}"'
    resp.status = falcon.HTTP_201
    resp.data = msgspec.json.encode(Repackaged(message, name, wanted.target))


def purge(resp: falcon.Response, service: Service, force: bool) -> None:
    """DELETE /models/purge"""
    service.storekeeping.purge(force)
    resp.data = b""
