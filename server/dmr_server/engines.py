"""What there is to say of engines: their state, and what becomes of a wish to install one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

import falcon
import msgspec

from dmr.config import Settings
from dmr.errors import DmrError, InvalidRequest, Unsupported
from dmr_server.bodies import read_json
from dmr_server.docker import BACKEND, DockerDialect
from dmr_server.errors import RouteNotFound

if TYPE_CHECKING:
    from dmr.service import Service

# Docker Model Runner's other engines. None of them is a part of this program.
FOREIGN = ("diffusers", "mlx", "sglang", "vllm")


class BackendRequest(msgspec.Struct, frozen=True):
    backend: Union[str, None] = None
    version: Union[str, None] = None


class Status:
    """GET /engines/status"""

    dialect = DockerDialect()

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        commit = self._service.versions().get("llama_cpp_commit", "version unknown")
        states = {
            name: f"Running: {state.detail}" if state.is_up else f"Error: {state.detail}"
            for name, state in self._service.upstreams.states().items()
        }
        resp.data = msgspec.json.encode({BACKEND: f"Running: {BACKEND} {commit}{self._held_back()}", **states})

    on_head = on_get

    def _held_back(self) -> str:
        """What is to be said of models whose engines have crashed too often to be started now."""
        try:
            models = self._service.lifecycle().models
        except DmrError:
            return ""
        held = [f"{each.reference} ({each.state}, {each.retry_after:.0f} s)" for each in models if each.retry_after > 0]
        return f"; held back after crashes: {', '.join(held)}" if held else ""


class Installation:
    """POST /engines/install-backend and /engines/uninstall-backend: nothing is ever installed, which is told."""

    dialect = DockerDialect("invalid request: ")

    def __init__(self, service: Service, max_body_bytes: int, *, removes: bool) -> None:
        self._service = service
        self._max_body_bytes = max_body_bytes
        self._removes = removes

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        try:
            wanted = msgspec.convert(read_json(req, self._max_body_bytes), BackendRequest)
        except msgspec.ValidationError as error:
            raise InvalidRequest(str(error)) from None
        if not wanted.backend:
            raise InvalidRequest("backend is required", param="backend")
        req.context.dialect = DockerDialect()
        if self._service.upstreams.get(wanted.backend) is not None:
            self._refuse_to_remove(f"'{wanted.backend}' is an engine of the settings: take its table out of the file")
        elif wanted.backend == BACKEND:
            self._check_version(wanted.version)
            self._refuse_to_remove(f"{BACKEND} is built in: it cannot be removed, /engines/unload frees its memory")
        elif wanted.backend in FOREIGN:
            raise Unsupported(self._told_of_foreign(wanted.backend), param="backend")
        else:
            raise RouteNotFound("backend not found")

    def _refuse_to_remove(self, reason: str) -> None:
        """What is there already is installed; nothing is to be done for that."""
        if self._removes:
            raise Unsupported(f"backend uninstall failed: {reason}", param="backend")

    def _check_version(self, version: str | None) -> None:
        commit = self._service.versions().get("llama_cpp_commit", "")
        if not self._removes and version not in (None, "", "latest", commit):
            raise Unsupported(
                f"backend installation failed: {BACKEND} {commit} is built in, another version cannot be had",
                param="version",
            )

    def _told_of_foreign(self, backend: str) -> str:
        if self._removes:
            return f"backend uninstall failed: {backend} is not installed"
        return (
            f"backend installation failed: {backend} is not run by this server; start it by itself and name its "
            f"address in the settings under [engines.{backend}]"
        )


def routes(service: Service, settings: Settings) -> dict[str, object]:
    limit = settings.max_body_bytes
    return {
        "/engines/status": Status(service),
        "/engines/install-backend": Installation(service, limit, removes=False),
        "/engines/uninstall-backend": Installation(service, limit, removes=True),
    }
