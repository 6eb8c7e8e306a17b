"""From a request's texts to tokens that the embedder can take: tokenize, check, cut. Any thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from dmr.engine.embedder import EmbedJob
from dmr.engine.loading import PairMarks
from dmr.engine.prompt_text import Vocabulary, tokenize_prompt
from dmr.errors import DmrError, InvalidRequest, Unsupported, error_from_code
from dmr.types import Prompt, Timings
from dmr.wire import LITERAL_CLOSE, LITERAL_OPEN, EngineEmbed, EngineRerank, EngineScores, EngineVectors

if TYPE_CHECKING:
    from dmr.engine.embed_runner import Vector

_QUERY, _DOCUMENT = (f"{LITERAL_OPEN}{number}{LITERAL_CLOSE}" for number in range(2))
FAR_BEYOND = 2  # times what the model takes: a pair of so many tokens is not looked at as a whole
MAX_CUTS = 8  # of a pair in a template, whose length is known only when it is tokenized as a whole


class Tokenizer(Vocabulary, Protocol):
    """What is needed of a model's vocabulary."""

    @property
    def context_size(self) -> int: ...
    @property
    def pair_marks(self) -> PairMarks: ...
    def detokenize(self, token_ids: list[int]) -> str: ...
    def check_tokens(self, token_ids: tuple[int, ...], param: str = "prompt") -> list[int]: ...


class _Query(NamedTuple):
    """What several documents are held against: tokenized once for all of them."""

    text: str
    tokens: list[int]


class EmbedIntake:
    def __init__(self, tokenizer: Tokenizer, *, ranks: bool, template: str | None = None) -> None:
        """`template`: of a pair, with {query} and {document}; None = the tokens between the texts are all there is."""
        self._tokenizer = tokenizer
        self._ranks = ranks
        self._template = template

    def prepare(self, message: EngineEmbed | EngineRerank) -> EmbedJob:
        """Everything that can be wrong with a request is found here, before it is queued.

        Raises:
            InvalidRequest, ContextLengthExceeded, Unsupported
        """
        return self._embed(message) if isinstance(message, EngineEmbed) else self._rerank(message)

    def _embed(self, message: EngineEmbed) -> EmbedJob:
        if self._ranks:
            raise Unsupported("This model is a reranker: it gives scores of pairs, not vectors of texts.")
        if message.max_tokens is not None and message.max_tokens < 1:
            raise InvalidRequest("A text must be allowed to have at least 1 token.", param="max_tokens")
        limit = self._tokenizer.context_size
        limit = limit if message.max_tokens is None else min(limit, message.max_tokens)
        texts = [self._text(text, number, limit, message.truncate) for number, text in enumerate(message.inputs)]
        num_tokens = tuple(map(len, texts))

        def reply(vectors: list[Vector], timings: Timings) -> EngineVectors:
            return EngineVectors(tuple(_packed(vector, message.normalize) for vector in vectors), num_tokens, timings)

        return EmbedJob(texts, reply)

    def _text(self, text: Prompt, number: int, limit: int, truncate: bool) -> list[int]:
        if isinstance(text, str):
            # Who recommends "<|endoftext|>" at the end of each text means the token.
            tokens = self._tokenizer.tokenize(text, add_special=True, parse_special=True)
        else:
            tokens = self._tokenizer.check_tokens(text, "input")
        if not tokens:
            raise InvalidRequest(f"Input {number} is empty.", param="input")
        if len(tokens) <= limit:
            return tokens
        if not truncate:
            raise _too_long(f"Input {number}", len(tokens), limit, "input")
        end = self._end_tokens()[-limit:] if isinstance(text, str) else []
        return tokens[: limit - len(end)] + end

    def _end_tokens(self) -> list[int]:
        """What the model adds after a text."""
        around = self._tokenizer.tokenize("", add_special=True, parse_special=True)
        return around[1:] if around[:1] == [self._tokenizer.begin_token] else around

    def _rerank(self, message: EngineRerank) -> EmbedJob:
        if not self._ranks:
            raise Unsupported("This model gives no relevance scores; reranking needs a model that was made for it.")
        queries = [_Query(text, self._plain(text)) for text in message.queries]
        pair = self._marked_pair if self._template is None else self._template_pair
        texts = [pair(_query_of(queries, place), text, n, message) for n, (place, text) in enumerate(message.pairs)]
        num_tokens = sum(map(len, texts))

        def reply(vectors: list[Vector], timings: Timings) -> EngineScores:
            # As the model gives them: no sigmoid.
            return EngineScores(tuple(float(vector[0]) for vector in vectors), num_tokens)

        return EmbedJob(texts, reply)

    def _marked_pair(self, query: _Query, document: str, number: int, message: EngineRerank) -> list[int]:
        marks = self._tokenizer.pair_marks
        first, second = query.tokens, self._plain(document)
        num_marks = sum(map(len, marks))
        length = len(first) + len(second) + num_marks
        if length == 0:
            raise InvalidRequest(f"Query and document {number} are empty.", param="documents")
        limit = self._tokenizer.context_size
        if length > limit:
            if not message.truncate or limit <= num_marks:
                raise _too_long(f"Document {number}, with the query,", length, limit, "documents")
            first, second = _cut_pair(first, second, limit - num_marks)
        return [*marks.begin, *first, *marks.between, *second, *marks.end]

    def _template_pair(self, query: _Query, document: str, number: int, message: EngineRerank) -> list[int]:
        limit = self._tokenizer.context_size
        first, second = query.tokens, self._plain(document)
        room = len(first) + len(second)
        if room > FAR_BEYOND * limit:  # a long query is not to be read again for each of many documents
            if not message.truncate:
                raise _too_long(f"Document {number}, with the query,", room, limit, "documents")
            room = FAR_BEYOND * limit
            first, second = _cut_pair(first, second, room)
            tokens = whole = self._filled(self._tokenizer.detokenize(first), self._tokenizer.detokenize(second))
        else:
            tokens = whole = self._filled(query.text, document)
        if not tokens:
            raise InvalidRequest(f"Query and document {number} are empty.", param="documents")
        for _ in range(MAX_CUTS if message.truncate else 0):
            if len(tokens) <= limit:
                break
            room = max(0, room - (len(tokens) - limit))
            first, second = _cut_pair(first, second, room)
            tokens = self._filled(self._tokenizer.detokenize(first), self._tokenizer.detokenize(second))
        if len(tokens) > limit:
            raise _too_long(f"Document {number}, with the query,", len(whole), limit, "documents")
        return tokens

    def _filled(self, query: str, document: str) -> list[int]:
        """The template's own control tokens count; those that the texts hold are text."""
        template = (self._template or "").replace("{query}", _QUERY).replace("{document}", _DOCUMENT)
        return tokenize_prompt(self._tokenizer, template, (query, document), add_special=False)

    def _plain(self, text: str) -> list[int]:
        return self._tokenizer.tokenize(text, add_special=False, parse_special=False)


def _query_of(queries: list[_Query], place: int) -> _Query:
    if not 0 <= place < len(queries):
        raise InvalidRequest(f"A pair names query {place} of {len(queries)}.", param="query")
    return queries[place]


def _cut_pair(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut the longer of the two, then both alike."""
    num_first = min(len(first), max(room - len(second), room // 2))
    return first[:num_first], second[: room - num_first]


def _packed(vector: Vector, normalize: bool) -> bytes:
    """32-bit floats, little-endian; of length 1 if `normalize`, unless all are 0."""
    if normalize:
        import numpy as np

        length = float(np.linalg.norm(vector.astype(np.float64)))
        vector = vector / np.float32(length) if length > 0 else vector
    return vector.astype("<f4").tobytes()


def _too_long(what: str, num_tokens: int, limit: int, param: str) -> DmrError:
    message = f"{what} has {num_tokens} tokens, but the model takes {limit} at most."
    details = {"num_prompt_tokens": num_tokens, "context_size": limit}
    return error_from_code("context_length_exceeded", message, param, None, details)
