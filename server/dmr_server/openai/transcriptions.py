"""POST /v1/audio/transcriptions: a model that hears is asked to write down what is said.

Fields and answers are those of OpenAI's OpenAPI document. Nobody tells such a model when a word was said, so there is
nothing with times: no subtitles, no segments, no words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Union

import falcon
import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import DmrError, InvalidRequest, Unsupported
from dmr.types import (
    ChatInput,
    Completed,
    Completion,
    Event,
    GenerateRequest,
    MediaPart,
    Message,
    Role,
    SamplingParams,
    TextDelta,
    TextPart,
    Usage,
)
from dmr_server.dialect import COMMENT_INTERVAL, EVENT_STREAM, Encoder, respond
from dmr_server.fields import checked
from dmr_server.forms import Form, read_form
from dmr_server.generation import BACKEND, check_backend, model_of, only_preloads
from dmr_server.media import MAX_BYTES
from dmr_server.openai.wire import COMMENT, OpenAIDialect, encode, frame, to_error
from dmr_server.recording.draft import draft_of

if TYPE_CHECKING:
    from dmr.service import Service

FORMATS = ("json", "text", "verbose_json")
_TIMES = "a model that is asked in a chat does not tell when a word was said"
_REFUSED: Mapping[str, str] = {
    "timestamp_granularities[]": _TIMES,
    "timestamp_granularities": _TIMES,
    "known_speaker_names[]": "speakers are not told apart here",
    "known_speaker_references[]": "speakers are not told apart here",
    "include[]": "there are no logprobs of a transcript",
}
_TIMED_FORMATS = ("srt", "vtt")
_LANGUAGE = re.compile(r"[A-Za-z][A-Za-z -]{0,40}")
_TASK = "Write down what is said in this recording, word for word. Answer with the transcript and nothing else."
_SWITCHES = {"true": True, "1": True, "false": False, "0": False, "": False}


class TranscriptUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    type: str = "tokens"


class Transcript(msgspec.Struct, frozen=True):
    text: str
    usage: TranscriptUsage


class VerboseTranscript(msgspec.Struct, frozen=True):
    """`language` as it was asked for; what the model has found is not known."""

    text: str
    usage: TranscriptUsage
    task: str = "transcribe"
    language: Union[str, UnsetType] = UNSET


class TranscriptDelta(msgspec.Struct, frozen=True, tag_field="type", tag="transcript.text.delta"):
    delta: str


class TranscriptDone(msgspec.Struct, frozen=True, tag_field="type", tag="transcript.text.done"):
    text: str
    usage: TranscriptUsage


class TranscriptionFields(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    prompt: str = ""
    language: str = ""
    response_format: str = "json"
    temperature: Annotated[float, Meta(ge=0, le=1)] = 0.0
    stream: bool = False


class TranscriptEncoder:
    """Encodes the events of one transcript."""

    media_type = EVENT_STREAM
    comment_interval = COMMENT_INTERVAL

    def __init__(self) -> None:
        self._texts: list[str] = []

    def encode(self, event: Event) -> bytes:
        if isinstance(event, TextDelta):
            text = event.text if self._texts else event.text.lstrip()
            self._texts += [text] if text else []
            return frame(TranscriptDelta(text)) if text else b""
        if isinstance(event, Completed):
            return frame(TranscriptDone("".join(self._texts).rstrip(), _usage(event.usage)))
        return b""

    def error(self, error: DmrError) -> bytes:
        return frame(to_error(error))

    def comment(self) -> bytes:
        return COMMENT


class TranscriptionExchange:
    """One recording and how its transcript is told."""

    def __init__(self, fields: TranscriptionFields, sound: bytes) -> None:
        self.request = _to_request(fields, sound)
        self.stream = fields.stream
        self._fields = fields

    @property
    def media_type(self) -> str:
        """Of a whole answer."""
        return falcon.MEDIA_TEXT if self._fields.response_format == "text" else falcon.MEDIA_JSON

    def encoder(self) -> Encoder:
        return TranscriptEncoder()

    def to_result(self, completion: Completion) -> bytes:
        text, usage = completion.choices[0].text.strip(), _usage(completion.usage)
        if self._fields.response_format == "text":
            return f"{text}\n".encode()
        if self._fields.response_format == "verbose_json":
            return encode(VerboseTranscript(text, usage, language=self._fields.language or UNSET))
        return encode(Transcript(text, usage))


class Transcriptions:
    """POST /v1/audio/transcriptions"""

    dialect = OpenAIDialect("file")

    def __init__(self, service: Service, max_body_bytes: int) -> None:
        self._service = service
        self._max_body_bytes = min(max_body_bytes, MAX_BYTES)

    def on_post(self, req: falcon.Request, resp: falcon.Response, backend: str = BACKEND) -> None:
        check_backend(backend)
        form = read_form(req, self._max_body_bytes)
        model = model_of(form.fields)
        draft = draft_of(req)
        if draft is not None:
            draft.asked(encode(form.fields), form.fields)
        if only_preloads(req, self._service, model):
            return
        record = self._service.get_model(model)  # an unknown model is told before any other mistake
        exchange = read_transcription(form)
        if "audio" not in self._service.capabilities(record):
            raise Unsupported(
                f"The model '{model}' does not take audio: it lacks the capability 'audio'.", param="model"
            )
        respond(req, resp, self._service, exchange)
        if resp.stream is None:
            resp.content_type = exchange.media_type


def read_transcription(form: Form) -> TranscriptionExchange:
    """Understand a form; raises InvalidRequest and Unsupported, naming the field."""
    for name, reason in _REFUSED.items():
        if form.fields.get(name):
            raise Unsupported(f"'{name}' is not supported: {reason}.", param=name)
    given = {name: value for name, value in form.fields.items() if value != ""}
    fields = checked(
        {
            **given,
            "temperature": _number(form.fields.get("temperature", "")),
            "stream": _switch(form.fields.get("stream", "")),
        },
        TranscriptionFields,
    )
    if fields.response_format in _TIMED_FORMATS:
        raise Unsupported(f"'response_format' cannot be '{fields.response_format}': {_TIMES}.", param="response_format")
    if fields.response_format not in FORMATS:
        raise InvalidRequest(
            f"Invalid value for 'response_format': expected one of {', '.join(FORMATS)}.", param="response_format"
        )
    if fields.language and not _LANGUAGE.fullmatch(fields.language):
        raise InvalidRequest("Invalid value for 'language': expected a name or a code like 'en'.", param="language")
    return TranscriptionExchange(fields, _sound(form))


def _sound(form: Form) -> bytes:
    sound = form.files.get("file")
    if sound is None:
        raise InvalidRequest("Missing required parameter: 'file' (with a file's name).", param="file")
    if not sound:
        raise InvalidRequest("Invalid value for 'file': the file is empty.", param="file")
    return sound


def _number(text: str) -> float:
    try:
        return float(text or "0")
    except ValueError:
        raise InvalidRequest("Invalid value for 'temperature': expected a number.", param="temperature") from None


def _switch(text: str) -> bool:
    value = _SWITCHES.get(text.lower())
    if value is None:
        raise InvalidRequest("Invalid value for 'stream': expected true or false.", param="stream")
    return value


def _to_request(fields: TranscriptionFields, sound: bytes) -> GenerateRequest:
    task = _TASK
    if fields.language:
        task += f" The language is {fields.language}."
    if fields.prompt:
        task += f"\nWhat came before, or words that may be in it: {fields.prompt}"
    return GenerateRequest(
        model=fields.model,
        input=ChatInput((Message(Role.USER, (MediaPart("audio", sound), TextPart(task))),), enable_thinking=False),
        sampling=SamplingParams(temperature=fields.temperature),
        given=frozenset({"temperature", "thinking"}),
    )


def _usage(usage: Usage) -> TranscriptUsage:
    total = usage.num_prompt_tokens + usage.num_completion_tokens
    return TranscriptUsage(usage.num_prompt_tokens, usage.num_completion_tokens, total)
