"""POST /rerank (Jina's, Cohere's and TEI's shape) and /score (vLLM's): how well one text answers another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import RerankRequest, Scores, Tick
from dmr_server.fields import INT32_MAX, checked, normalised
from dmr_server.generation import Stamp
from dmr_server.openai.wire import InputUsage, encode

if TYPE_CHECKING:
    from dmr.service import Service

MAX_DOCUMENTS = 4096
MAX_REPEATED = 1 << 24  # characters of a query, counted once per document: the model reads it with each of them

_REFUSED: Mapping[str, str] = {
    "max_chunks_per_doc": "each document is read whole",
    "max_tokens_per_doc": "each document is read whole; use 'truncate'",
    "rank_fields": "give each document as one text",
    "raw_scores": "scores are those that the model was trained to give",
    "return_embeddings": "use /v1/embeddings",
    "truncate_prompt_tokens": "use 'truncate'",
    "activation": "scores are those that the model was trained to give",
    "use_activation": "scores are those that the model was trained to give",
}


class RerankFields(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    query: str
    documents: Union[list[Any], UnsetType] = UNSET
    texts: Union[list[Any], UnsetType] = UNSET  # TEI's name; the answer has TEI's shape then
    top_n: Union[Annotated[int, Meta(ge=1, le=INT32_MAX)], UnsetType] = UNSET
    return_documents: bool = False
    return_text: bool = False
    truncate: bool = False
    truncation: bool = False


class ScoreFields(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    text_1: Union[str, list[str], UnsetType] = UNSET
    text_2: Union[str, list[str], UnsetType] = UNSET
    queries: Union[str, list[str], UnsetType] = UNSET
    documents: Union[str, list[str], UnsetType] = UNSET
    truncate: bool = False


class Document(msgspec.Struct, frozen=True):
    text: str


class RankedDocument(msgspec.Struct, frozen=True):
    index: int
    relevance_score: float
    document: Union[Document, UnsetType] = UNSET


class RankedText(msgspec.Struct, frozen=True):
    index: int
    score: float
    text: Union[str, UnsetType] = UNSET


class Ranking(msgspec.Struct, frozen=True):
    id: str
    object: str
    model: str
    results: list[RankedDocument]
    usage: InputUsage


class WireScore(msgspec.Struct, frozen=True):
    index: int
    object: str
    score: float


class ScoreList(msgspec.Struct, frozen=True):
    id: str
    object: str
    created: int
    model: str
    data: list[WireScore]
    usage: InputUsage


class RerankExchange:
    """One rerank request and how to answer it."""

    def __init__(self, fields: RerankFields, request: RerankRequest, stamp: Stamp) -> None:
        self.request = request
        self._fields = fields
        self._stamp = stamp

    def ask(self, service: Service, client: str) -> Iterator[Tick | Scores]:
        return service.rerank(msgspec.structs.replace(self.request, client=client))

    def to_result(self, reply: Scores) -> bytes:
        ranked = sorted(enumerate(reply.scores), key=lambda entry: (-entry[1], entry[0]))
        ranked = ranked if self._fields.top_n is UNSET else ranked[: self._fields.top_n]
        texts = [document for _, document in self.request.pairs]
        if self._fields.documents is UNSET:
            with_text = self._fields.return_text or self._fields.return_documents
            return encode([RankedText(index, score, texts[index] if with_text else UNSET) for index, score in ranked])
        return encode(
            Ranking(
                self._stamp.id,
                "list",
                self._fields.model,
                [RankedDocument(index, score, self._document(texts[index])) for index, score in ranked],
                InputUsage(reply.num_tokens, reply.num_tokens),
            )
        )

    def _document(self, text: str) -> Document | UnsetType:
        return Document(text) if self._fields.return_documents else UNSET


class ScoreExchange:
    """One score request and how to answer it."""

    def __init__(self, request: RerankRequest, stamp: Stamp) -> None:
        self.request = request
        self._stamp = stamp

    def ask(self, service: Service, client: str) -> Iterator[Tick | Scores]:
        return service.rerank(msgspec.structs.replace(self.request, client=client))

    def to_result(self, reply: Scores) -> bytes:
        return encode(
            ScoreList(
                self._stamp.id,
                "list",
                self._stamp.created,
                self.request.model,
                [WireScore(index, "score", score) for index, score in enumerate(reply.scores)],
                InputUsage(reply.num_tokens, reply.num_tokens),
            )
        )


def read_rerank(body: Mapping[str, Any], stamp: Stamp) -> RerankExchange:
    """Understand a request body; raises InvalidRequest and Unsupported, naming the field."""
    body = normalised(body)
    fields = checked(body, RerankFields)
    _check_supported(body)
    if fields.documents is not UNSET and fields.texts is not UNSET:
        raise InvalidRequest("'texts' and 'documents' exclude each other.", param="texts")
    if not fields.query:
        raise InvalidRequest("Invalid value for 'query': expected a text.", param="query")
    param = "documents" if fields.texts is UNSET else "texts"
    listed = fields.documents if fields.texts is UNSET else fields.texts
    if listed is UNSET:
        raise InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
    _check_count(len(listed), param)
    _check_repeated(fields.query, len(listed), "query")
    documents = [_text_of(document, f"{param}[{index}]") for index, document in enumerate(listed)]
    pairs = tuple((fields.query, document) for document in documents)
    return RerankExchange(fields, RerankRequest(fields.model, pairs, fields.truncate or fields.truncation), stamp)


def _text_of(document: Any, path: str) -> str:
    if isinstance(document, str):
        return document
    if isinstance(document, dict) and "text" not in document and {"image", "image_url"} & document.keys():
        raise Unsupported("This model does not take images.", param=path)
    return checked(document, Document, path).text


def read_score(body: Mapping[str, Any], stamp: Stamp) -> ScoreExchange:
    """Understand a request body; raises InvalidRequest and Unsupported, naming the field."""
    body = normalised(body)
    fields = checked(body, ScoreFields)
    _check_supported(body)
    firsts = _texts(fields.text_1, fields.queries, "text_1")
    seconds = _texts(fields.text_2, fields.documents, "text_2")
    if len(firsts) not in (1, len(seconds)):
        raise InvalidRequest(
            f"'text_1' has {len(firsts)} texts and 'text_2' {len(seconds)}: expected one, or as many.", param="text_1"
        )
    if len(firsts) == 1:
        _check_repeated(firsts[0], len(seconds), "text_1")
        firsts = firsts * len(seconds)
    pairs = tuple(zip(firsts, seconds, strict=True))
    return ScoreExchange(RerankRequest(fields.model, pairs, fields.truncate), stamp)


def _texts(value: str | list[str] | UnsetType, alias: str | list[str] | UnsetType, param: str) -> list[str]:
    found = alias if value is UNSET else value
    if found is UNSET:
        raise InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
    texts = [found] if isinstance(found, str) else found
    _check_count(len(texts), param)
    return texts


def _check_supported(body: Mapping[str, Any]) -> None:
    for name, reason in _REFUSED.items():
        if body.get(name):
            raise Unsupported(f"'{name}' is not supported: {reason}.", param=name)


def _check_count(count: int, param: str) -> None:
    if not 1 <= count <= MAX_DOCUMENTS:
        raise InvalidRequest(f"Invalid value for '{param}': expected 1 to {MAX_DOCUMENTS} texts.", param=param)


def _check_repeated(query: str, num_documents: int, param: str) -> None:
    if num_documents > 1 and len(query) * num_documents > MAX_REPEATED:
        raise InvalidRequest(
            f"Invalid value for '{param}': {len(query)} characters are too many for {num_documents} documents.",
            param=param,
        )
