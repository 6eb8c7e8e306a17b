"""Prompts, answers and keys stay with those whose they are: nothing of them is in logs, figures, records or files."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import Server, children_of, wait_until

from dmr.config.keys import ApiKey, digest_of_key, format_key

PROMPT = "canary-of-a-prompt-7f3a"
KEY = "canary-of-a-key-0123456789"
WRONG_KEY = "canary-of-a-wrong-key-98765"
PLAIN_KEY = "canary-of-a-plain-key-13579"
BOSS = "key-of-an-administrator-0123"
SECRETS = (PROMPT, KEY, WRONG_KEY, PLAIN_KEY)
MODEL = "test/tiny-random"
FEW = {"num_predict": 3}
Start = Callable[..., Server]


def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    """A request of each kind, with the canary wherever a user's text can be."""
    chat = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 3}
    yield "/v1/chat/completions", {**chat, "stop": [PROMPT]}
    yield "/v1/chat/completions", {**chat, "stream": True}
    yield "/v1/chat/completions", {**chat, "messages": [{"role": "system", "content": PROMPT}, *chat["messages"]]}
    yield "/v1/completions", {"model": MODEL, "prompt": PROMPT, "max_tokens": 3}
    yield (
        "/v1/responses",
        {"model": MODEL, "input": PROMPT, "instructions": PROMPT, "max_output_tokens": 3, "store": False},
    )
    yield "/v1/messages", {**chat, "system": PROMPT}
    yield "/v1/messages/count_tokens", {"model": MODEL, "messages": chat["messages"]}
    yield "/api/chat", {**chat, "stream": False, "options": {"num_predict": 3}}
    yield "/api/generate", {"model": MODEL, "prompt": PROMPT, "system": PROMPT, "options": {"num_predict": 3}}
    yield "/v1/embeddings", {"model": "test/tiny-embed", "input": PROMPT}
    yield "/api/embed", {"model": "test/tiny-embed", "input": PROMPT}
    yield "/v1/rerank", {"model": "test/tiny-rerank", "query": PROMPT, "documents": [PROMPT]}
    yield "/v1/tokenize", {"model": MODEL, "content": PROMPT}
    yield "/v1/infill", {"model": MODEL, "input_prefix": PROMPT, "input_suffix": PROMPT}


def wrong_bodies() -> Iterator[tuple[str, Any]]:
    """Requests that fail, each in another part of the server."""
    chat = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}
    for path in ("/v1/chat/completions", "/v1/messages", "/api/chat", "/v1/responses"):
        yield path, f'{{"model": "{MODEL}", "messages": "{PROMPT}'.encode()
        yield path, {**chat, "messages": [{"role": PROMPT, "content": PROMPT}]}
        yield path, {**chat, "max_tokens": PROMPT, "options": {"temperature": PROMPT}}
        yield (
            path,
            {**chat, "messages": [{"role": "user", "content": PROMPT * 2000}], "input": PROMPT * 2000, "options": FEW},
        )
    yield "/v1/chat/completions", {**chat, "grammar": f'root ::= "{PROMPT}'}
    yield "/v1/chat/completions", {**chat, "chat_template": f"{{% {PROMPT} %}}"}
    yield (
        "/v1/chat/completions",
        {**chat, "response_format": {"type": "json_schema", "json_schema": {"schema": PROMPT}}},
    )


@pytest.fixture
def server(own_server: Start, tmp_path: Path) -> Server:
    keys = [
        ApiKey(name="user", digest=digest_of_key(KEY), max_requests=8, tokens_per_minute=10**9),
        ApiKey(name="boss", digest=digest_of_key(BOSS), scopes=frozenset(["admin"])),
    ]
    path = tmp_path / "keys.toml"
    path.write_text("\n".join(map(format_key, keys)) + f'\n[plain]\nkey = "{PLAIN_KEY}"\n')
    return own_server(
        DMR_KEYS=str(path),
        LOG_LEVEL="debug",
        MODEL_RUNNER_LOG_DIR=str(tmp_path / "logs"),
        TMPDIR=str(tmp_path),
        DMR_CONTEXT_SIZE="1024",
    )


def told(server: Server, tmp_path: Path) -> Iterator[tuple[str, bytes]]:
    """All that is written down anywhere, or told to an administrator."""
    headers = {"Authorization": f"Bearer {BOSS}"}
    for path in ("/logs", "/metrics", "/engines/requests", "/engines/status", "/engines/ps", "/v1/models"):
        answer = server.pool.request("GET", server.url + path, headers=headers)
        assert answer.status == 200, path
        yield path, answer.data
    for folder in (server.folder, tmp_path / "logs", server.runtime_dir):
        for file in folder.rglob("*"):
            if file.is_file() and "models" not in file.relative_to(folder).parts:
                yield str(file), file.read_bytes()
    for pid in [server.process.pid, *children_of(server.process.pid)]:
        yield f"command line of {pid}", Path(f"/proc/{pid}/cmdline").read_bytes()


def test_nothing_of_prompts_and_keys_is_written_down(server: Server, tmp_path: Path) -> None:
    for path, body in bodies():
        answer = server.post(path, body, Authorization=f"Bearer {KEY}")
        assert answer.status in (200, 400), (path, answer.data)  # this model has no infill
        answer.drain_conn()
    for path, body in wrong_bodies():
        assert server.post(path, body, **{"x-api-key": PLAIN_KEY}).status not in (401, 403)
        refused = server.post(path, body, Authorization=f"Bearer {WRONG_KEY}", Connection="close")  # not all is read
        assert refused.status == 401
    _crash(server)
    wait_until(lambda: b"died" in server.log.read_bytes() or b"crash" in server.log.read_bytes(), 20)
    for where, data in told(server, tmp_path):
        for secret in SECRETS:
            assert not [line for line in data.splitlines() if secret.encode() in line], (secret, where)


def _crash(server: Server) -> None:
    """An engine dies with a prompt of somebody's in it."""
    body = {"model": MODEL, "prompt": PROMPT, "stream": True, "max_tokens": 100000, "ignore_eos": True}
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = server.pool.request(
        "POST", server.url + "/v1/completions", body=json.dumps(body), headers=headers, preload_content=False
    )
    assert answer.status == 200
    for pid in server.engine_pids():
        os.kill(pid, signal.SIGSEGV)
    assert b"error" in answer.read()


def test_no_process_leaves_its_memory_behind(server: Server) -> None:
    server.post("/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 1}, Authorization=f"Bearer {KEY}")
    assert server.engine_pids()
    for pid in [server.process.pid, *children_of(server.process.pid)]:
        limits = Path(f"/proc/{pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert line.split()[4:6] == ["0", "0"], pid
