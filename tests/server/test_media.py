"""Pictures and sounds in the bodies of every dialect: what the service is asked, in order, and what is refused."""

from __future__ import annotations

import base64
import string
from collections.abc import Callable
from typing import Any, TypeVar

import falcon.testing
import msgspec
import pytest
from fakes import FakeService
from hypothesis import given
from hypothesis import strategies as st

from dmr.errors import InvalidRequest, PayloadTooLarge, Unsupported
from dmr.types import ChatInput, Event, MediaLink, MediaPart, Message, Role, TextPart, TokenCount
from dmr_server import media
from dmr_server.media import decode, is_sound, read_source
from dmr_server.ollama.images import place_images

Client = falcon.testing.TestClient
T = TypeVar("T")
RED, BLUE, WAVE = b"\x89PNG red", b"\x89PNG blue", b"RIFF\x04\0\0\0WAVE"
URL = "https://a.example/green.png"


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{coded(data)}"


def picture(data: bytes, detail: str = "auto") -> MediaPart:
    return MediaPart("image", data, detail)


class Asker:
    """Sends bodies and gives the conversation that the service saw."""

    def __init__(self, client: Client, service: FakeService, answer: tuple[Event, ...]) -> None:
        self.client = client
        self.service = service
        self._answer = answer

    def messages(self, path: str, **body: Any) -> list[Message]:
        self.service.enqueue(*self._answer)
        result = self.client.simulate_post(path, json={"model": "ai/smollm2", **body})
        assert result.status_code == 200, result.text
        chat = self.service.requests[-1].input
        assert isinstance(chat, ChatInput)
        return list(chat.messages)


@pytest.fixture
def ask(client: Client, service: FakeService, answer: tuple[Event, ...]) -> Asker:
    service.features = (*service.features, "vision", "audio")
    return Asker(client, service, answer)


EXPECTED = (TextPart("Is"), picture(RED), TextPart("or"), picture(BLUE), TextPart("red?"))


def test_chat_completions(ask: Asker) -> None:
    parts = [
        {"type": "text", "text": "Is"},
        {"type": "image_url", "image_url": {"url": uri(RED)}},
        {"type": "text", "text": "or"},
        {"type": "image_url", "image_url": uri(BLUE)},
        {"type": "text", "text": "red?"},
    ]
    again = {"type": "image_url", "image_url": {"url": URL, "detail": "high"}}
    turns = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "The first."},
        {"role": "user", "content": [again, {"type": "text", "text": "And this?"}]},
    ]
    told = ask.messages("/v1/chat/completions", messages=turns)
    assert told[0].parts == EXPECTED
    assert told[2].parts == (
        MediaLink("image", URL, "high", "messages[2].content[0].image_url.url"),
        TextPart("And this?"),
    )


@pytest.mark.parametrize(
    ("detail", "told"), [(None, "auto"), ("auto", "auto"), ("low", "low"), ("high", "high"), ("original", "high")]
)
def test_how_closely_a_picture_is_looked_at(ask: Asker, detail: str | None, told: str) -> None:
    for part in (
        {"type": "image_url", "image_url": {"url": uri(RED), "detail": detail}},
        {"type": "image_url", "image_url": uri(RED), "detail": detail},
    ):
        (message,) = ask.messages("/v1/chat/completions", messages=[{"role": "user", "content": [part]}])
        assert message.parts == (picture(RED, told),)


def test_chat_completions_results_with_pictures(ask: Asker) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    content = [{"type": "text", "text": "Seen:"}, {"type": "image_url", "image_url": {"url": uri(RED)}}]
    turns = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": content},
    ]
    *_, result = ask.messages("/v1/chat/completions", messages=turns)
    assert (result.role, result.parts) == (Role.TOOL, (TextPart("Seen:"), picture(RED)))


@pytest.mark.parametrize("form", ["wav", "mp3", "flac", None])
def test_chat_completions_hear(ask: Asker, form: str | None) -> None:
    part = {"type": "input_audio", "input_audio": {"data": coded(WAVE), "format": form}}
    (message,) = ask.messages("/v1/chat/completions", messages=[{"role": "user", "content": [part]}])
    assert message.parts == (MediaPart("audio", WAVE),)


def test_messages(ask: Asker) -> None:
    def image(data: bytes) -> dict[str, Any]:
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": coded(data)}}

    content = [
        {"type": "text", "text": "Is"},
        image(RED),
        {"type": "text", "text": "or"},
        image(BLUE),
        {"type": "text", "text": "red?"},
    ]
    turns = [{"role": "user", "content": content}]
    (message,) = ask.messages("/v1/messages", messages=turns, max_tokens=9)
    assert message.parts == EXPECTED
    ask.service.replies.append(TokenCount(9, 100))
    counted = ask.client.simulate_post("/v1/messages/count_tokens", json={"model": "ai/smollm2", "messages": turns})
    assert counted.json == {"input_tokens": 9}
    assert ask.service.counted[-1].input.messages == (message,)


def test_ollama_chat(ask: Asker) -> None:
    turns = [
        {"role": "user", "content": "Is[img]or[img]red?", "images": [coded(RED), coded(BLUE)]},
        {"role": "assistant", "content": "The first."},
        {"role": "user", "content": "And these?", "images": [uri(RED), URL, coded(WAVE)]},
    ]
    told = ask.messages("/api/chat", messages=turns)
    assert told[0].parts == EXPECTED
    assert told[2].parts == (
        picture(RED),
        MediaLink("image", URL, param="messages[2].images[1]"),
        MediaPart("audio", WAVE),
        TextPart("And these?"),
    )


def test_ollama_generate(ask: Asker) -> None:
    told = ask.messages("/api/generate", prompt="What is it?", system="Be brief.", images=[coded(RED)])
    assert [message.parts for message in told] == [(TextPart("Be brief."),), (picture(RED), TextPart("What is it?"))]
    (message,) = ask.messages("/api/generate", prompt="", images=[coded(RED)])
    assert message.parts == (picture(RED),)


@pytest.mark.parametrize(
    ("text", "num_images", "expected"),
    [
        ("a", 1, "0a"),
        ("a[img]b", 1, "a0b"),
        ("a[img]b", 2, "1a0b"),
        ("[img][img]", 2, "01"),
        ("a[img]b[img]c", 1, "a0b[img]c"),
        ("a[img]b", 0, "a[img]b"),
        ("", 2, "01"),
    ],
)
def test_where_ollamas_images_stand(text: str, num_images: int, expected: str) -> None:
    parts = place_images(text, tuple(picture(str(number).encode()) for number in range(num_images)))
    assert "".join(part.text if isinstance(part, TextPart) else part.data.decode() for part in parts) == expected


CONTENT = [
    {"type": "input_text", "text": "Is"},
    {"type": "input_image", "image_url": uri(RED), "detail": "auto"},
    {"type": "input_text", "text": "or"},
    {"type": "input_image", "image_url": uri(BLUE)},
    {"type": "input_text", "text": "red?"},
]


def test_responses(ask: Asker) -> None:
    output = [{"type": "input_text", "text": "Seen:"}, {"type": "input_image", "image_url": URL, "detail": "low"}]
    items = [
        {"role": "user", "content": CONTENT},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": output},
        {
            "role": "user",
            "content": [{"type": "input_audio", "input_audio": {"data": coded(WAVE), "format": "wav"}}],
        },
    ]
    user, _, result, heard = ask.messages("/v1/responses", input=items, store=False)
    assert user.parts == EXPECTED
    assert result.role is Role.TOOL
    assert [msgspec.structs.astuple(part) for part in result.parts][1][:3] == ("image", URL, "low")
    assert heard.parts == (MediaPart("audio", WAVE),)


@pytest.mark.parametrize("cut", [True, False])
@given(data=st.binary(min_size=1, max_size=50))
def test_what_was_coded_is_decoded(cut: bool, data: bytes) -> None:
    text = base64.encodebytes(data).decode() if cut else coded(data)
    assert decode(text, "here") == data


def outcome(read: Callable[[], T]) -> T | InvalidRequest:
    try:
        return read()
    except InvalidRequest as error:
        return error


@given(st.text(string.ascii_letters + string.digits + "+/=-_ \n\t\0é", max_size=40))
def test_any_text_is_decoded_or_refused(text: str) -> None:
    found = outcome(lambda: decode(text, "here"))
    if isinstance(found, bytes):
        sent, canonical = text.replace("\n", ""), coded(found)
        assert (len(sent), sent[:-4]) == (len(canonical), canonical[:-4])  # unused bits at the end may be anything
    else:
        assert found.param == "here"


URI_PIECES = ("data:", "DATA:", "image/png", "audio/wav", ";base64", ";BASE64", ";charset=utf-8", ",", ";", "AAAA", "=")


@given(
    st.lists(st.sampled_from(URI_PIECES) | st.text(max_size=5), max_size=8).map("".join),
    st.sampled_from(["image", "audio"]),
)
def test_any_source_is_read_or_refused(source: str, kind: Any) -> None:
    found = outcome(lambda: read_source(source, kind, "here"))
    if isinstance(found, InvalidRequest):
        assert found.param == "here"
        assert len(found.message) < 300
    else:
        assert found.kind == kind


@pytest.mark.parametrize(
    "source",
    [
        uri(RED),
        uri(RED).replace("data:", "DATA:"),
        uri(RED, ""),
        uri(RED, "application/octet-stream"),
        uri(RED, "IMAGE/PNG"),
        uri(RED, "image/png;name=red.png"),
    ],
)
def test_spellings_of_data_uris(source: str) -> None:
    assert read_source(source, "image", "here") == picture(RED)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("data:image/png,%89PNG", "in base64"),
        ("data:image/png;base64", "no data URI"),
        ("data:" + "a" * 500 + ";base64,AAAA", "no data URI"),
        ("data:audio/wav;base64,AAAA", "'audio/wav' is no image"),
        ("data:image/png;base64,AAA", "not valid base64"),
        ("data:image/png;base64,AA-_", "not valid base64"),
        ("data:image/png;base64,AAA==", "not valid base64"),
        ("data:image/png;base64, AAAA", "not valid base64"),
        ("javascript:alert(1)", "'javascript:' is not read"),
        ("/etc/passwd", "expected a data URI"),
        ("", "expected a data URI"),
        (" https://a.example/", "expected a data URI"),
    ],
)
def test_sources_that_are_refused(source: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        read_source(source, "image", "here")


def test_a_file_is_measured_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_BYTES", 30)
    assert len(decode(coded(b"a" * 30), "here")) == 30
    with pytest.raises(PayloadTooLarge, match="30 bytes"):
        decode("?" * 45, "here")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (WAVE, True),
        (b"fLaC", True),
        (b"ID3\x04", True),
        (b"\xff\xfb\x90", True),
        (b"\xff\xd8\xff\xe0", False),  # JPEG
        (b"RIFF\0\0\0\0WEBP", False),
        (RED, False),
        (b"\xff", False),
    ],
)
def test_sounds_are_told_from_pictures(data: bytes, expected: bool) -> None:
    assert is_sound(data) is expected


REFUSALS = [
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": uri(RED)}]}]},
    ),
    ("/v1/responses", {"input": [{"role": "user", "content": CONTENT}]}),
    (
        "/v1/messages",
        {
            "max_tokens": 9,
            "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": URL}}]}],
        },
    ),
    ("/api/chat", {"messages": [{"role": "user", "content": "a", "images": [coded(RED)]}]}),
    ("/api/generate", {"prompt": "a", "images": [coded(RED)]}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), REFUSALS)
def test_a_model_that_cannot_see_says_so(
    client: Client, service: FakeService, path: str, body: dict[str, Any], stream: bool
) -> None:
    """The service finds it out (Ollama's routes before), and each dialect tells it in its own shape."""
    told = "The model 'ai/smollm2' does not take images: it lacks the capability 'vision'."
    service.enqueue(Unsupported(told, param="messages"))
    result = client.simulate_post(path, json={"model": "ai/smollm2", **body, "stream": stream})
    assert result.status_code == 400
    error = result.json["error"]
    message = error if isinstance(error, str) else error["message"]
    assert "does not take images: it lacks the capability 'vision'" in message
    if not isinstance(error, str):
        assert error["type"] == "invalid_request_error"
