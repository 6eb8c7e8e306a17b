"""Pictures through every dialect, by the official clients, to a real server whose model names the colour it sees."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic
from e2e.conftest import STARTER_MODEL, Server
from e2e.examples import Block, blocks
from e2e.pictures import coded, data_uri, picture
from ollama import Client
from ollama import ResponseError as OllamaError
from tiny_models import SCRIPT_COLOURS, SCRIPT_TOOL, THINK_REASONING, model_file, write_projector_for

from dmr.store.store import ModelStore

THINKS = "test/thinks-and-sees"
SEES, TEXT_ONLY, REAL = "test/sees", "test/tiny-script", "test/smollm2-sees"
WHAT = "What is this?"


class PictureSite(BaseHTTPRequestHandler):
    """/red is a red picture, and so on; /away leads to the server's inside."""

    def do_GET(self) -> None:
        colour = self.path.strip("/").upper()
        self.send_response(302 if colour == "AWAY" else 200)
        self.send_header("Location", "http://127.0.0.1:9/")
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        if colour in SCRIPT_COLOURS:
            self.wfile.write(picture(colour))

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), PictureSite)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, site: str) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("seeing")
    store = ModelStore(folder / "models")
    script = model_file("tiny-script", tiny_folder)
    store.import_gguf(script, TEXT_ONLY)
    store.import_gguf(script, SEES, mmproj=model_file("tiny-script-mmproj", tiny_folder))
    thinking = model_file("tiny-think", tiny_folder)
    store.import_gguf(thinking, THINKS, mmproj=model_file("tiny-script-mmproj", tiny_folder))
    if STARTER_MODEL.exists():
        projector = folder / "smollm2-mmproj.gguf"
        write_projector_for(STARTER_MODEL, projector)
        store.import_gguf(STARTER_MODEL, REAL, mmproj=projector)
    running = Server(folder, DMR_CONTEXT_SIZE="2048", DMR_FETCH_MEDIA=site)
    yield running
    running.stop()


def image_url(colour: str, form: str = "PNG") -> Any:
    return {"type": "image_url", "image_url": {"url": data_uri(colour, form)}}


def text(words: str) -> Any:
    return {"type": "text", "text": words}


def chat(server: Server, content: Any, **fields: Any) -> str:
    turns: Any = [{"role": "user", "content": content}]
    reply = server.client().chat.completions.create(model=SEES, messages=turns, temperature=0, **fields)
    return reply.choices[0].message.content


@pytest.mark.parametrize("colour", SCRIPT_COLOURS)
def test_chat_completions_name_each_colour(seeing: Server, colour: str) -> None:
    assert chat(seeing, [image_url(colour), text(WHAT)]) == colour
    assert chat(seeing, [text(WHAT), image_url(colour)]) == colour


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF", "BMP"])
def test_formats(seeing: Server, form: str) -> None:
    assert chat(seeing, [image_url("GREEN", form), text(WHAT)]) == "GREEN"


def test_several_pictures(seeing: Server) -> None:
    """The model names what it sees most of: each picture counts."""
    for first, second in (("RED", "BLUE"), ("BLUE", "RED")):
        content = [image_url(first), text("and"), image_url(second), text("and"), image_url(first), text(WHAT)]
        assert chat(seeing, content) == first


def test_several_turns(seeing: Server) -> None:
    client = seeing.client()
    turns: list[Any] = [{"role": "user", "content": [image_url("RED"), text(WHAT)]}]
    first = client.chat.completions.create(model=SEES, messages=turns, temperature=0)
    assert first.choices[0].message.content == "RED"
    turns += [
        {"role": "assistant", "content": "A colour."},
        {"role": "user", "content": [image_url("BLUE"), image_url("BLUE"), text(WHAT)]},
    ]
    second = client.chat.completions.create(model=SEES, messages=turns, temperature=0)
    assert second.choices[0].message.content == "BLUE"
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert first.usage is not None
    # The first picture was computed once.
    assert second.usage.prompt_tokens_details.cached_tokens > 4


def test_streams(seeing: Server) -> None:
    turns: Any = [{"role": "user", "content": [image_url("CYAN"), text(WHAT)]}]
    chunks = seeing.client().chat.completions.create(model=SEES, messages=turns, stream=True, temperature=0)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "CYAN"


def test_tools_beside_a_projector(seeing: Server) -> None:
    tool: Any = {
        "type": "function",
        "function": {"name": SCRIPT_TOOL, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    turns: Any = [{"role": "user", "content": [image_url("RED"), text(WHAT)]}]
    reply = seeing.client().chat.completions.create(model=SEES, messages=turns, tools=[tool], temperature=0)
    assert reply.choices[0].message.tool_calls
    assert reply.choices[0].message.tool_calls[0].function.name == SCRIPT_TOOL


def test_thinking_beside_a_projector(seeing: Server) -> None:
    turns: Any = [{"role": "user", "content": [image_url("RED"), text(WHAT)]}]
    reply: Any = seeing.client().chat.completions.create(model=THINKS, messages=turns, temperature=0)
    assert reply.choices[0].message.reasoning_content == THINK_REASONING
    assert reply.choices[0].message.content


def test_counts_and_prompts(seeing: Server) -> None:
    body = {"model": SEES, "messages": [{"role": "user", "content": [image_url("RED"), text(WHAT)]}]}
    bare = {"model": SEES, "messages": [{"role": "user", "content": WHAT}]}
    with_one = seeing.post("/v1/chat/completions/input_tokens", body).json()["input_tokens"]
    without = seeing.post("/v1/chat/completions/input_tokens", bare).json()["input_tokens"]
    assert with_one >= without + 4  # a picture has four places
    usage = seeing.post("/v1/chat/completions", body).json()["usage"]
    assert usage["prompt_tokens"] == with_one
    prompt = seeing.post("/apply-template", body).json()["prompt"]
    assert f"[media 1]\n{WHAT}" in prompt
    tokens = seeing.post("/tokenize", body)
    assert tokens.status == 400
    assert "input_tokens" in tokens.json()["error"]["message"]


@pytest.mark.parametrize("colour", SCRIPT_COLOURS)
def test_responses_name_each_colour_and_keep_it(seeing: Server, colour: str) -> None:
    client = seeing.client()
    content: Any = [{"type": "input_image", "image_url": data_uri(colour)}, {"type": "input_text", "text": WHAT}]
    first = client.responses.create(model=SEES, input=[{"role": "user", "content": content}], temperature=0)
    assert first.output_text == colour
    again = client.responses.create(model=SEES, input="And now?", previous_response_id=first.id, temperature=0)
    assert again.output_text == colour
    (item,) = client.responses.input_items.list(first.id)
    assert item.type == "message"
    assert item.content[0].type == "input_image"
    assert item.content[0].image_url == data_uri(colour)


def test_responses_results_with_pictures(seeing: Server) -> None:
    items: Any = [
        {"role": "user", "content": WHAT},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_image", "image_url": data_uri("GREEN"), "detail": "auto"}],
        },
        {"role": "user", "content": WHAT},
    ]
    prompt = seeing.client().responses.input_tokens.count(model=SEES, input=items).input_tokens
    bare = [*items[:2], {**items[2], "output": ""}, items[3]]
    assert prompt >= seeing.client().responses.input_tokens.count(model=SEES, input=bare).input_tokens + 4
    assert seeing.client().responses.create(model=SEES, input=items, temperature=0).status == "completed"


@pytest.fixture
def claude(seeing: Server) -> Iterator[Anthropic]:
    with Anthropic(base_url=seeing.url, api_key="none", max_retries=0) as client:
        yield client


def image_block(colour: str) -> Any:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": coded(colour)}}


@pytest.mark.parametrize("colour", SCRIPT_COLOURS)
def test_messages_name_each_colour(claude: Anthropic, colour: str) -> None:
    turns: Any = [{"role": "user", "content": [image_block(colour), text(WHAT)]}]
    reply = claude.messages.create(model=SEES, max_tokens=20, messages=turns)
    assert reply.content[0].type == "text"
    assert reply.content[0].text == colour
    counted = claude.messages.count_tokens(model=SEES, messages=turns)
    assert counted.input_tokens == reply.usage.input_tokens + (reply.usage.cache_read_input_tokens or 0)


def test_messages_results_with_pictures(claude: Anthropic) -> None:
    def turns(content: Any) -> Any:
        return [
            {"role": "user", "content": "Look."},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_a", "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_a", "content": content}]},
        ]

    seen = claude.messages.count_tokens(model=SEES, messages=turns([text("Seen:"), image_block("RED")])).input_tokens
    told = claude.messages.count_tokens(model=SEES, messages=turns([text("Seen:")])).input_tokens
    assert seen >= told + 4
    claude.messages.create(model=SEES, max_tokens=9, messages=turns([text("Seen:"), image_block("RED")]))


@pytest.fixture
def llama(seeing: Server) -> Iterator[Client]:
    with Client(host=seeing.url) as client:
        yield client


@pytest.mark.parametrize("colour", SCRIPT_COLOURS)
def test_ollama_names_each_colour(llama: Client, colour: str, tmp_path: Path) -> None:
    file = tmp_path / "it.png"
    file.write_bytes(picture(colour))
    turns: Any = [{"role": "user", "content": WHAT, "images": [file]}]
    assert llama.chat(SEES, messages=turns, options={"temperature": 0}).message.content == colour
    reply = llama.generate(SEES, WHAT, images=[picture(colour)], options={"temperature": 0})
    assert reply.response == colour
    # What it answers is a text; its context goes on, without the picture.
    assert reply.context is not None
    assert min(reply.context) >= 0


def test_ollama_shows_the_prompt(seeing: Server) -> None:
    body = {"model": SEES, "prompt": WHAT, "images": [coded("RED"), coded("BLUE")], "_debug_render_only": True}
    info = seeing.post("/api/generate", body).json()["_debug_info"]
    assert info["image_count"] == 2
    assert "[media 1]\n[media 2]\nWhat is this?" in info["rendered_template"]
    bare = seeing.post("/api/generate", {**body, "images": []}).json()["_debug_info"]
    assert "image_count" not in bare


@pytest.mark.parametrize("block", blocks("docs/multimodal.md"), ids=Block.name)
def test_the_pages_examples(seeing: Server, block: Block, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(picture("MAGENTA"))
    if block.language == "bash" and not (shutil.which("bash") and shutil.which("curl") and shutil.which("base64")):
        pytest.skip("the example needs bash, curl and base64")
    runner = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    code = block.at(seeing.url).replace("ai/gemma3", SEES)
    done = subprocess.run([*runner, code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MAGENTA" in done.stdout


def test_what_models_can_do(seeing: Server, llama: Client) -> None:
    assert "vision" in (llama.show(SEES).capabilities or ())
    assert "vision" not in (llama.show(TEXT_ONLY).capabilities or ())
    served = {model["id"]: model for model in seeing.get("/v1/models").json()["data"]}
    assert "vision" in served[f"{SEES}:latest"]["dmr"]["capabilities"]
    assert "vision" not in served[f"{TEXT_ONLY}:latest"]["dmr"]["capabilities"]


def test_a_model_that_cannot_see_is_not_loaded_to_say_so(seeing: Server, claude: Anthropic, llama: Client) -> None:
    seeing.post("/engines/unload", {"all": True})
    told = f"The model '{TEXT_ONLY}' does not take images: it lacks the capability 'vision'."
    turns: Any = [{"role": "user", "content": [image_url("RED"), text(WHAT)]}]
    with pytest.raises(openai.BadRequestError) as chat_error:
        seeing.client().chat.completions.create(model=TEXT_ONLY, messages=turns)
    assert chat_error.value.body["message"] == told  # type: ignore[index]
    content: Any = [{"type": "input_image", "image_url": data_uri("RED")}]
    with pytest.raises(openai.BadRequestError, match="vision"):
        seeing.client().responses.create(model=TEXT_ONLY, input=[{"role": "user", "content": content}])
    with pytest.raises(anthropic.BadRequestError, match="vision"):
        claude.messages.create(
            model=TEXT_ONLY, max_tokens=9, messages=[{"role": "user", "content": [image_block("RED")]}]
        )
    with pytest.raises(OllamaError, match="vision") as ollama_error:
        llama.chat(TEXT_ONLY, messages=[{"role": "user", "content": WHAT, "images": [picture("RED")]}])
    assert ollama_error.value.status_code == 400
    assert seeing.get("/engines/ps").json() == []


@pytest.mark.parametrize(
    ("data", "told"),
    [(b"nonsense", "known format"), (picture("RED")[:60], "cannot be"), (b"<svg xmlns='a'/>", "known format")],
)
def test_what_is_no_picture(seeing: Server, data: bytes, told: str) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    with pytest.raises(openai.BadRequestError, match=told):
        chat(seeing, [{"type": "image_url", "image_url": {"url": uri}}, text(WHAT)])


def test_urls_that_are_allowed(seeing: Server, site: str, claude: Anthropic, llama: Client) -> None:
    assert chat(seeing, [{"type": "image_url", "image_url": {"url": f"http://{site}/red"}}, text(WHAT)]) == "RED"
    block: Any = {"type": "image", "source": {"type": "url", "url": f"http://{site}/blue"}}
    reply = claude.messages.create(
        model=SEES, max_tokens=20, messages=[{"role": "user", "content": [block, text(WHAT)]}]
    )
    assert reply.content[0].type == "text"
    assert reply.content[0].text == "BLUE"
    content: Any = [{"type": "input_image", "image_url": f"http://{site}/cyan"}, {"type": "input_text", "text": WHAT}]
    client = seeing.client()
    first = client.responses.create(model=SEES, input=[{"role": "user", "content": content}], temperature=0)
    assert first.output_text == "CYAN"
    again = client.responses.create(model=SEES, input="And now?", previous_response_id=first.id, temperature=0)
    assert again.output_text == "CYAN"
    body = {"model": SEES, "stream": False, "messages": [{"role": "user", "content": WHAT, "images": []}]}
    body["messages"][0]["images"] = [f"http://{site}/white"]  # type: ignore[index]
    assert seeing.post("/api/chat", body).json()["message"]["content"] == "WHITE"


@pytest.mark.parametrize(("path", "told"), [("away", "may not ask"), ("nothing", "known format|empty|cannot")])
def test_urls_that_lead_elsewhere(seeing: Server, site: str, path: str, told: str) -> None:
    with pytest.raises(openai.BadRequestError, match=told):
        chat(seeing, [{"type": "image_url", "image_url": {"url": f"http://{site}/{path}"}}, text(WHAT)])


@pytest.mark.skipif(not STARTER_MODEL.exists(), reason="the starter model is not there: make model")
@pytest.mark.parametrize("colour", ["red", "green", "blue", "yellow", "black", "white"])
def test_a_real_model_names_colours(seeing: Server, colour: str) -> None:
    content = [text("The wall was painted"), image_url(colour.upper()), text("Say the colour of the wall in one word.")]
    turns: Any = [{"role": "user", "content": content}]
    reply = seeing.client().chat.completions.create(model=REAL, messages=turns, temperature=0, max_tokens=14)
    assert f'"{colour}"' in (reply.choices[0].message.content or "").lower()


def test_urls_are_not_fetched_unless_they_are_allowed(seeing: Server, claude: Anthropic) -> None:
    with pytest.raises(openai.BadRequestError, match="DMR_FETCH_MEDIA"):
        chat(seeing, [{"type": "image_url", "image_url": {"url": f"{seeing.url}/version"}}, text(WHAT)])
    block: Any = {"type": "image", "source": {"type": "url", "url": f"{seeing.url}/version"}}
    with pytest.raises(anthropic.BadRequestError, match="DMR_FETCH_MEDIA"):
        claude.messages.create(model=SEES, max_tokens=9, messages=[{"role": "user", "content": [block]}])
