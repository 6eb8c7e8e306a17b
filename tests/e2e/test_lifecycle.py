"""Models that share memory, and engines that crash, as clients of a real server see them."""

from __future__ import annotations

import concurrent.futures
import os
import signal
from collections.abc import Callable

from e2e.conftest import Server, is_alive, wait_until
from tiny_models import SCRIPT_ANSWER

CHAT = "/v1/chat/completions"
SCRIPT, RANDOM = "test/tiny-script", "test/tiny-random"
Start = Callable[..., Server]


def loaded(server: Server) -> list[str]:
    return [model["model_name"] for model in server.get("/engines/ps").json()]


def test_models_take_each_others_place_and_wait_for_their_turn(own_server: Start) -> None:
    server = own_server(DMR_MAX_LOADED_MODELS="1", DMR_MEMORY_WAIT="60")
    for model in (SCRIPT, RANDOM, SCRIPT):
        server.chat(model, max_tokens=2)
        assert loaded(server) == [model]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:  # each waits for those that are at work
        answers = list(pool.map(lambda model: server.chat(model, max_tokens=4), [SCRIPT, RANDOM] * 3))
    assert all(answer["choices"] for answer in answers)
    assert len(server.engine_pids()) == 1


def test_what_cannot_fit_is_refused_with_figures(own_server: Start) -> None:
    server = own_server(DMR_MEMORY_LIMIT="1000000")
    response = server.post(CHAT, {"model": SCRIPT, "messages": [{"role": "user", "content": "hi"}]})
    assert response.status == 500
    error = response.json()["error"]
    assert error["code"] == "model_load_failed"
    assert "of what DMR_MEMORY_LIMIT allows can be had" in error["message"]
    assert server.engine_pids() == []
    assert server.get("/ready").status == 200


def test_an_engine_takes_the_context_that_a_limit_leaves(own_server: Start) -> None:
    server = own_server(DMR_MEMORY_LIMIT=str(58 << 20))
    server.chat(RANDOM, max_tokens=1)
    (model,) = server.get("/api/ps").json()["models"]
    assert 512 <= model["context_length"] < 8192


def test_an_engine_that_crashes_again_and_again_is_held_back_until_it_is_unloaded(own_server: Start) -> None:
    server = own_server()
    server.chat(RANDOM, max_tokens=1)
    [bystander] = server.engine_pids()
    question = {"model": SCRIPT, "messages": [{"role": "user", "content": "hi"}]}
    for _ in range(5):  # each pause is twice as long as the one before: a slow machine only comes later to see one
        response = server.post(CHAT, question)
        if response.status != 200:
            break
        [victim] = set(server.engine_pids()) - {bystander}
        os.kill(victim, signal.SIGSEGV)
        wait_until(lambda: loaded(server) == [RANDOM])
    assert response.status == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert "times in a row" in response.json()["error"]["message"]
    assert "SIGSEGV" in response.json()["error"]["message"]
    assert server.post("/engines/unload", {"models": [SCRIPT]}).status == 200
    assert server.chat(SCRIPT)["choices"][0]["message"]["content"] == SCRIPT_ANSWER
    assert is_alive(bystander)
