"""OpenAI's routes, and those of llama-server and vLLM beside them, in types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import Meta

from dmr_server.dialect import EVENT_STREAM
from dmr_server.fields import SAMPLING_FIELDS
from dmr_server.openai.chat import ChatFields
from dmr_server.openai.chat_answer import ChatCompletion
from dmr_server.openai.chat_stream import Chunk
from dmr_server.openai.completion_answer import TextCompletion
from dmr_server.openai.completions import CompletionFields
from dmr_server.openai.embeddings import EmbeddingFields, EmbeddingList
from dmr_server.openai.handling import HANDLING
from dmr_server.openai.infill import InfillChunk, InfillEnd, InfillFields
from dmr_server.openai.models import Deleted, Model, ModelPage
from dmr_server.openai.rerank import RankedText, Ranking, RerankFields, ScoreFields, ScoreList
from dmr_server.openai.resources import BARE_ROOTS, ROOTS
from dmr_server.openai.tokens import (
    CountedTokens,
    DetokenizeFields,
    InputTokens,
    PieceList,
    PlainText,
    RenderedPrompt,
    TokenizeFields,
    TokenList,
)
from dmr_server.openai.transcriptions import Transcript, TranscriptDelta, TranscriptDone, VerboseTranscript
from dmr_server.openai.wire import ErrorAnswer, OpenAIDialect
from dmr_server.operation import IN_ENGINE, IN_USE, Operation, Surface

_SAMPLING: Mapping[str, Any] = {
    **SAMPLING_FIELDS,
    "repetition_penalty": SAMPLING_FIELDS["repeat_penalty"],
    "logit_bias": Union[dict[str, Union[float, bool]], list[Any]],
    "samplers": Union[str, list[str]],
}
_CONSTRAINTS: Mapping[str, Any] = {
    "response_format": dict[str, Any],
    "json_schema": Union[dict[str, Any], str],
    "grammar": str,
    "guided_json": Union[dict[str, Any], str],
    "guided_choice": list[str],
    "guided_grammar": str,
    "structured_outputs": dict[str, Any],
}


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Union[str, list[dict[str, Any]], None] = None
    name: Union[str, None] = None
    reasoning_content: Union[str, None] = None
    reasoning: Union[str, None] = None
    refusal: Union[str, None] = None
    tool_calls: Union[list[dict[str, Any]], None] = None
    tool_call_id: Union[str, None] = None
    function_call: Union[dict[str, Any], None] = None


class ToolChoice(msgspec.Struct, frozen=True):
    """`function`, `custom` or `allowed_tools` has the rest, in a key of that name."""

    type: Literal["function", "custom", "allowed_tools"]


_TOOLS: Mapping[str, Any] = {
    "tools": list[dict[str, Any]],
    "tool_choice": Union[Literal["none", "auto", "required"], ToolChoice],
    "functions": list[dict[str, Any]],
    "function_call": Union[str, dict[str, Any]],
}
_CHAT: Mapping[str, Any] = {
    "messages": Annotated[list[ChatMessage], Meta(min_length=1)],
    "modalities": list[Literal["text"]],
    **_SAMPLING,
    **_CONSTRAINTS,
    **_TOOLS,
}


def _generating(summary: str, body: Any, answer: Any, event: Any, more: Mapping[str, Any]) -> Operation:
    streamed = {"stream": event, "stream_type": EVENT_STREAM}
    return Operation(summary, answer, body=body, more=more, **streamed, errors=IN_ENGINE)


def _asking(summary: str, body: Any, answer: Any) -> Operation:
    return Operation(summary, answer, body=body, errors=IN_ENGINE)


def _about_chat(summary: str, answer: Any) -> Operation:
    return Operation(summary, answer, body=ChatFields, more=_CHAT, errors=IN_ENGINE, like="/chat/completions")


_RERANK = _asking("rank texts by how well they answer another", RerankFields, (Ranking, list[RankedText]))

SURFACE = Surface(
    name="openai",
    description="OpenAI's API; llama-server's and vLLM's routes that have no place in it.",
    dialect=OpenAIDialect(),
    error=ErrorAnswer,
    roots=(*ROOTS, *BARE_ROOTS),
    operations={
        "/chat/completions": {
            "post": _generating("answer a conversation", ChatFields, ChatCompletion, (Chunk, ErrorAnswer), _CHAT),
        },
        "/completions": {
            "post": _generating(
                "go on with a text",
                CompletionFields,
                TextCompletion,
                (TextCompletion, ErrorAnswer),
                {**_SAMPLING, **_CONSTRAINTS},
            )
        },
        "/infill": {
            "post": _generating(
                "fill in between two pieces of code",
                InfillFields,
                InfillEnd,
                (InfillChunk, InfillEnd, ErrorAnswer),
                {**_SAMPLING, **_CONSTRAINTS},
            )
        },
        "/embeddings": {"post": _asking("texts to vectors", EmbeddingFields, EmbeddingList)},
        "/rerank": {"post": _RERANK},
        "/reranking": {"post": _RERANK._replace(like="/rerank")},
        "/score": {"post": _asking("how well each text answers another", ScoreFields, ScoreList)},
        "/chat/completions/input_tokens": {
            "post": _about_chat("how many tokens a conversation has", InputTokens),
        },
        "/apply-template": {"post": _about_chat("the prompt of a conversation", RenderedPrompt)},
        "/tokenize": {"post": _asking("the tokens of a text", TokenizeFields, (TokenList, PieceList, CountedTokens))},
        "/detokenize": {"post": _asking("the text of tokens", DetokenizeFields, PlainText)},
        "/audio/transcriptions": {
            "post": Operation(
                "write down what is said in a recording",
                (Transcript, VerboseTranscript),
                upload="multipart/form-data",
                stream=(TranscriptDelta, TranscriptDone, ErrorAnswer),
                stream_type=EVENT_STREAM,
                errors=IN_ENGINE,
            )
        },
        "/models": {"get": Operation("the models of the store", ModelPage)},
        "/models/{name:model}": {
            "get": Operation("one model", Model),
            "delete": Operation("remove a model", Deleted, errors=IN_USE),
        },
    },
    handling=HANDLING,
    last_event="[DONE]",
)
