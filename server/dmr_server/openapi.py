"""GET /openapi.json: every route as an OpenAPI 3.1 document, made from the types that bodies and answers have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import falcon
import msgspec

from dmr_server import docker_operations
from dmr_server.anthropic import operations as anthropic
from dmr_server.dialect import EVENT_STREAM
from dmr_server.docker import DockerDialect
from dmr_server.generation import BACKEND
from dmr_server.handling import Field, Route
from dmr_server.ollama import operations as ollama
from dmr_server.openai import operations as openai
from dmr_server.openai.missing import NotServed, StoredChat
from dmr_server.operation import ANYWHERE, BAD_NAME, IN_BODY, JSON, Operation, Parameter, Surface
from dmr_server.responses import operations as responses

if TYPE_CHECKING:
    from dmr.service import Service

Schema = dict[str, Any]

SURFACES = (docker_operations.SURFACE, openai.SURFACE, responses.SURFACE, anthropic.SURFACE, ollama.SURFACE)
DESCRIPTION = (
    "The APIs of several model servers on one port. Unknown fields of a JSON body are ignored and a null is the same "
    "as a field that is not there. Addresses that are known and not served (images, audio, files …) answer 501 and are "
    "not listed."
)
_CONVERTER = re.compile(r"\{(\w+)(?::\w+)?\}")
_PATH_PARAMETERS: Mapping[str, str] = {
    "name": "a model's name; slashes may be sent as they are",
    "backend": "the engine's name",
    "response_id": "an answer's id",
    "digest": "a blob's digest",
}


class OpenApi:
    """The document is written when it is asked for first."""

    dialect = DockerDialect()

    def __init__(self, service: Service, table: Mapping[str, object]) -> None:
        self._service = service
        self._table = table

    @cached_property
    def _document(self) -> bytes:
        return msgspec.json.encode(document(self._table, self._service.versions().get("version", "unknown")))

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.data = self._document

    on_head = on_get


def document(table: Mapping[str, object], version: str) -> Schema:
    """The OpenAPI document of a route table."""
    tables: dict[type, dict[str, object]] = {type(surface.dialect): {} for surface in SURFACES}
    for template, resource in sorted(table.items()):
        if not isinstance(resource, (NotServed, StoredChat)):
            tables[type(getattr(resource, "dialect", SURFACES[0].dialect))][template] = resource
    writers = [_Writer(surface, tables[type(surface.dialect)]) for surface in SURFACES]
    paths = {path: item for writer in writers for path, item in writer.paths()}
    schemas = {name: schema for writer in writers for name, schema in sorted(writer.schemas.items())}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dmr",
            "version": version,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"key": []}],  # none, unless the server has a file of keys
        "tags": [{"name": surface.name, "description": surface.description} for surface in SURFACES],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "responses": {f"{writer.surface.name}.Error": writer.error for writer in writers},
        },
    }


class _Writer:
    """Writes the paths of one surface. `schemas` are its components, each named after the surface."""

    def __init__(self, surface: Surface, table: Mapping[str, object]) -> None:
        self.surface = surface
        self._table = table
        self._kinds = list(_kinds(surface))
        template = f"#/components/schemas/{surface.name}.{{name}}"
        found, components = msgspec.json.schema_components(self._kinds, ref_template=template)
        # Types may have no hash, so they are told apart by identity.
        self._found = {id(kind): schema for kind, schema in zip(self._kinds, found, strict=True)}
        self.schemas: Schema = {f"{surface.name}.{name}": schema for name, schema in components.items()}
        for path, methods in [*surface.operations.items(), *surface.actions.items()]:
            for operation in methods.values():
                if operation.body is not None:
                    self.schemas[self._body_name(path)] = self._body(path, operation)

    @property
    def error(self) -> Schema:
        """What every error answer of this surface is."""
        kind = self.surface.error
        schema = {"type": "string"} if kind is None else self._schema(kind)
        waiting = {"description": "seconds, where waiting helps", "schema": {"type": "integer"}}
        return {
            "description": "What went wrong.",
            "headers": {"Retry-After": waiting},
            "content": {_plain(self.surface.dialect.media_type): {"schema": schema}},
        }

    def paths(self) -> Iterator[tuple[str, Schema]]:
        """Path and path item of each route and of each action."""
        for template, resource in self._table.items():
            root, path = self._split(template)
            methods = self.surface.operations[path]
            item = self._item(_written(template), path, methods, with_head=hasattr(resource, "on_head"))
            usual = next(each for each in self.surface.roots if each + path in self._table)
            if usual != root:
                item["x-alias-of"] = _written(usual + path)
            yield _written(template), item
        for path, methods in self.surface.actions.items():
            yield path, self._item(path, path, methods, with_head=False)

    def _split(self, template: str) -> tuple[str, str]:
        """Root and rest of a route."""
        for root in sorted(self.surface.roots, key=len, reverse=True):
            rest = template[len(root) :]
            if template.startswith(root) and rest in self.surface.operations:
                return root, rest
        raise LookupError(f"{template} is not described in the operations of {self.surface.name}")

    def _item(self, written: str, path: str, methods: Mapping[str, Operation], with_head: bool) -> Schema:
        item: Schema = {}
        for method, operation in methods.items():
            told = self._operation(written, path, method, operation)
            item[method] = _head(told) if method == "head" else told
            if method == "get" and with_head:
                item["head"] = _head(self._operation(written, path, "head", operation))
        if names := re.findall(r"\{(\w+)\}", written):
            item["parameters"] = [_path_parameter(name) for name in names]
        return item

    def _operation(self, written: str, path: str, method: str, operation: Operation) -> Schema:
        told: Schema = {
            "operationId": _identifier(f"{method}{written}"),
            "tags": [self.surface.name],
            "summary": operation.summary,
        }
        if description := " ".join(route.summary for route in self._tables(path, operation)):
            told["description"] = description
        if operation.query:
            told["parameters"] = [self._query(parameter) for parameter in operation.query]
        if operation.upload:
            told["requestBody"] = {"required": True, "content": {operation.upload: {"schema": {}}}}
        if operation.body is not None:
            reference = {"$ref": f"#/components/schemas/{self._body_name(path)}"}
            told["requestBody"] = {"required": True, "content": {JSON: {"schema": reference}}}
        told["responses"] = self._responses(operation, "{" in written)
        return told

    def _responses(self, operation: Operation, has_names: bool) -> Schema:
        responses: Schema = {str(operation.status): self._success(operation)}
        for status, kind in operation.own_statuses.items():
            told: Schema = {"description": HTTPStatus(status).phrase}
            responses[str(status)] = told if kind is None else {**told, "content": self._content(kind)}
        errors = [*ANYWHERE, *operation.errors, *(BAD_NAME if has_names else ())]
        errors += IN_BODY if operation.body is not None or operation.upload else ()
        for status in sorted({self.surface.dialect.error(error, "")[0] for error in errors}):
            responses.setdefault(str(status), {"$ref": f"#/components/responses/{self.surface.name}.Error"})
        return responses

    def _success(self, operation: Operation) -> Schema:
        told: Schema = {"description": HTTPStatus(operation.status).phrase}
        content = {} if operation.answer is None else self._content(operation.answer, operation.answer_type)
        if operation.stream is not None:
            item = self._schema(operation.stream)
            content[operation.stream_type] = {"schema": self._streamed(operation.stream_type, item)}
        return {**told, "content": content} if content else told

    def _streamed(self, media_type: str, item: Schema) -> Schema:
        """What a stream is made of. OpenAPI 3.1 has no word for it: events are told as 3.2 does, lines in a key."""
        if media_type != EVENT_STREAM:
            return {"type": "string", "description": "lines of JSON", "x-item-schema": item}
        data: Schema = {"contentMediaType": JSON, "contentSchema": item}
        if self.surface.last_event:
            data = {"anyOf": [{"const": self.surface.last_event}, data]}
        return {
            "type": "object",
            "description": "one event of the stream",
            "properties": {"event": {"type": "string"}, "data": {"type": "string", **data}},
        }

    def _content(self, kind: Any, media_type: str = JSON) -> Schema:
        return {media_type: {"schema": self._schema(kind)}}

    def _query(self, parameter: Parameter) -> Schema:
        return {
            "name": parameter.name,
            "in": "query",
            "description": parameter.description,
            "required": parameter.required,
            "schema": self._schema(parameter.type),
        }

    def _schema(self, kind: Any) -> Schema:
        if isinstance(kind, tuple):
            return {"anyOf": [self._schema(each) for each in kind]}
        return self._found[id(kind)]

    def _tables(self, path: str, operation: Operation) -> list[Route]:
        """The tables of fields for an operation, whatever root they name it with."""
        paths = {root + (operation.like or path) for root in self.surface.roots}
        return [route for route in self.surface.handling if route.path in paths]

    def _body_name(self, path: str) -> str:
        return f"{self.surface.name}.{_identifier(path) or 'create'}.Request"

    def _body(self, path: str, operation: Operation) -> Schema:
        """The schema of a JSON body: its type, further fields, and what becomes of each."""
        reference = self._schema(operation.body)["$ref"]
        body = msgspec.json.decode(msgspec.json.encode(self.schemas[reference.rpartition("/")[2]]))
        properties = body.setdefault("properties", {})
        for name, kind in operation.more.items():
            properties[name] = dict(self._schema(kind))
        for route in self._tables(path, operation):
            for name, field in route.fields.items():
                _describe(body, name, field)
        return {**body, "title": self._body_name(path)}


def _kinds(surface: Surface) -> Iterator[Any]:
    """Every type that a surface names."""
    yield from _each(surface.error)
    for methods in [*surface.operations.values(), *surface.actions.values()]:
        for operation in methods.values():
            yield from _each(operation.answer)
            yield from _each(operation.body)
            yield from _each(operation.stream)
            yield from operation.more.values()
            yield from (kind for kind in operation.own_statuses.values() if kind is not None)
            yield from (parameter.type for parameter in operation.query)


def _each(kind: Any) -> tuple[Any, ...]:
    if kind is None:
        return ()
    return kind if isinstance(kind, tuple) else (kind,)


def _describe(schema: Schema, name: str, field: Field) -> None:
    """Tell of a field (`a.b` = b inside of a) what becomes of it."""
    first, _, rest = name.partition(".")
    inner = schema.setdefault("properties", {}).setdefault(first, {})
    if rest:
        _describe(inner, rest, field)
        return
    inner.setdefault("x-handling", field.status)
    if field.note:
        inner.setdefault("description", field.note)
    if field.status != "refused":
        inner.setdefault("examples", [field.example])


def _head(told: Schema) -> Schema:
    """The same without any body."""
    responses = {status: {"description": "As with GET, without a body."} for status in told["responses"]}
    return {**told, "summary": f"{told['summary']}: the headers alone", "responses": responses}


def _path_parameter(name: str) -> Schema:
    schema: Schema = {"type": "string", "minLength": 1}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": _PATH_PARAMETERS[name],
        "schema": {"enum": [BACKEND]} if name == "backend" else schema,
    }


def _written(template: str) -> str:
    """A route as OpenAPI writes it: without converters."""
    return _CONVERTER.sub(r"{\1}", template)


def _identifier(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_")


def _plain(media_type: str) -> str:
    return media_type.partition(";")[0]
