"""POST /v1/audio/transcriptions, by the official client and without it."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing
import pytest
from fakes import FakeService

from dmr.errors import InvalidRequest
from dmr.types import (
    ChatInput,
    Completed,
    Event,
    Finished,
    FinishReason,
    MediaPart,
    Started,
    TextDelta,
    TextPart,
    Usage,
)

Client = falcon.testing.TestClient
PATH = "/v1/audio/transcriptions"
WAVE = b"RIFF\x04\0\0\0WAVE"
SAID: tuple[Event, ...] = (
    Started(9),
    TextDelta(0, " Good"),
    TextDelta(0, " morning. "),
    Finished(0, FinishReason.STOP),
    Completed(Usage(9, 0, 4)),
)
USAGE = {"type": "tokens", "input_tokens": 9, "output_tokens": 4, "total_tokens": 13}


@pytest.fixture
def hearing(service: FakeService) -> FakeService:
    service.features = (*service.features, "audio")
    return service


def send(client: Client, path: str = PATH, **fields: Any) -> falcon.testing.Result:
    """Bytes are files."""
    form = {"model": "ai/smollm2", "file": WAVE, **fields}
    body = b""
    for name, value in form.items():
        if value is None:
            continue
        filename = f'; filename="{name}.wav"' if isinstance(value, bytes) else ""
        data = value if isinstance(value, bytes) else str(value).encode()
        body += f'--x\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'.encode() + data + b"\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return client.simulate_post(path, body=body + b"--x--\r\n", headers=headers)


def heard(client: Client, service: FakeService, **fields: Any) -> falcon.testing.Result:
    service.enqueue(*SAID)
    result = send(client, **fields)
    assert result.status_code == 200, result.text
    return result


def test_a_transcript(client: Client, hearing: FakeService) -> None:
    assert heard(client, hearing).json == {"text": "Good morning.", "usage": USAGE}
    request = hearing.requests[-1]
    assert isinstance(request.input, ChatInput)
    (message,) = request.input.messages
    sound, task = message.parts
    assert sound == MediaPart("audio", WAVE)
    assert isinstance(task, TextPart)
    assert "word for word" in task.text
    assert (request.sampling.temperature, request.input.enable_thinking) == (0, False)
    assert request.given >= {"temperature"}


def test_what_is_known_of_it_goes_along(client: Client, hearing: FakeService) -> None:
    heard(client, hearing, language="de", prompt="Grüße aus Köln", temperature="0.4")
    request = hearing.requests[-1]
    assert isinstance(request.input, ChatInput)
    assert "The language is de." in request.input.messages[0].text
    assert request.input.messages[0].text.endswith("Grüße aus Köln")
    assert request.sampling.temperature == 0.4


def test_as_text(client: Client, hearing: FakeService) -> None:
    result = heard(client, hearing, response_format="text")
    assert result.text == "Good morning.\n"
    assert result.headers["content-type"].startswith("text/plain")


def test_with_more_around_it(client: Client, hearing: FakeService) -> None:
    expected = {"text": "Good morning.", "usage": USAGE, "task": "transcribe"}
    assert heard(client, hearing, response_format="verbose_json").json == expected
    result = heard(client, hearing, response_format="verbose_json", language="en")
    assert result.json == {**expected, "language": "en"}


def test_a_stream(client: Client, hearing: FakeService) -> None:
    result = heard(client, hearing, stream="true")
    assert result.headers["content-type"] == "text/event-stream"
    events = [json.loads(line.removeprefix("data: ")) for line in result.text.split("\n\n") if line]
    assert events == [
        {"type": "transcript.text.delta", "delta": "Good"},
        {"type": "transcript.text.delta", "delta": " morning. "},
        {"type": "transcript.text.done", "text": "Good morning.", "usage": USAGE},
    ]


@pytest.mark.parametrize("root", ["/v1", "/engines/v1", "/engines/llama.cpp/v1"])
def test_every_root(client: Client, hearing: FakeService, root: str) -> None:
    hearing.enqueue(*SAID)
    assert send(client, f"{root}/audio/transcriptions").status_code == 200


@pytest.mark.parametrize(
    ("fields", "status", "param", "told"),
    [
        ({"model": None}, 400, "model", "required"),
        ({"model": "ai/none"}, 404, "model", "does not exist"),
        ({"model": "ai/none", "file": None}, 404, "model", "does not exist"),
        ({"file": None}, 400, "file", "Missing"),
        ({"file": "text"}, 400, "file", "with a file's name"),
        ({"file": b""}, 400, "file", "empty"),
        ({"response_format": "srt"}, 400, "response_format", "does not tell when"),
        ({"response_format": "vtt"}, 400, "response_format", "does not tell when"),
        ({"response_format": "diarized_json"}, 400, "response_format", "json, text, verbose_json"),
        ({"timestamp_granularities[]": "word"}, 400, "timestamp_granularities[]", "does not tell when"),
        ({"include[]": "logprobs"}, 400, "include[]", "logprobs"),
        ({"temperature": "hot"}, 400, "temperature", "number"),
        ({"temperature": "nan"}, 400, "temperature", "temperature"),
        ({"temperature": "7"}, 400, "temperature", "<= 1"),
        ({"stream": "perhaps"}, 400, "stream", "true or false"),
        ({"language": "</s>"}, 400, "language", "code"),
    ],
)
def test_what_is_wrong_is_named(
    client: Client, hearing: FakeService, fields: dict[str, Any], status: int, param: str, told: str
) -> None:
    result = send(client, **fields)
    error = result.json["error"]
    assert (result.status_code, error["type"], error["param"]) == (status, "invalid_request_error", param)
    assert told in error["message"]
    assert hearing.requests == []


def test_a_model_that_does_not_hear(client: Client, service: FakeService) -> None:
    result = send(client)
    assert result.status_code == 400
    assert "does not take audio: it lacks the capability 'audio'" in result.json["error"]["message"]


def test_what_is_no_sound(client: Client, hearing: FakeService) -> None:
    hearing.enqueue(InvalidRequest("The sound cannot be used: it is of no known format.", param="audio"))
    result = send(client)
    assert (result.status_code, result.json["error"]["type"]) == (400, "invalid_request_error")


def test_no_form_no_transcript(client: Client, hearing: FakeService) -> None:
    result = client.simulate_post(PATH, json={"model": "ai/smollm2"})
    assert (result.status_code, result.json["error"]["code"]) == (415, "unsupported_media_type")
    broken = client.simulate_post(PATH, body=b"--x\r\n", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert (broken.status_code, broken.json["error"]["type"]) == (400, "invalid_request_error")


def test_translations_are_refused(client: Client) -> None:
    result = send(client, "/v1/audio/translations")
    assert result.status_code == 501
    assert "/v1/audio/transcriptions" in result.json["error"]["message"]
