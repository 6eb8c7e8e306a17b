"""Rerank in Jina's, Cohere's and TEI's shapes, score in vLLM's."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest
from fakes import FakeService

from dmr.types import RerankRequest, Scores

SCORES = Scores((0.25, 0.75, 0.25), 21)
DOCUMENTS = ["a", {"text": "b"}, "c"]
USAGE = {"prompt_tokens": 21, "total_tokens": 21}


def ask(client: falcon.testing.TestClient, service: FakeService, path: str, **body: Any) -> falcon.testing.Result:
    service.replies.append(SCORES)
    return client.simulate_post(path, json={"model": "ai/smollm2", **body})


@pytest.mark.parametrize(
    "path",
    [
        "/rerank",
        "/reranking",
        "/v1/rerank",
        "/v1/reranking",
        "/engines/rerank",
        "/engines/v1/rerank",
        "/engines/llama.cpp/rerank",
        "/engines/llama.cpp/v1/rerank",
    ],
)
def test_documents_come_best_first(client: falcon.testing.TestClient, service: FakeService, path: str) -> None:
    result = ask(client, service, path, query="q", documents=DOCUMENTS)
    assert result.status_code == 200
    assert result.json == {
        "id": "rerank-ID",
        "object": "list",
        "model": "ai/smollm2",
        "results": [
            {"index": 1, "relevance_score": 0.75},
            {"index": 0, "relevance_score": 0.25},
            {"index": 2, "relevance_score": 0.25},
        ],
        "usage": USAGE,
    }
    pairs = (("q", "a"), ("q", "b"), ("q", "c"))
    assert service.calls == [RerankRequest("ai/smollm2", pairs, client="127.0.0.1")]


def test_the_best_ones_with_their_text(client: falcon.testing.TestClient, service: FakeService) -> None:
    result = ask(client, service, "/rerank", query="q", documents=DOCUMENTS, top_n=1, return_documents=True)
    assert result.json["results"] == [{"index": 1, "relevance_score": 0.75, "document": {"text": "b"}}]


def test_more_than_there_are(client: falcon.testing.TestClient, service: FakeService) -> None:
    assert len(ask(client, service, "/rerank", query="q", documents=DOCUMENTS, top_n=9).json["results"]) == 3


@pytest.mark.parametrize("return_text", [False, True])
def test_texts_are_answered_as_tei_does(
    client: falcon.testing.TestClient, service: FakeService, return_text: bool
) -> None:
    result = ask(client, service, "/rerank", query="q", texts=["a", "b", "c"], return_text=return_text, truncate=True)
    expected = [{"index": 1, "score": 0.75}, {"index": 0, "score": 0.25}, {"index": 2, "score": 0.25}]
    assert result.json == [
        {**each, **({"text": "abc"[int(each["index"])]} if return_text else {})} for each in expected
    ]
    asked = service.calls[0]
    assert isinstance(asked, RerankRequest)
    assert asked.truncate


@pytest.mark.parametrize(
    ("body", "pairs"),
    [
        ({"text_1": "q", "text_2": "a"}, (("q", "a"),)),
        ({"text_1": "q", "text_2": ["a", "b", "c"]}, (("q", "a"), ("q", "b"), ("q", "c"))),
        ({"text_1": ["q"], "text_2": ["a", "b"]}, (("q", "a"), ("q", "b"))),
        ({"text_1": ["p", "q"], "text_2": ["a", "b"]}, (("p", "a"), ("q", "b"))),
        ({"queries": "q", "documents": ["a"]}, (("q", "a"),)),
    ],
)
def test_scores(
    client: falcon.testing.TestClient, service: FakeService, body: dict[str, Any], pairs: tuple[tuple[str, str], ...]
) -> None:
    result = ask(client, service, "/score", **body)
    assert result.json == {
        "id": "score-ID",
        "object": "list",
        "created": 1700000000,
        "model": "ai/smollm2",
        "data": [{"index": index, "object": "score", "score": score} for index, score in enumerate(SCORES.scores)],
        "usage": USAGE,
    }
    assert service.calls == [RerankRequest("ai/smollm2", pairs, client="127.0.0.1")]


@pytest.mark.parametrize("path", ["/v1/score", "/engines/score", "/engines/llama.cpp/score", "/engines/v1/score"])
def test_scores_are_served_wherever_upstream_does(
    client: falcon.testing.TestClient, service: FakeService, path: str
) -> None:
    assert ask(client, service, path, text_1="q", text_2="a").status_code == 200


RERANK: dict[str, Any] = {"query": "q", "documents": ["a"]}
SCORE: dict[str, Any] = {"text_1": "q", "text_2": "a"}


@pytest.mark.parametrize(
    ("path", "body", "param", "told"),
    [
        ("/rerank", {"documents": ["a"]}, "query", "Missing"),
        ("/rerank", {"query": "", "documents": ["a"]}, "query", "expected a text"),
        ("/rerank", {"query": ["q"], "documents": ["a"]}, "query", "got array"),
        ("/rerank", {"query": "q"}, "documents", "Missing"),
        ("/rerank", {"query": "q", "documents": []}, "documents", "1 to 4096"),
        ("/rerank", {"query": "q", "documents": "a"}, "documents", "got str"),
        ("/rerank", {"query": "q", "documents": ["a", 5]}, "documents[1]", "expected object"),
        ("/rerank", {"query": "q", "documents": [{}]}, "documents[0].text", "Missing"),
        ("/rerank", {"query": "q", "documents": [{"text": 5}]}, "documents[0].text", "got int"),
        ("/rerank", {"query": "q", "documents": [{"image": "a"}]}, "documents[0]", "images"),
        ("/rerank", {**RERANK, "texts": ["a"]}, "texts", "exclude"),
        ("/rerank", {**RERANK, "top_n": 0}, "top_n", ">= 1"),
        ("/rerank", {**RERANK, "return_documents": "yes"}, "return_documents", "bool"),
        ("/rerank", {"query": "q" * 90_000, "documents": ["a"] * 200}, "query", "too many for 200"),
        ("/score", {"text_1": "q" * 90_000, "text_2": ["a"] * 200}, "text_1", "too many for 200"),
        ("/rerank", {**RERANK, "rank_fields": ["a"]}, "rank_fields", "not supported"),
        ("/score", {"text_2": "a"}, "text_1", "Missing"),
        ("/score", {"text_1": "a"}, "text_2", "Missing"),
        ("/score", {"text_1": "a", "text_2": []}, "text_2", "1 to 4096"),
        ("/score", {"text_1": ["a", "b"], "text_2": "a"}, "text_1", "expected one, or as many"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1", "expected one, or as many"),
        ("/score", {**SCORE, "text_2": [5]}, "text_2[0]", "got int"),
        ("/score", {**SCORE, "activation": True}, "activation", "not supported"),
    ],
)
def test_a_bad_field_is_named(
    client: falcon.testing.TestClient,
    service: FakeService,
    path: str,
    body: dict[str, Any],
    param: str,
    told: str,
) -> None:
    result = ask(client, service, path, **body)
    error = result.json["error"]
    assert (result.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert told in error["message"]
    assert not service.calls
