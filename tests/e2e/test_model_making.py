"""Models made of other models and of files, by the official client of that API, used, and removed."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from e2e.conftest import Server
from tiny_models import SCRIPT_ANSWER, model_file

Connect = Callable[[Server], ollama.Client]


def blobs(server: Server) -> set[str]:
    return {path.name for path in (server.folder / "models" / "blobs" / "sha256").iterdir()}


def upload(server: Server, path: Path) -> str:
    data = path.read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    url = f"{server.url}/api/blobs/{digest}"
    assert server.pool.request("HEAD", url).status == 404
    assert server.pool.request("POST", url, body=data).status == 201
    assert server.pool.request("HEAD", url).status == 200
    assert server.pool.request("POST", url, body=data).status == 200
    return digest


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes clients, which are closed afterwards."""
    with contextlib.ExitStack() as cleanup:

        def make(server: Server) -> ollama.Client:
            client = ollama.Client(server.url)
            cleanup.callback(client._client.close)
            return client

        yield make


def ask(client: ollama.Client, model: str, text: str = "hi", **fields: Any) -> Any:
    return client.chat(model, [{"role": "user", "content": text}], **fields)


def rendered(server: Server, model: str, **fields: Any) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "_debug_render_only": True, **fields}
    response = server.post("/api/chat", body)
    assert response.status == 200, response.data
    text: str = response.json()["_debug_info"]["rendered_template"]
    return text


def test_a_derived_model_is_made_used_and_removed(own_server: Callable[..., Server], connect: Connect) -> None:
    server = own_server()
    client = connect(server)
    before = blobs(server)
    told = client.create(
        "mine",
        from_="test/tiny-script",
        system="Be brief.",
        parameters={"num_predict": 2, "stop": ["Q"]},
        messages=[{"role": "user", "content": "first"}, {"role": "assistant", "content": "second"}],
        license="MIT",
        stream=True,
    )
    assert [step.status for step in told][-2:] == ["writing manifest", "success"]

    shown = client.show("mine")
    assert shown.details is not None
    assert shown.details.parent_model == "test/tiny-script:latest"
    assert "num_predict" in (shown.parameters or "")
    assert "SYSTEM" in (shown.modelfile or "")
    prompt = rendered(server, "mine")
    assert prompt.index("Be brief.") < prompt.index("first") < prompt.index("second") < prompt.index("hi")

    answer = ask(client, "mine")
    assert (answer.eval_count, answer.done_reason) == (2, "length")
    assert SCRIPT_ANSWER.startswith(answer.message.content)
    assert ask(client, "mine", options={"num_predict": -1}).message.content == SCRIPT_ANSWER
    assert ask(client, "test/tiny-script").message.content == SCRIPT_ANSWER
    whole = server.chat("mine", max_tokens=100)  # the defaults hold in every dialect
    assert whole["choices"][0]["message"]["content"] == SCRIPT_ANSWER
    assert server.chat("mine")["usage"]["completion_tokens"] == 2

    client.delete("mine")
    with pytest.raises(ollama.ResponseError, match="not found"):
        client.show("mine")
    assert blobs(server) == before
    assert ask(client, "test/tiny-script").message.content == SCRIPT_ANSWER


def test_a_model_is_made_of_an_uploaded_file_and_made_smaller(
    own_server: Callable[..., Server], connect: Connect, tiny_folder: Path, tmp_path: Path
) -> None:
    server = own_server()
    client = connect(server)
    path = tmp_path / "own.gguf"
    path.write_bytes(model_file("tiny-random", tiny_folder).read_bytes() + bytes(32))  # one that is not there yet
    digest = upload(server, path)
    told = list(client.create("small", files={"own.gguf": digest}, quantize="q8_0", stream=True))
    assert any(step.status == "quantizing F16 model to Q8_0" and step.completed for step in told)
    shown = client.show("small")
    assert shown.details is not None
    assert shown.details.quantization_level == "Q8_0"
    assert ask(client, "small", options={"num_predict": 3}).eval_count == 3
    client.create("whole", files={"own.gguf": digest})
    assert ask(client, "whole", options={"num_predict": 3}).eval_count == 3
    assert {model.model for model in client.list().models} >= {"ai/small:latest", "ai/whole:latest"}


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"from": "test/tiny-script", "quantize": "q9"}, 400, "unsupported quantization type"),
        ({"from": "test/tiny-script", "template": "{% if %}"}, 400, "template"),
        ({"from": "a//b"}, 400, "invalid model name"),
        ({"from": "test/tiny-script", "model": "a//b"}, 400, "invalid model name"),
        ({"files": {"a": "sha256:" + "0" * 64}}, 400, "was not uploaded"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_cannot_be_made_is_told(
    server: Server, body: dict[str, Any], status: int, reason: str, stream: bool
) -> None:
    response = server.post("/api/create", {"model": "unmade", "stream": stream, **body})
    assert response.status in (200, status), response.data
    told = [line for line in response.data.decode().splitlines() if '"error"' in line]
    assert len(told) == 1
    assert reason in told[0]
    assert server.post("/api/show", {"model": "unmade"}).status == 404


def test_a_base_that_cannot_be_pulled_is_told(server: Server) -> None:
    response = server.post("/api/create", {"model": "unmade", "from": "localhost:1/no/such", "stream": False})
    assert response.status == 502
    assert "localhost:1" in response.json()["error"]


def test_blobs_that_are_not_what_they_say(server: Server) -> None:
    url = f"{server.url}/api/blobs/sha256:{'0' * 64}"
    response = server.pool.request("POST", url, body=b"x")
    assert response.status == 400
    assert response.json()["error"].startswith(f'digest mismatch, expected "sha256:{"0" * 64}", got "sha256:2d')
    assert server.pool.request("HEAD", url).status == 404
    assert server.pool.request("POST", f"{server.url}/api/blobs/sha1:12", body=b"x").status == 400
