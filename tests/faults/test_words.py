"""Rows 13, 43, 45, 46 and 49: long texts, secrets, sockets, what is not built in, names that nobody knows."""

from __future__ import annotations

from collections.abc import Callable

from e2e.conftest import Server
from e2e.test_faults import CHAT, MODEL
from tiny_models import SCRIPT_ANSWER

from dmr import _core

Start = Callable[..., Server]
CANARY = "canary-4711"


def test_ten_megabytes_of_text_are_refused_with_their_number_of_tokens(server: Server) -> None:
    for text in ("word " * 2_000_000, "x" * 10_000_000):
        response = server.post(CHAT, {"model": MODEL, "messages": [{"role": "user", "content": text}]})
        assert (response.status, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert server.chat("test/tiny-script")["choices"][0]["message"]["content"] == SCRIPT_ANSWER


def test_neither_prompts_nor_keys_are_logged(own_server: Start) -> None:
    server = own_server(DMR_CONTEXT_SIZE="512")
    headers = {"Authorization": f"Bearer {CANARY}", "x-api-key": CANARY}
    messages = [{"role": "user", "content": CANARY}]
    for body in (
        {"model": MODEL, "messages": messages, "max_tokens": 2},
        {"model": MODEL, "messages": [{"role": "user", "content": CANARY * 500}]},
        {"model": MODEL, "messages": messages, "temperature": -1},
        {"model": MODEL, "messages": [{"role": "nobody", "content": CANARY}]},
    ):
        server.post(CHAT, body, **headers)
        server.post("/v1/messages", {"max_tokens": 2, **body}, **headers)
    server.post("/api/generate", {"model": MODEL, "prompt": CANARY, "options": {"num_predict": 2}}, **headers)
    server.post("/v1/embeddings", {"model": "test/tiny-embed", "input": CANARY}, **headers)
    assert CANARY.encode() not in server.get("/metrics").data
    server.stop()
    assert CANARY not in server.log.read_text()


def test_names_that_nobody_knows_are_no_labels(server: Server) -> None:
    before = len(server.get("/metrics").data.splitlines())
    for number in range(200):
        response = server.post(CHAT, {"model": f"nobody/model-{number}", "messages": []})
        assert response.status in (400, 404)
        assert server.get(f"/no/such/route/{number}").status == 404
    told = server.get("/metrics").data
    assert b"nobody/model-" not in told
    assert len(told.splitlines()) < before + 50


def test_other_users_cannot_reach_manager_and_engines(own_server: Start) -> None:
    server = own_server()
    server.chat("test/tiny-script")
    assert server.runtime_dir.stat().st_mode & 0o077 == 0
    assert len([path for path in server.runtime_dir.iterdir() if path.is_socket()]) >= 2


def test_engines_of_other_machines_are_not_reached_by_ggmls_own_protocol() -> None:
    assert not [name for name in _core.build_info()["backends"] if "rpc" in str(name).lower()]
