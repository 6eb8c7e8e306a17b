"""/openapi.json: valid, whole, and true to the tables that it is made of."""

from __future__ import annotations

import json
from typing import Any, cast

import falcon.testing
import pytest
from fakes import FakeService
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from dmr.config import Settings
from dmr_server.app import create_app, routes
from dmr_server.generation import Stamps
from dmr_server.openai.missing import NotServed, StoredChat
from dmr_server.openapi import SURFACES, document

METHODS = ("get", "head", "post", "put", "patch", "delete")
TABLE = routes(cast(Any, FakeService()), Settings(), Stamps())
DOCUMENT = json.loads(json.dumps(document(TABLE, "0")))
ACTIONS = {path for surface in SURFACES for path in surface.actions}


def written(template: str) -> str:
    return template.replace(":model}", "}").replace(":path}", "}")


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that can be checked on its own."""
    return {**schema, "components": DOCUMENT["components"]}


def bodies() -> list[Any]:
    """Name and schema of each JSON body, with the tables of its fields."""
    return [
        pytest.param(route, resolved(schema_of(route.path)), id=f"{surface.name}:{route.path}")
        for surface in SURFACES
        for route in surface.handling
    ]


def schema_of(path: str) -> dict[str, Any]:
    content = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]
    return cast(dict[str, Any], content["application/json"]["schema"])


def test_it_is_served(client: falcon.testing.TestClient) -> None:
    result = client.simulate_get("/openapi.json")
    assert (result.status_code, result.headers["content-type"]) == (200, "application/json")
    assert result.json["openapi"] == "3.1.0"
    assert result.json["info"]["version"] == "0.1.0"
    assert result.json["paths"] == DOCUMENT["paths"]
    assert client.simulate_get("/openapi.json").content == result.content


def test_it_is_valid() -> None:
    validate(DOCUMENT)


def test_every_served_route_is_in_it_with_its_methods() -> None:
    served = {
        written(template): {method for method in METHODS if hasattr(resource, f"on_{method}")}
        for template, resource in TABLE.items()
        if not isinstance(resource, (NotServed, StoredChat))
    }
    told = {path: {method for method in METHODS if method in item} for path, item in DOCUMENT["paths"].items()}
    actions = {path: told.pop(path) for path in ACTIONS}
    served["/models/{name}"].discard("post")  # only actions are posted there
    assert told == served
    assert {method for methods in actions.values() for method in methods} <= served["/models/{name}"] | {"post"}


@pytest.mark.parametrize("path", sorted(ACTIONS))
def test_an_action_is_served_by_another_route(
    client: falcon.testing.TestClient, service: FakeService, path: str
) -> None:
    service.enqueue()
    for method in set(METHODS) & set(DOCUMENT["paths"][path]):
        result = client.simulate_request(method.upper(), path.replace("{name}", "ai/smollm2"))
        assert result.status_code in (200, 400), result.text  # not 404: unknown action


def test_aliases_name_an_address_with_the_same_methods() -> None:
    paths = DOCUMENT["paths"]
    aliases = {path: item["x-alias-of"] for path, item in paths.items() if "x-alias-of" in item}
    assert aliases["/engines/{backend}/v1/chat/completions"] == "/v1/chat/completions"
    assert aliases["/messages"] == "/v1/messages"
    assert aliases["/engines/responses"] == "/v1/responses"
    for path, usual in aliases.items():
        assert "x-alias-of" not in paths[usual]
        assert set(METHODS) & set(paths[path]) == set(METHODS) & set(paths[usual])


def test_every_operation_tells_its_errors_in_its_dialects_shape() -> None:
    for path, item in DOCUMENT["paths"].items():
        for method in set(METHODS) & set(item) - {"head"}:
            responses = item[method]["responses"]
            (tag,) = item[method]["tags"]
            error = {"$ref": f"#/components/responses/{tag}.Error"}
            assert responses["500"] == error, path
            if "requestBody" in item[method]:
                assert all(responses[status] == error for status in ("400", "408", "413", "415")), path


def test_anthropics_overload_has_its_own_status() -> None:
    responses = DOCUMENT["paths"]["/v1/messages"]["post"]["responses"]
    assert "529" in responses
    assert "503" not in responses


@pytest.mark.parametrize(
    ("path", "media_types"),
    [
        ("/v1/chat/completions", {"application/json", "text/event-stream"}),
        ("/v1/responses", {"application/json", "text/event-stream"}),
        ("/v1/messages", {"application/json", "text/event-stream"}),
        ("/api/chat", {"application/json", "application/x-ndjson"}),
        ("/v1/embeddings", {"application/json"}),
    ],
)
def test_streams_have_their_media_type(path: str, media_types: set[str]) -> None:
    assert set(DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]) == media_types


@pytest.mark.parametrize(("route", "schema"), bodies())
def test_every_example_is_what_its_schema_says(route: Any, schema: dict[str, Any]) -> None:
    validator = Draft202012Validator(schema)
    validator.validate({"model": "ai/smollm2", **route.body})
    for name, field in route.fields.items():
        if field.status == "refused":
            continue
        body: dict[str, Any] = json.loads(json.dumps({"model": "ai/smollm2", **route.body, **field.base}))
        inner = body
        *parents, last = name.split(".")
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = field.example
        errors = [error.message for error in validator.iter_errors(body)]
        # Inside of an object that needs more than this one field nothing can be said.
        assert not errors or parents, f"{name}: {errors}"


@pytest.mark.parametrize(("route", "schema"), bodies())
def test_every_documented_field_is_there_with_its_handling(route: Any, schema: dict[str, Any]) -> None:
    name = schema["$ref"].removeprefix("#/components/schemas/")
    for field_name, field in route.fields.items():
        inner = DOCUMENT["components"]["schemas"][name]
        for part in field_name.split("."):
            inner = inner["properties"][part]
        assert inner["x-handling"] == field.status


def test_a_route_without_a_description_is_a_defect_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(LookupError, match="/v1/new"):
        document({"/v1/new": TABLE["/v1/models"]}, "0")


def test_the_app_serves_the_document_of_all_its_routes() -> None:
    app = create_app(cast(Any, FakeService()), Settings())
    paths = falcon.testing.TestClient(app).simulate_get("/openapi.json").json["paths"]
    assert "/openapi.json" in paths
