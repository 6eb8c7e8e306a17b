"""Docker Model Runner's `_configure`: how models are to run, one by one (its scheduling API)."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Union

import falcon
import msgspec
from msgspec import UNSET, UnsetType, field

from dmr.config import Settings
from dmr.errors import InvalidRequest, Unsupported
from dmr.types import ConfigurationChange, ConfiguredModel, Mode, ModelConfiguration
from dmr_server.bodies import read_json
from dmr_server.docker import BACKEND, DockerDialect, go_duration
from dmr_server.errors import RouteNotFound

if TYPE_CHECKING:
    from dmr.service import Service

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"[+-]?(?:(?:{_PART.pattern})+|0)", re.ASCII)
_LONGEST = (2**63 - 1) * 1e-9  # seconds that Go can count


class Speculation(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    draft_model: Union[str, UnsetType, None] = UNSET
    num_tokens: Union[int, UnsetType, None] = UNSET
    min_acceptance_rate: Union[float, UnsetType, None] = UNSET


class LlamaCpp(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    reasoning_budget: Union[int, UnsetType, None] = field(default=UNSET, name="reasoning-budget")


class ConfigureRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field that is left out stays as it is; null takes it back. One that nobody knows is refused, not ignored."""

    model: str = ""
    mode: Union[str, None] = None
    context_size: Union[int, UnsetType, None] = field(default=UNSET, name="context-size")
    runtime_flags: Union[list[str], UnsetType, None] = field(default=UNSET, name="runtime-flags")
    raw_runtime_flags: Union[str, None] = field(default=None, name="raw-runtime-flags")
    speculative: Union[Speculation, UnsetType, None] = UNSET
    keep_alive: Union[str, UnsetType, None] = UNSET
    llamacpp: Union[LlamaCpp, UnsetType, None] = UNSET
    vllm: Union[dict[str, Any], None] = None


class WireConfiguration(msgspec.Struct, frozen=True, omit_defaults=True):
    context_size: Union[int, UnsetType] = field(default=UNSET, name="context-size")
    runtime_flags: Union[tuple[str, ...], UnsetType] = field(default=UNSET, name="runtime-flags")
    speculative: Union[Speculation, UnsetType] = UNSET
    keep_alive: Union[str, UnsetType] = UNSET
    llamacpp: Union[LlamaCpp, UnsetType] = UNSET


class ConfigurationEntry(msgspec.Struct, frozen=True, rename="pascal"):
    backend: str
    model: str
    model_id: str = field(name="ModelID")
    mode: str
    config: WireConfiguration


class ConfigurationReset(msgspec.Struct, frozen=True):
    reset: int


class Configuration:
    """GET, POST and DELETE /engines/_configure; only POST is upstream's with a backend in the path."""

    dialect = DockerDialect()

    def __init__(self, service: Service, max_body_bytes: int) -> None:
        self._service = service
        self._max_body_bytes = max_body_bytes

    def on_get(self, req: falcon.Request, resp: falcon.Response, backend: str = BACKEND) -> None:
        _check_backend(backend)
        entries = self._service.configurations.shown(req.get_param("model") or None)
        resp.data = msgspec.json.encode([to_entry(configured) for configured in entries])

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response, backend: str = BACKEND) -> None:
        """Answers as soon as it is kept; the model is loaded anew afterwards."""
        body = read_json(req, self._max_body_bytes)
        _check_backend(backend)
        try:
            wanted = msgspec.convert(body, ConfigureRequest)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"invalid request: {error}") from None
        if not wanted.model:
            raise InvalidRequest("invalid request: model is missing", param="model")
        configurations = self._service.configurations
        flags = tuple(wanted.runtime_flags or ())
        if not flags and wanted.raw_runtime_flags:
            flags = configurations.split_flags(wanted.raw_runtime_flags)
        configurations.change(wanted.model, _mode(wanted.mode), _change(wanted, flags))
        resp.status = falcon.HTTP_202

    def on_delete(self, req: falcon.Request, resp: falcon.Response, backend: str = BACKEND) -> None:
        """Ours. Without a model, the configurations of all go."""
        _check_backend(backend)
        model, mode = req.get_param("model") or None, _mode(req.get_param("mode"))
        resp.data = msgspec.json.encode(ConfigurationReset(self._service.configurations.reset(model, mode)))


def routes(service: Service, settings: Settings) -> dict[str, object]:
    resource = Configuration(service, settings.max_body_bytes)
    return {"/engines/_configure": resource, "/engines/{backend}/_configure": resource}


def to_entry(configured: ConfiguredModel) -> ConfigurationEntry:
    """A configuration as `GET /engines/_configure` shows it."""
    return ConfigurationEntry(
        backend=configured.backend,
        model=configured.reference,
        model_id=configured.model_id,
        mode=configured.mode.value,
        config=_to_wire(configured.configuration),
    )


def read_keep_alive(text: str) -> float:
    """Seconds of a Go duration ("10m", "1h30m", "0"); any negative one is for ever, and so is "-1".

    Raises InvalidRequest.
    """
    if text == "-1":
        return -1.0
    if not _DURATION.fullmatch(text):
        raise InvalidRequest(
            f'invalid request: invalid keep_alive "{text[:40]}": a duration like "10m", "0", or "-1" for ever',
            param="keep_alive",
        )
    seconds = math.fsum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return -1.0 if (text.startswith("-") and seconds) or seconds > _LONGEST else seconds


def _check_backend(backend: str) -> None:
    if backend != BACKEND:
        raise RouteNotFound("backend not found")


def _mode(text: str | None) -> Mode | None:
    if text == "image-generation":
        raise Unsupported("invalid request: no model makes pictures here", param="mode")
    try:
        return Mode(text) if text else None
    except ValueError:
        known = ", ".join(mode.value for mode in Mode)
        raise InvalidRequest(
            f'invalid request: unknown mode "{str(text)[:40]}": known are {known}', param="mode"
        ) from None


def _change(wanted: ConfigureRequest, flags: tuple[str, ...]) -> ConfigurationChange:
    if wanted.vllm:
        raise Unsupported(f"the vllm settings have no effect: the only engine here is {BACKEND}", param="vllm")
    speculation, llamacpp = wanted.speculative, wanted.llamacpp
    if speculation is None:
        speculation = Speculation(None, None, None)
    if llamacpp is None:
        llamacpp = LlamaCpp(None)
    keep_alive = wanted.keep_alive
    return ConfigurationChange(
        # 0 and "" are Go's words for nothing.
        context_size=wanted.context_size or _none_or_unset(wanted.context_size),
        runtime_flags=flags or _none_or_unset(wanted.runtime_flags),
        drops_flags=not wanted.runtime_flags and wanted.runtime_flags is not UNSET,
        draft_model=_field(speculation, "draft_model"),
        max_draft_tokens=_field(speculation, "num_tokens"),
        least_draft_probability=_field(speculation, "min_acceptance_rate"),
        keep_alive=read_keep_alive(keep_alive) if isinstance(keep_alive, str) else keep_alive,
        reasoning_budget=UNSET if llamacpp is UNSET else llamacpp.reasoning_budget,
    )


def _none_or_unset(value: object) -> UnsetType | None:
    return UNSET if value is UNSET else None


def _field(speculation: Speculation | UnsetType, name: str) -> Any:
    if speculation is UNSET:
        return UNSET
    value = getattr(speculation, name)
    return value or _none_or_unset(value)


def _to_wire(configuration: ModelConfiguration) -> WireConfiguration:
    speculation = Speculation(
        _or_unset(configuration.draft_model),
        _or_unset(configuration.max_draft_tokens),
        _or_unset(configuration.least_draft_probability),
    )
    budget, keep_alive = configuration.reasoning_budget, configuration.keep_alive
    return WireConfiguration(
        context_size=_or_unset(configuration.context_size),
        runtime_flags=configuration.runtime_flags or UNSET,
        speculative=UNSET if speculation == Speculation() else speculation,
        keep_alive=UNSET if keep_alive is None else go_duration(keep_alive),
        llamacpp=UNSET if budget is None else LlamaCpp(budget),
    )


def _or_unset(value: Any) -> Any:
    return UNSET if value is None else value
