"""Tokens and prompts without an answer: tokenize, detokenize, apply-template, input_tokens.

The first two know llama-server's bodies (`content`, `tokens`) and vLLM's (`prompt` or `messages`, `tokens`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import ChatInput, DetokenizeRequest, GenerateRequest, TextPart, Tick, TokenCount, TokenizeRequest, Tokens
from dmr_server.fields import Count, checked, normalised
from dmr_server.generation import Stamp
from dmr_server.openai.chat import read_chat
from dmr_server.openai.wire import encode

if TYPE_CHECKING:
    from dmr.service import Service

MAX_TOKENS = 1 << 22


class TokenizeFields(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    content: Union[str, UnsetType] = UNSET
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False
    prompt: Union[str, UnsetType] = UNSET
    messages: Union[list[Any], UnsetType] = UNSET
    add_special_tokens: Union[bool, UnsetType] = UNSET
    return_token_strs: bool = False


class DetokenizeFields(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    tokens: Annotated[tuple[Count, ...], Meta(max_length=MAX_TOKENS)]


class TokenPiece(msgspec.Struct, frozen=True):
    id: int
    piece: Union[str, list[int]]  # bytes, where they are no whole characters


class TokenList(msgspec.Struct, frozen=True):
    """llama-server's answer."""

    tokens: tuple[int, ...]


class PieceList(msgspec.Struct, frozen=True):
    """The same `with_pieces`."""

    tokens: list[TokenPiece]


class CountedTokens(msgspec.Struct, frozen=True):
    """vLLM's answer."""

    count: int
    max_model_len: Union[int, None]
    tokens: tuple[int, ...]
    token_strs: Union[list[str], None] = None


class PlainText(msgspec.Struct, frozen=True):
    content: str  # llama-server's name
    prompt: str  # vLLM's


class RenderedPrompt(msgspec.Struct, frozen=True):
    prompt: str


class InputTokens(msgspec.Struct, frozen=True):
    object: str
    input_tokens: int


class TokenizeExchange:
    """Tokens of a text, in llama-server's shape."""

    def __init__(self, request: TokenizeRequest) -> None:
        self.request = request

    def ask(self, service: Service, client: str) -> Iterator[Tick | Tokens]:
        return service.tokenize(self.request)

    def to_result(self, reply: Tokens) -> bytes:
        if not self.request.with_pieces:
            return encode(TokenList(reply.ids))
        return encode(PieceList([TokenPiece(*each) for each in zip(reply.ids, map(_piece, reply.pieces), strict=True)]))


class CountedExchange:
    """Tokens of a text, or of a conversation (`chat`) under the model's template, in vLLM's shape."""

    def __init__(self, request: TokenizeRequest, chat: GenerateRequest | None) -> None:
        self.request = request
        self._chat = chat
        self._context_size: int | None = None

    def ask(self, service: Service, client: str) -> Iterator[Tick | Tokens]:
        self._context_size = service.get_model(self.request.model).config.context_size
        request = self.request
        if self._chat is not None:
            for reply in service.render(msgspec.structs.replace(self._chat, client=client)):
                if isinstance(reply, Tick):
                    yield reply
                else:
                    request = msgspec.structs.replace(request, text=reply)
        yield from service.tokenize(request)

    def to_result(self, reply: Tokens) -> bytes:
        strings = [piece.decode("utf-8", "replace") for piece in reply.pieces] if self.request.with_pieces else None
        return encode(CountedTokens(len(reply.ids), self._context_size, reply.ids, strings))


class DetokenizeExchange:
    def __init__(self, request: DetokenizeRequest) -> None:
        self.request = request

    def ask(self, service: Service, client: str) -> Iterator[Tick | str]:
        return service.detokenize(self.request)

    def to_result(self, reply: str) -> bytes:
        return encode(PlainText(reply, reply))


class TemplateExchange:
    """The prompt that a conversation becomes."""

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request

    def ask(self, service: Service, client: str) -> Iterator[Tick | str]:
        return service.render(msgspec.structs.replace(self.request, client=client))

    def to_result(self, reply: str) -> bytes:
        return encode(RenderedPrompt(reply))


class InputTokensExchange:
    """How many tokens a conversation has; nothing is computed."""

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request

    def ask(self, service: Service, client: str) -> Iterator[Tick | TokenCount]:
        return service.count_tokens(msgspec.structs.replace(self.request, client=client))

    def to_result(self, reply: TokenCount) -> bytes:
        return encode(InputTokens("response.input_tokens", reply.num_prompt_tokens))


def read_tokenize(body: Mapping[str, Any], stamp: Stamp) -> TokenizeExchange | CountedExchange:
    """Understand a request body; raises InvalidRequest and Unsupported, naming the field."""
    normal = normalised(body)
    fields = checked(normal, TokenizeFields)
    given = [name for name in ("content", "prompt", "messages") if name in normal]
    if len(given) != 1:
        raise InvalidRequest("One of 'content', 'prompt' and 'messages' is expected.", param="content")
    if fields.content is not UNSET:
        request = TokenizeRequest(
            fields.model, fields.content, fields.add_special, fields.parse_special, fields.with_pieces
        )
        return TokenizeExchange(request)
    add_special = fields.messages is UNSET if fields.add_special_tokens is UNSET else fields.add_special_tokens
    text = "" if fields.prompt is UNSET else fields.prompt
    request = TokenizeRequest(
        fields.model, text, add_special, fields.parse_special, fields.return_token_strs or fields.with_pieces
    )
    if fields.messages is UNSET:
        return CountedExchange(request, None)
    chat = {name: value for name, value in body.items() if name != "add_special_tokens"}
    return CountedExchange(request, _of_text(read_chat(chat, stamp).request))


def _of_text(request: GenerateRequest) -> GenerateRequest:
    """Raises Unsupported: what stands for an image or a sound in a prompt are no tokens of the vocabulary."""
    chat = request.input
    if isinstance(chat, ChatInput) and not all(isinstance(p, TextPart) for turn in chat.messages for p in turn.parts):
        raise Unsupported(
            "The tokens of images and sounds cannot be listed; /v1/chat/completions/input_tokens counts them.",
            param="messages",
        )
    return request


def read_detokenize(body: Mapping[str, Any], stamp: Stamp) -> DetokenizeExchange:
    """Understand a request body; raises InvalidRequest, naming the field."""
    fields = checked(normalised(body), DetokenizeFields)
    return DetokenizeExchange(DetokenizeRequest(fields.model, fields.tokens))


def read_apply_template(body: Mapping[str, Any], stamp: Stamp) -> TemplateExchange:
    """Understand the body of a chat request; raises InvalidRequest and Unsupported, naming the field."""
    return TemplateExchange(read_chat(body, stamp).request)


def read_input_tokens(body: Mapping[str, Any], stamp: Stamp) -> InputTokensExchange:
    """Understand the body of a chat request; raises InvalidRequest and Unsupported, naming the field."""
    return InputTokensExchange(read_chat(body, stamp).request)


def _piece(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)
