"""Docker Model Runner's own routes: the store's models and what is loaded. Errors are lines of text, as upstream."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Union

import falcon
import msgspec
from msgspec import UNSET, UnsetType

from dmr.config import Settings
from dmr.errors import DmrError, InvalidRequest, ModelNotFound, RemoteModelNotFound
from dmr.types import ModelConfig, ModelRecord, Removal, RunningModel
from dmr_server import docker_archives, docker_transfers, health
from dmr_server.bodies import open_body, read_json
from dmr_server.errors import RouteNotFound, row_of

if TYPE_CHECKING:
    from dmr.service import Service

BACKEND = "llama.cpp"
NEVER = "0001-01-01T00:00:00Z"  # Go's zero time
encode = msgspec.json.encode


class DockerDialect:
    """One line of text. `action` begins it, as in `error while getting model: model not found`."""

    media_type = "text/plain; charset=utf-8"

    def __init__(self, action: str = "") -> None:
        self._action = action

    def error(self, error: DmrError, request_id: str) -> tuple[int, bytes]:
        text = "model not found" if isinstance(error, (ModelNotFound, RemoteModelNotFound)) else error.message
        return row_of(error).status, f"{self._action}{text}\n".encode()


class WireModel(msgspec.Struct, frozen=True):
    id: str
    tags: Union[tuple[str, ...], UnsetType]
    created: int
    config: ModelConfig
    capabilities: Union[tuple[str, ...], UnsetType] = UNSET  # ours; of one that is looked at


class WireRunning(msgspec.Struct, frozen=True, omit_defaults=True):
    backend_name: str
    model_name: str
    mode: str
    last_used: str
    in_use: bool = False
    loading: bool = False
    keep_alive: str = ""
    loading_progress: Union[float, None] = None  # ours: 0..1, while it loads


class WireUsage(msgspec.Struct, frozen=True):
    """Bytes. The first is the whole store, as upstream has it; the last two are parts of it, and ours."""

    models_disk_usage: int
    default_backend_disk_usage: int
    incomplete_disk_usage: int
    reclaimable_disk_usage: int


class Unload(msgspec.Struct, frozen=True):
    all: Union[bool, None] = None
    backend: Union[str, None] = None
    models: Union[list[str], None] = None


class Models:
    """GET /models"""

    dialect = DockerDialect()

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = encode([to_model(record) for record in self._service.list_models()])

    on_head = on_get


class Model:
    """GET, DELETE /models/{name} and the actions that are posted to a last segment. A name may end in anything."""

    dialect = DockerDialect()

    def __init__(self, service: Service, max_body_bytes: int) -> None:
        self._service = service
        self._max_body_bytes = max_body_bytes

    def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        req.context.dialect = DockerDialect("error while getting model: ")
        if docker_archives.is_export(name, self._service):
            req.context.dialect = DockerDialect("error while exporting model: ")
            docker_archives.export(req, resp, self._service, name.removesuffix("/export"))
        elif _is_set(req, "remote"):
            resp.data = encode(to_model(self._service.remote_models.get(name)))
        else:
            record = self._service.get_model(name)
            resp.data = encode(to_model(record, self._service.capabilities(record)))

    on_head = on_get

    def on_delete(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        req.context.dialect = DockerDialect("error while deleting model: ")
        if name == "purge":
            req.context.dialect = DockerDialect("error while purging models: ")
            docker_archives.purge(resp, self._service, _is_set(req, "force"))
            return
        resp.data = encode(to_removal(self._service.remove_model(name, _is_set(req, "force"))))

    def on_post(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        model, _, action = name.rpartition("/")
        if name == "import":
            self._import(req, resp)
        elif name == "create":
            docker_transfers.pull(req, resp, self._service, self._max_body_bytes)
        elif name == "load":
            req.context.dialect = DockerDialect("error while loading model: ")
            docker_archives.load(req, resp, self._service)
        elif action == "repackage" and model:
            req.context.dialect = DockerDialect("error while repackaging model: ")
            docker_archives.repackage(req, resp, self._service, model, self._max_body_bytes)
        elif action == "push" and model:
            docker_transfers.push(req, resp, self._service, model, self._max_body_bytes)
        elif action == "tag" and model:
            self._tag(req, resp, model)
        else:
            raise RouteNotFound(f'unknown action "{action}"')

    def _tag(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        req.context.dialect = DockerDialect("error while tagging model: ")
        repository, tag = req.get_param("repo"), req.get_param("tag")
        if not repository or not tag:
            raise InvalidRequest("missing repo or tag query parameter", param="repo")
        target = f"{repository}:{tag}"
        self._service.copy_model(name, target)
        resp.status = falcon.HTTP_201
        resp.data = encode({"message": f'Model tagged successfully with "{target}"', "target": target})

    def _import(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The body is a GGUF file; it goes to the store piece by piece."""
        req.context.dialect = DockerDialect("error while importing model: ")
        reference = req.get_param("reference")
        if not reference:
            raise InvalidRequest("missing reference query parameter", param="reference")
        body, size = open_body(req)
        if size == 0:
            raise InvalidRequest("the request body is empty; a GGUF file is expected")
        resp.data = encode(to_model(self._service.import_gguf(body, size, reference)))
        resp.status = falcon.HTTP_201


class Running:
    """GET /engines/ps"""

    dialect = DockerDialect()

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = encode([to_running(model) for model in self._service.running_models()])

    on_head = on_get


class Unloading:
    """POST /engines/unload"""

    dialect = DockerDialect("invalid request: ")

    def __init__(self, service: Service, max_body_bytes: int) -> None:
        self._service = service
        self._max_body_bytes = max_body_bytes

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        body = read_json(req, self._max_body_bytes)
        try:
            wanted = msgspec.convert(body, Unload)
        except msgspec.ValidationError as error:
            raise InvalidRequest(str(error)) from None
        resp.data = encode({"unloaded_runners": self._unload(wanted)})

    def _unload(self, wanted: Unload) -> int:
        if wanted.backend not in (None, "", BACKEND):
            return 0
        if wanted.all:
            return self._service.unload_models(None)
        num_unloaded: int = 0
        for reference in wanted.models or ():
            with suppress(ModelNotFound):  # what is not there is not loaded
                num_unloaded += self._service.unload_models([reference])
        return num_unloaded


class DiskUsage:
    """GET /engines/df"""

    dialect = DockerDialect("Failed to get models disk usage: ")

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        usage = self._service.storekeeping.usage()
        # The engine is a part of this program, so it takes no room of its own.
        resp.data = encode(WireUsage(usage.total, 0, usage.unfinished, usage.reclaimable))

    on_head = on_get


class Version:
    """GET /version"""

    dialect = DockerDialect()

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = encode(self._service.versions())

    on_head = on_get


class Root:
    """GET /"""

    dialect = DockerDialect()

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = DockerDialect.media_type
        resp.data = b"Docker Model Runner is running"

    on_head = on_get


def routes(service: Service, settings: Settings) -> dict[str, object]:
    """Docker Model Runner's own routes, and the health checks."""
    return {
        "/": Root(),
        "/health": health.Health(),
        "/ready": health.Ready(service),
        "/version": Version(service),
        "/models": Models(service),
        "/models/{name:model}": Model(service, settings.max_body_bytes),
        "/engines/df": DiskUsage(service),
        "/engines/ps": Running(service),
        "/engines/unload": Unloading(service, settings.max_body_bytes),
    }


def to_model(record: ModelRecord, capabilities: tuple[str, ...] = ()) -> WireModel:
    """A model as `GET /models` shows it; `tags` is left out when there are none."""
    return WireModel(record.id, record.tags or UNSET, record.created, record.config, capabilities or UNSET)


def to_removal(removal: Removal) -> list[Mapping[str, str]]:
    """What `DELETE /models/{name}` did, one object a step."""
    untagged: list[Mapping[str, str]] = [{"Untagged": tag} for tag in removal.untagged]
    return [*untagged, *({"Deleted": id} for id in removal.deleted)]


def to_running(model: RunningModel) -> WireRunning:
    """A loaded model as `GET /engines/ps` shows it; a busy one has no time of last use."""
    loading = model.state == "loading"
    idle = not loading and model.num_active == 0
    return WireRunning(
        backend_name=BACKEND,
        model_name=model.reference,
        mode="completion",
        last_used=_timestamp(model.last_used) if idle else NEVER,
        in_use=model.num_active > 0,
        loading=loading,
        keep_alive=go_duration(model.keep_alive),
        loading_progress=round(model.progress, 2) if loading and model.progress < 1 else None,
    )


def _timestamp(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc).isoformat()
    return moment.replace("+00:00", "Z")


def go_duration(seconds: float) -> str:
    """Seconds as Go prints them (`5m0s`), "-1" for ever."""
    if seconds < 0:
        return "-1"
    milliseconds = round(seconds * 1000)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _is_set(req: falcon.Request, name: str) -> bool:
    """Present and empty, or one of Go's words for true."""
    value = req.get_param(name)
    return value is not None and value in ("", "1", "t", "T", "true", "TRUE", "True")
