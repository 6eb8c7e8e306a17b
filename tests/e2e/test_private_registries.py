"""Row 17: a server that everybody can reach is no way into the network that it is in, by no route and in no dialect."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from e2e.conftest import Server
from loopback_registry import LoopbackRegistry, running

from dmr.config.keys import new_key

Start = Callable[..., Server]
SETTING = "DMR_PRIVATE_REGISTRIES"
OPEN = {"DMR_HOST": "0.0.0.0"}


@pytest.fixture
def registry() -> Iterator[LoopbackRegistry]:
    with running(LoopbackRegistry()) as server:
        yield server


def last_line(data: bytes) -> Any:
    return json.loads(data.splitlines()[-1])


def test_strangers_name_none(own_server: Start, registry: LoopbackRegistry) -> None:
    server = own_server(**OPEN)
    name = f"{registry.host}/test/tiny"
    assert server.post(f"/models/test/tiny-script/tag?repo={name}&tag=v1", b"").status == 201

    for asked in (
        server.post("/models/create", {"from": f"{registry.host}/test/other"}),
        server.post("/models/create", {"from": f"localhost:{registry.host.rpartition(':')[2]}/test/other"}),
        server.post("/models/create", {"from": f"{registry.host}/test/other", "insecure": True}),
        server.post(f"/models/{name}:v1/push", b""),
        server.get(f"/models/{registry.host}/test/other?remote"),
    ):
        assert asked.status == 403
        assert SETTING in asked.data.decode()
        assert asked.data.startswith((b"The registry ", b"error while getting model: The registry "))

    for asked in (
        server.post("/api/pull", {"model": f"{registry.host}/test/other"}),
        server.post("/api/pull", {"model": f"{registry.host}/test/other", "stream": False}),
        server.post("/api/push", {"model": f"{name}:v1"}),
        server.post("/api/create", {"model": "mine", "from": f"{registry.host}/test/other", "stream": False}),
    ):
        assert asked.status == 403
        assert SETTING in asked.json()["error"]
    streamed = server.post("/api/create", {"model": "mine", "from": f"{registry.host}/test/other"})
    assert SETTING in last_line(streamed.data)["error"]

    assert registry.requests == []


def test_registries_that_the_settings_name_are_asked(own_server: Start, registry: LoopbackRegistry) -> None:
    server = own_server(**OPEN, **{SETTING: f"registry.lan,{registry.host}"})
    name = f"{registry.host}/test/tiny:v1"
    assert server.post(f"/models/test/tiny-script/tag?repo={registry.host}/test/tiny&tag=v1", b"").status == 201
    assert last_line(server.post(f"/models/{name}/push", b"").data)["type"] == "success"
    assert server.get(f"/models/{name}?remote").status == 200
    assert last_line(server.post("/api/pull", {"model": name}).data) == {"status": "success"}


def test_administrators_name_what_they_like(own_server: Start, registry: LoopbackRegistry, tmp_path: Any) -> None:
    admin, user, keys = new_key(), new_key(), tmp_path / "keys.toml"
    keys.write_text(f'[admin]\nkey = "{admin}"\nscopes = ["admin"]\n\n[user]\nkey = "{user}"\n')
    server = own_server(**OPEN, DMR_KEYS=str(keys))
    absent = {"from": f"{registry.host}/test/none"}
    assert server.post("/models/create", absent, Authorization=f"Bearer {user}").status == 403
    assert registry.requests == []
    assert server.post("/models/create", absent, Authorization=f"Bearer {admin}").status == 404
    assert registry.requests
