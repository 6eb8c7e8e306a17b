"""What must not hurt: wrong requests, overload, clients that leave, engines that die, and the end of the server."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from e2e.conftest import Server, children_of, is_alive, wait_until
from tiny_models import SCRIPT_ANSWER, model_file

CHAT = "/v1/chat/completions"
MODEL = "test/tiny-random"
HELLO = [{"role": "user", "content": "hi"}]
ENDLESS: dict[str, Any] = {"model": MODEL, "messages": HELLO, "ignore_eos": True, "max_tokens": 100000, "stream": True}
Start = Callable[..., Server]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b"\xff\xfe", 400, None),
        (b"[]", 400, None),
        (b'{"model": NaN}', 400, None),
        (b"[" * 100_000, 400, None),
        ({"messages": HELLO}, 400, None),
        ({"model": 5, "messages": HELLO}, 400, None),
        ({"model": "nobody/nothing", "messages": HELLO}, 404, "model_not_found"),
        ({"model": "../../etc/passwd", "messages": HELLO}, (400, 404), None),
        ({"model": MODEL, "messages": []}, 400, None),
        ({"model": MODEL, "messages": "hi"}, 400, None),
        ({"model": MODEL, "messages": [{"role": "nobody", "content": "hi"}]}, 400, None),
        ({"model": MODEL, "messages": HELLO, "max_tokens": 0}, 400, None),
        ({"model": MODEL, "messages": HELLO, "max_tokens": -1}, 400, None),
        ({"model": MODEL, "messages": HELLO, "temperature": -1}, 400, None),
        ({"model": MODEL, "messages": HELLO, "temperature": 1e300}, 400, None),
        ({"model": MODEL, "messages": HELLO, "top_p": 7}, 400, None),
        ({"model": MODEL, "messages": HELLO, "n": 0}, 400, None),
        ({"model": MODEL, "messages": HELLO, "n": 1_000_000}, 400, None),
        ({"model": MODEL, "messages": HELLO, "logit_bias": {"99999999": 1}}, 400, None),
        ({"model": MODEL, "messages": HELLO, "stop": [""]}, 400, None),
        ({"model": MODEL, "messages": HELLO, "grammar": "root ::= ("}, 400, None),
        ({"model": MODEL, "messages": HELLO, "grammar": 'root ::= "a"{5,2}'}, 400, None),
        ({"model": MODEL, "messages": [{"role": "user", "content": "long " * 5000}]}, 400, "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_get_an_error_they_can_read(
    server: Server, body: Any, status: int | tuple[int, ...], code: str | None, stream: bool
) -> None:
    if isinstance(body, dict):
        body = {**body, "stream": stream}
    response = server.post(CHAT, body)
    assert response.status in (status if isinstance(status, tuple) else (status,)), response.data
    error = response.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert error["message"]
    if code is not None:
        assert error["code"] == code


def test_a_prompt_over_the_context_names_both_numbers(server: Server) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 3000}]}
    message = server.post(CHAT, body).json()["error"]["message"]
    assert "2048" in message
    assert any(int(word) > 3000 for word in message.split() if word.isdigit())


def test_a_huge_body_is_refused(own_server: Start) -> None:
    server = own_server(DMR_MAX_BODY_BYTES="100000")
    response = server.post(CHAT, {"model": MODEL, "messages": [{"role": "user", "content": "x" * 200_000}]})
    assert response.status == 413
    assert server.chat("test/tiny-script")["choices"][0]["message"]["content"] == SCRIPT_ANSWER


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "text"])
def test_a_damaged_file_is_refused_at_import(server: Server, tmp_path: Path, tiny_folder: Path, damage: str) -> None:
    data = model_file("tiny-script", tiny_folder).read_bytes()
    bad = {"truncated": data[:-5000], "corrupt": data[:40] + b"\xff" * 64 + data[104:], "text": b"I am no model"}
    response = server.post("/models/import?reference=test/bad", bad[damage])
    assert response.status == 400, response.data
    assert server.get("/models/test/bad").status == 404


def test_a_model_that_cannot_be_loaded_says_why_and_harms_nobody(own_server: Start) -> None:
    server = own_server()
    record = server.get("/models/test/tiny-random").json()
    manifest = server.folder / "models" / "manifests" / "sha256" / record["id"].removeprefix("sha256:")
    digest = json.loads(manifest.read_bytes())["layers"][0]["digest"]
    blob = server.folder / "models" / "blobs" / "sha256" / digest.removeprefix("sha256:")
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[8:16] = b"\xff" * 8  # the number of tensors
    blob.write_bytes(data)
    for _ in range(2):
        response = server.post(CHAT, {"model": MODEL, "messages": HELLO})
        assert response.status in (500, 503), response.data
        assert "tiny-random" in response.json()["error"]["message"]
    assert server.chat("test/tiny-script")["choices"][0]["message"]["content"] == SCRIPT_ANSWER


def test_64_requests_on_the_room_of_4(own_server: Start) -> None:
    """Each needs about 60 cells of 256: they queue, and every answer is whole and right."""
    server = own_server(DMR_CONTEXT_SIZE="256", DMR_MAX_SEQUENCES="16")
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        texts = [f"{i:02d} comes with a text of its own" for i in range(64)]
        answers = list(pool.map(lambda text: server.chat("test/tiny-script", text), texts))
        long = list(pool.map(lambda text: server.chat(MODEL, text, max_tokens=120, ignore_eos=True), texts[:16]))
    assert {answer["choices"][0]["message"]["content"] for answer in answers} == {SCRIPT_ANSWER}
    assert {answer["choices"][0]["finish_reason"] for answer in answers} == {"stop"}
    assert {answer["usage"]["completion_tokens"] for answer in long} == {120}


def test_a_full_queue_is_said_at_once(own_server: Start) -> None:
    server = own_server(DMR_MAX_QUEUE="2", DMR_CONTEXT_SIZE="4096")
    with opened(server, ENDLESS), opened(server, ENDLESS):
        response = server.post(CHAT, {"model": MODEL, "messages": HELLO})
        assert response.status in (429, 503)
        assert int(response.headers["Retry-After"]) >= 1
    wait_until(lambda: server.post(CHAT, {"model": MODEL, "messages": HELLO, "max_tokens": 1}).status == 200)


@contextlib.contextmanager
def opened(server: Server, body: dict[str, Any], wait: bool = True) -> Iterator[socket.socket]:
    """A request on a bare socket that leaves when the block does; waits for the first byte of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        data = json.dumps(body).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        client.sendall(head.encode() + data)
        if wait:
            assert client.recv(1)
        yield client


def active(server: Server) -> int:
    return sum(model["in_use"] for model in server.get("/engines/ps").json() if model.get("in_use"))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_is_noticed_within_a_second(own_server: Start, stream: bool) -> None:
    server = own_server(DMR_CONTEXT_SIZE="8192")
    server.chat(MODEL, max_tokens=1)
    with opened(server, {**ENDLESS, "stream": stream}, wait=stream):
        wait_until(lambda: active(server) == 1)
        time.sleep(0.3)
        assert active(server) == 1
    wait_until(lambda: active(server) == 0, timeout=1.5)


def test_a_client_that_leaves_during_its_prefill_frees_the_engine(own_server: Start) -> None:
    server = own_server(DMR_CONTEXT_SIZE="8192", DMR_BATCH_TOKENS="32")
    server.chat(MODEL, max_tokens=1)
    body = {**ENDLESS, "messages": [{"role": "user", "content": "word " * 1500}], "stream": False}
    with opened(server, body, wait=False):
        wait_until(lambda: active(server) == 1)
    wait_until(lambda: active(server) == 0, timeout=1.5)
    began = time.monotonic()
    assert server.chat("test/tiny-random", max_tokens=2)["usage"]["completion_tokens"] == 2
    assert time.monotonic() - began < 5.0


def test_a_killed_engine_costs_its_own_requests_only(own_server: Start) -> None:
    server = own_server(DMR_CONTEXT_SIZE="8192")
    server.chat("test/tiny-script")
    [bystander] = server.engine_pids()
    client = server.client(timeout=20)
    errors: list[BaseException] = []
    started = threading.Barrier(4)

    def read() -> None:
        fields: Any = {key: value for key, value in ENDLESS.items() if key != "ignore_eos"}
        with client.chat.completions.create(**fields, extra_body={"ignore_eos": True}) as stream:
            iterator = iter(stream)
            next(iterator), next(iterator)
            started.wait(20)
            try:
                for _ in iterator:
                    pass
            except openai.APIError as error:
                errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    started.wait(20)
    [victim] = set(server.engine_pids()) - {bystander}
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    for reader in readers:
        reader.join(10)
        assert not reader.is_alive(), "a client hangs"
    assert time.monotonic() - killed < 3.0
    assert len(errors) == 3
    assert server.chat(MODEL, max_tokens=2)["usage"]["completion_tokens"] == 2
    assert bystander in server.engine_pids()


def test_a_killed_engine_is_an_error_in_a_whole_answer_too(own_server: Start) -> None:
    server = own_server(DMR_CONTEXT_SIZE="8192")
    server.chat(MODEL, max_tokens=1)
    body = {key: value for key, value in ENDLESS.items() if key != "stream"}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pending = pool.submit(server.post, CHAT, body)
        wait_until(lambda: active(server) == 1)
        os.kill(server.engine_pids()[0], signal.SIGKILL)
        response = pending.result(10)
    assert response.status == 503
    assert "Retry-After" in response.headers
    assert response.json()["error"]["message"]


def test_a_killed_manager_is_replaced(own_server: Start) -> None:
    server = own_server()
    server.chat("test/tiny-script")
    [manager] = [pid for pid in children_of(server.process.pid) if b"dmr.manager" in cmdline(pid)]
    engines = server.engine_pids()
    os.kill(manager, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in engines))
    wait_until(lambda: server.get("/ready").status == 200)
    assert server.chat("test/tiny-script")["choices"][0]["message"]["content"] == SCRIPT_ANSWER


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_sigterm_lets_requests_finish_and_leaves_nothing_behind(own_server: Start) -> None:
    server = own_server(DMR_CONTEXT_SIZE="4096")
    server.chat(MODEL, max_tokens=1)
    family = [server.process.pid, *children_of(server.process.pid)]
    body = {**ENDLESS, "max_tokens": 1500}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        pending = [pool.submit(server.post, CHAT, body) for _ in range(3)]
        wait_until(lambda: active(server) == 1)
        server.process.send_signal(signal.SIGTERM)
        answers = [request.result(40) for request in pending]
    for answer in answers:
        assert answer.data.rstrip().endswith(b"data: [DONE]")
    assert server.process.wait(20) == 0
    wait_until(lambda: not any(is_alive(pid) for pid in family))
    assert not list(server.runtime_dir.glob("*")), "a socket is left"


def test_a_killed_master_takes_everything_with_it(own_server: Start) -> None:
    server = own_server()
    server.chat("test/tiny-script")
    family = children_of(server.process.pid)
    assert len(family) >= 4
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(5)
    wait_until(lambda: not any(is_alive(pid) for pid in family), timeout=15)


def test_an_idle_model_is_unloaded_and_comes_back(own_server: Start) -> None:
    server = own_server(DMR_KEEP_ALIVE="1")
    server.chat("test/tiny-script")
    assert len(server.engine_pids()) == 1
    wait_until(lambda: not server.engine_pids(), timeout=8)
    assert server.get("/engines/ps").json() == []
    assert server.chat("test/tiny-script")["choices"][0]["message"]["content"] == SCRIPT_ANSWER


def test_concurrent_first_requests_load_once(own_server: Start) -> None:
    server = own_server()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: server.chat("test/tiny-script"), range(16)))
    assert {answer["choices"][0]["message"]["content"] for answer in answers} == {SCRIPT_ANSWER}
    assert len(server.engine_pids()) == 1


def test_a_second_server_on_one_runtime_folder_leaves_the_first_alone(own_server: Start) -> None:
    server = own_server()
    second = subprocess.run(
        [sys.executable, "-m", "dmr", "serve"],
        env={
            **os.environ,
            "MODELS_PATH": str(server.folder / "models"),
            "DMR_RUNTIME_DIR": str(server.runtime_dir),
            "MODEL_RUNNER_PORT": "0",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode != 0
    assert "Another server uses the runtime folder" in second.stderr
    assert server.chat("test/tiny-script")["choices"][0]["message"]["content"] == SCRIPT_ANSWER


def test_a_models_path_that_cannot_be_one_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    started = subprocess.run(
        [sys.executable, "-m", "dmr", "serve"],
        env={**os.environ, "MODELS_PATH": str(file), "MODEL_RUNNER_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert started.returncode != 0
    assert str(file) in started.stderr


def test_a_schema_that_cannot_be_kept_is_named(server: Server) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nope"}}}
    response = server.post(CHAT, {"model": "test/tiny-script", "messages": HELLO, "response_format": form})
    assert response.status == 400
    assert response.json()["error"]["param"] == "response_format"
