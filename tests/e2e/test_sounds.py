"""Sounds through every dialect, by the official clients, to a real server whose model tells noise from silence."""

from __future__ import annotations

import base64
import io
import random
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from e2e.conftest import Server
from ollama import Client
from tiny_models import NOISE, SILENCE, model_file

from dmr.store.store import ModelStore

HEARS, TEXT_ONLY = "test/hears", "test/tiny-script"
WHAT = "What is this?"


def sound(*, is_loud: bool) -> bytes:
    """Half a minute, as a WAV file."""
    rate = 8000
    size = 2 * 30 * rate
    samples = random.Random(1).randbytes(size) if is_loud else bytes(size)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(samples)
    return file.getvalue()


SOUNDS = [pytest.param(sound(is_loud=True), NOISE, id="noise"), pytest.param(sound(is_loud=False), SILENCE, id="quiet")]


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hearing")
    store = ModelStore(folder / "models")
    script = model_file("tiny-script", tiny_folder)
    store.import_gguf(script, TEXT_ONLY)
    store.import_gguf(script, HEARS, mmproj=model_file("tiny-script-ear", tiny_folder))
    running = Server(folder, DMR_CONTEXT_SIZE="4096")
    yield running
    running.stop()


@pytest.mark.parametrize(("data", "expected"), SOUNDS)
def test_chat_completions(hearing: Server, data: bytes, expected: str) -> None:
    part: Any = {"type": "input_audio", "input_audio": {"data": coded(data), "format": "wav"}}
    turns: Any = [{"role": "user", "content": [part, {"type": "text", "text": WHAT}]}]
    reply = hearing.client().chat.completions.create(model=HEARS, messages=turns, temperature=0)
    assert reply.choices[0].message.content == expected


@pytest.mark.parametrize(("data", "expected"), SOUNDS)
def test_responses(hearing: Server, data: bytes, expected: str) -> None:
    part: Any = {"type": "input_audio", "input_audio": {"data": coded(data), "format": "wav"}}
    content: Any = [part, {"type": "input_text", "text": WHAT}]
    client = hearing.client()
    first = client.responses.create(model=HEARS, input=[{"role": "user", "content": content}], temperature=0)
    assert first.output_text == expected


@pytest.mark.parametrize(("data", "expected"), SOUNDS)
def test_ollama(hearing: Server, data: bytes, expected: str) -> None:
    with Client(host=hearing.url) as client:
        turns: Any = [{"role": "user", "content": WHAT, "images": [data]}]
        assert client.chat(HEARS, messages=turns, options={"temperature": 0}).message.content == expected
        capabilities = client.show(HEARS).capabilities or ()
        assert "audio" in capabilities
        assert "vision" not in capabilities


@pytest.mark.parametrize(("data", "expected"), SOUNDS)
def test_transcripts(hearing: Server, data: bytes, expected: str) -> None:
    transcriptions = hearing.client().audio.transcriptions
    whole = transcriptions.create(model=HEARS, file=("a.wav", data), prompt="Names", language="en")
    assert whole.text == expected
    assert whole.usage is not None
    assert whole.usage.type == "tokens"
    assert whole.usage.input_tokens > 750  # places of half a minute
    text: Any = transcriptions.create(model=HEARS, file=("a.wav", data), response_format="text")
    assert text == f"{expected}\n"
    verbose = transcriptions.create(model=HEARS, file=("a.wav", data), response_format="verbose_json")
    assert verbose.text == expected
    events = list(transcriptions.create(model=HEARS, file=("a.wav", data), stream=True))
    assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == expected
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == expected


def test_what_is_no_sound(hearing: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="sound cannot be used"):
        hearing.client().audio.transcriptions.create(model=HEARS, file=("a.wav", b"RIFF\x04\0\0\0WAVE"))


def test_a_model_that_does_not_hear(hearing: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="lacks the capability 'audio'"):
        hearing.client().audio.transcriptions.create(model=TEXT_ONLY, file=("a.wav", sound(is_loud=True)))
    part: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError, match="lacks the capability 'vision'"):
        hearing.client().chat.completions.create(model=HEARS, messages=[{"role": "user", "content": [part]}])


def test_subtitles_are_refused(hearing: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="does not tell when"):
        hearing.client().audio.transcriptions.create(model=HEARS, file=("a.wav", b"a"), response_format="srt")
