"""A text model and its projector, brought together in every way there is: a running server's engine sees."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import Server
from e2e.test_command_line import CommandLine
from loopback_hub import LoopbackHub
from loopback_registry import LoopbackRegistry, running
from PIL import Image
from tiny_models import SCRIPT_ANSWER, model_file

COLOURS = {"RED": (255, 0, 0), "CYAN": (0, 255, 255)}


@pytest.fixture
def registry() -> Iterator[LoopbackRegistry]:
    with running(LoopbackRegistry()) as server:
        yield server


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with running(LoopbackHub()) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hub: LoopbackHub) -> Iterator[Server]:
    """One that has no models."""
    folder = tmp_path_factory.mktemp("server")
    started = Server(folder, HOME=str(folder), HF_ENDPOINT=f"http://{hub.host}", HF_TOKEN="", DMR_CONTEXT_SIZE="2048")
    yield started
    started.stop()


@pytest.fixture
def dmr(server: Server, tmp_path: Path) -> CommandLine:
    return CommandLine(server, tmp_path)


@pytest.fixture(scope="module")
def weights(tiny_folder: Path) -> Path:
    return model_file("tiny-script", tiny_folder)


@pytest.fixture(scope="module")
def projector(tiny_folder: Path) -> Path:
    return model_file("tiny-script-mmproj", tiny_folder)


def png(colour: str) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (64, 48), COLOURS[colour]).save(target, "PNG")
    return target.getvalue()


def content(colour: str) -> list[dict[str, Any]]:
    url = f"data:image/png;base64,{base64.b64encode(png(colour)).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is this?"}]


def assert_sees(server: Server, model: str) -> None:
    for colour in COLOURS:
        body = {"model": model, "messages": [{"role": "user", "content": content(colour)}]}
        response = server.post("/v1/chat/completions", body)
        assert response.status == 200, response.data
        assert response.json()["choices"][0]["message"]["content"] == colour
    shown = server.post("/api/show", {"model": model}).json()
    assert "vision" in shown["capabilities"]
    server.pool.request("DELETE", f"{server.url}/models/{model}?force=true")


def upload(server: Server, path: Path) -> str:
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    response = server.pool.request("POST", f"{server.url}/api/blobs/{digest}", body=path.read_bytes())
    assert response.status in (200, 201), response.data
    return digest


def test_imported_together(server: Server, dmr: CommandLine, weights: Path, projector: Path) -> None:
    dmr.run("import", str(weights), "--mmproj", str(projector), "eyes/imported")
    assert_sees(server, "eyes/imported")


def test_packaged_together_and_added_to_a_model_that_is_there(
    server: Server, dmr: CommandLine, weights: Path, projector: Path
) -> None:
    dmr.run("package", "--gguf", str(weights), "--mmproj", str(projector), "eyes/packaged")
    assert_sees(server, "eyes/packaged")
    dmr.run("import", str(weights), "eyes/blind")
    dmr.run("package", "--from", "eyes/blind", "--mmproj", str(projector), "eyes/opened")
    assert_sees(server, "eyes/opened")
    refused = server.post("/v1/chat/completions", {"model": "eyes/blind", "messages": [user("RED")]})
    assert refused.status == 400
    assert "vision" in refused.json()["error"]["message"]


def test_made_of_uploaded_files(server: Server, weights: Path, projector: Path) -> None:
    files = {"a.gguf": upload(server, weights), "b.gguf": upload(server, projector)}
    response = server.post("/api/create", {"model": "eyes/made", "files": files, "stream": False})
    assert response.status == 200, response.data
    answer = server.post(
        "/api/create", {"model": "eyes/derived", "from": "eyes/made", "system": "Be brief.", "stream": False}
    )
    assert answer.status == 200, answer.data
    assert_sees(server, "eyes/made")
    assert_sees(server, "eyes/derived")


def test_pushed_and_pulled(
    server: Server, dmr: CommandLine, registry: LoopbackRegistry, weights: Path, projector: Path
) -> None:
    name = f"{registry.host}/eyes/travelling:v1"
    dmr.run("import", str(weights), "--mmproj", str(projector), name)
    dmr.run("push", name)
    dmr.run("rm", name)
    assert server.get(f"/models/{name}").status == 404
    dmr.run("pull", name)
    assert_sees(server, name)


def test_pulled_from_a_hub_with_the_projector_that_lies_there(
    server: Server, hub: LoopbackHub, weights: Path, projector: Path
) -> None:
    files = {"eyes-Q8_0.gguf": weights.read_bytes(), "mmproj-eyes-F16.gguf": projector.read_bytes()}
    hub.branches["main"] = files
    name = "hf.co/Org/Tiny-GGUF:Q8_0"
    response = server.post("/models/create", {"from": name}, Accept="application/json")
    assert b'"success"' in response.data, response.data
    body = {"model": name, "messages": [{"role": "user", "content": content("RED")}]}
    answer = server.post("/v1/chat/completions", body)
    assert answer.status == 200, answer.data
    assert answer.json()["choices"][0]["message"]["content"] == "RED"


def test_images_of_the_command_line_are_seen_in_their_order(
    server: Server, dmr: CommandLine, weights: Path, projector: Path, tmp_path: Path
) -> None:
    dmr.run("import", str(weights), "--mmproj", str(projector), "eyes/run")
    for colour in COLOURS:
        (tmp_path / f"{colour.lower()}.png").write_bytes(png(colour))
    red = str(tmp_path / "red.png")
    assert dmr.text("run", "eyes/run", "--image", red, "what is this?").strip() == "RED"
    assert dmr.text("run", "eyes/run", f"what is @{tmp_path}/cyan.png here?").strip() == "CYAN"
    dmr.run("import", str(weights), "eyes/none")
    refused = dmr.run("run", "eyes/none", "--image", red, "what is this?", status=1)
    assert b"lacks the capability 'vision'" in refused.stderr
    assert b"Traceback" not in refused.stderr
    assert dmr.text("run", "eyes/none", "hi").strip() == SCRIPT_ANSWER


def test_a_projector_of_another_model_is_a_clear_error(
    server: Server, dmr: CommandLine, weights: Path, tiny_folder: Path
) -> None:
    dmr.run("import", str(weights), "--mmproj", str(model_file("tiny-hybrid-mmproj", tiny_folder)), "eyes/wrong")
    response = server.post("/v1/chat/completions", {"model": "eyes/wrong", "messages": [user("RED")]})
    assert response.status >= 400
    assert "projector" in response.json()["error"]["message"]
    assert "n_embd" in response.json()["error"]["message"]
    assert server.get("/ready").status == 200


def test_a_projector_that_aborts_its_engine_costs_that_model_only(
    server: Server, dmr: CommandLine, weights: Path, projector: Path, tmp_path: Path
) -> None:
    data, key = bytearray(projector.read_bytes()), b"clip.vision.image_size"
    at = data.index(key) + len(key) + 4  # behind the type
    data[at : at + 4] = bytes(4)
    (tmp_path / "hostile.gguf").write_bytes(data)
    dmr.run("import", str(weights), "--mmproj", str(tmp_path / "hostile.gguf"), "eyes/hostile")
    dmr.run("import", str(weights), "eyes/harmless")
    for _ in range(2):
        refused = server.post("/v1/chat/completions", {"model": "eyes/hostile", "messages": [user("RED")]})
        assert refused.status >= 500
        assert "eyes/hostile" in refused.json()["error"]["message"]
        assert server.chat("eyes/harmless")["choices"][0]["message"]["content"] == SCRIPT_ANSWER


def test_what_is_encoded_is_counted(server: Server, dmr: CommandLine, weights: Path, projector: Path) -> None:
    dmr.run("import", str(weights), "--mmproj", str(projector), "eyes/counted")
    for _ in range(3):
        assert server.post("/v1/chat/completions", {"model": "eyes/counted", "messages": [user("RED")]}).status == 200
    told = server.get("/metrics").data.decode().splitlines()
    counts = {
        line.split("{")[0]: float(line.split()[-1]) for line in told if "eyes/counted" in line and "media" in line
    }
    assert (counts["dmr_media_encoded_total"], counts["dmr_media_cache_hits_total"]) == (1, 2)
    assert counts["dmr_media_cache_bytes"] > 0


def user(colour: str) -> dict[str, Any]:
    return {"role": "user", "content": content(colour)}
