"""Every example of the table is sent, over a folder where answers can be kept."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing
import pytest
from fakes import FakeService

from dmr.types import TokenCount
from dmr_server.handling import Field, Route
from dmr_server.responses.handling import HANDLING

CASES = [
    pytest.param(route, name, field, id=f"{route.path}:{name}")
    for route in HANDLING
    for name, field in route.fields.items()
]


def with_field(body: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    body = json.loads(json.dumps(body))
    inner = body
    *parents, last = name.split(".")
    for parent in parents:
        inner = inner.setdefault(parent, {})
    inner[last] = value
    return body


@pytest.mark.parametrize(("route", "name", "field"), CASES)
def test_a_field_is_handled_as_the_table_says(
    client: falcon.testing.TestClient,
    service: FakeService,
    answer: tuple[Any, ...],
    route: Route,
    name: str,
    field: Field,
) -> None:
    def see(body: dict[str, Any]) -> tuple[int, Any]:
        service.requests.clear()
        service.counted.clear()
        service.replies.clear()
        service.replies.append(TokenCount(12, 2048))
        service.enqueue(*answer)
        result = client.simulate_post(route.path, json={"model": "ai/smollm2", **body})
        # Every answer has an id of its own here.
        text = json.dumps(result.text)
        for number in range(9):
            text = text.replace(f"_{number}_", "_N_").replace(f'_{number}\\"', '_N\\"')
        return result.status_code, (service.requests[:], service.counted[:], text)

    body = {**route.body, **field.base}
    without, told = see(body), see(with_field(body, name, field.example))
    assert without[0] == 200
    if field.status == "refused":
        assert told[0] == 400
        assert name in told[1][2]
    else:
        assert told[0] == 200
        assert (told[1] != without[1]) is (field.status == "honoured")
