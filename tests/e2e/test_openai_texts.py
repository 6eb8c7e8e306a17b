"""Embeddings, reranking, tokens and the rarer fields of completions, as clients of OpenAI's API ask for them."""

from __future__ import annotations

import base64
import math
from array import array
from typing import Any

import openai
import pytest
from e2e.conftest import Server
from openai import OpenAI
from tiny_models import EMBED_CONTEXT, EMBED_SIZE, SCRIPT_COMPLETION

SCRIPT = "test/tiny-script"
EMBED = "test/tiny-embed"
RERANK = "test/tiny-rerank"
TEXTS = ["a dog runs", "the dog runs", "snow"]


@pytest.fixture
def client(server: Server) -> OpenAI:
    return server.client()


def vectors_of(answer: Any) -> list[list[float]]:
    assert [entry.index for entry in answer.data] == list(range(len(answer.data)))
    return [entry.embedding for entry in answer.data]


def test_texts_become_vectors(client: OpenAI) -> None:
    answer = client.embeddings.create(model=EMBED, input=TEXTS)
    vectors = vectors_of(answer)
    assert [len(vector) for vector in vectors] == [EMBED_SIZE] * 3
    assert all(math.isclose(sum(x * x for x in vector), 1.0, rel_tol=1e-3) for vector in vectors)
    near, far = (sum(map(float.__mul__, vectors[0], other)) for other in vectors[1:])
    assert near > far
    assert answer.model == EMBED
    alone = client.embeddings.create(model=EMBED, input=TEXTS[2])
    assert alone.data[0].embedding == pytest.approx(vectors[2], abs=1e-4)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > alone.usage.prompt_tokens


def test_vectors_are_the_same_as_floats_and_as_base64(client: OpenAI, server: Server) -> None:
    floats = client.embeddings.create(model=EMBED, input=TEXTS, encoding_format="float")
    default = client.embeddings.create(model=EMBED, input=TEXTS)  # the client asks for base64 and decodes it
    assert vectors_of(default) == [pytest.approx(vector, abs=1e-6) for vector in vectors_of(floats)]
    raw = server.post("/v1/embeddings", {"model": EMBED, "input": TEXTS[0], "encoding_format": "base64"}).json()
    decoded = array("f", base64.b64decode(raw["data"][0]["embedding"]))
    assert decoded.tolist() == pytest.approx(floats.data[0].embedding, abs=1e-6)


def test_a_vector_may_be_shortened(client: OpenAI) -> None:
    (whole,) = vectors_of(client.embeddings.create(model=EMBED, input="snow"))
    (short,) = vectors_of(client.embeddings.create(model=EMBED, input="snow", dimensions=8))
    length = math.sqrt(sum(x * x for x in whole[:8]))
    assert short == pytest.approx([x / length for x in whole[:8]], abs=1e-5)
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model=EMBED, input="snow", dimensions=EMBED_SIZE + 1)


def test_tokens_become_the_same_vector_as_their_text(client: OpenAI, server: Server) -> None:
    found = server.post("/tokenize", {"model": EMBED, "content": "a dog runs", "add_special": True}).json()
    (of_text,) = vectors_of(client.embeddings.create(model=EMBED, input="a dog runs"))
    (of_tokens,) = vectors_of(client.embeddings.create(model=EMBED, input=found["tokens"]))
    assert of_tokens == pytest.approx(of_text, abs=1e-4)
    both = client.embeddings.create(model=EMBED, input=[found["tokens"], found["tokens"]])
    assert len(both.data) == 2


def test_what_cannot_be_embedded_is_refused(client: OpenAI) -> None:
    for wrong, param in (("", "input"), ([], "input"), ("snow " * (EMBED_CONTEXT + 1), "input"), ([10**9], "input")):
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(model=EMBED, input=wrong)
        assert refused.value.param == param, wrong
    with pytest.raises(openai.BadRequestError, match="embed"):
        client.chat.completions.create(model=EMBED, messages=[{"role": "user", "content": "Hi"}])


def test_a_chat_model_embeds_too(client: OpenAI) -> None:
    (vector,) = vectors_of(client.embeddings.create(model=SCRIPT, input="snow"))
    assert all(map(math.isfinite, vector))


def rerank(server: Server, path: str = "/v1/rerank", **fields: Any) -> Any:
    response = server.post(path, {"model": RERANK, **fields})
    assert response.status == 200, response.data
    return response.json()


def test_documents_are_ranked(server: Server) -> None:
    documents = ["a dog runs", {"text": "snow in winter"}, "bread"]
    whole = rerank(server, query="dog", documents=documents, return_documents=True)
    scores = [result["relevance_score"] for result in whole["results"]]
    assert scores == sorted(scores, reverse=True)
    assert {result["index"] for result in whole["results"]} == {0, 1, 2}
    texts = ["a dog runs", "snow in winter", "bread"]
    assert all(result["document"] == {"text": texts[result["index"]]} for result in whole["results"])
    assert whole["usage"]["total_tokens"] > 0
    best = rerank(server, query="dog", documents=documents, top_n=1)["results"]
    assert [result["index"] for result in best] == [whole["results"][0]["index"]]
    assert best[0]["relevance_score"] == pytest.approx(scores[0], abs=1e-4)
    for path in ("/rerank", "/v1/reranking", "/engines/rerank", "/engines/llama.cpp/v1/rerank"):
        same = rerank(server, path, query="dog", documents=documents)["results"]
        assert [result["index"] for result in same] == [result["index"] for result in whole["results"]]
    pairs = rerank(server, "/v1/score", text_1="dog", text_2=texts)["data"]
    by_index = {result["index"]: result["relevance_score"] for result in whole["results"]}
    assert {entry["index"]: entry["score"] for entry in pairs} == pytest.approx(by_index, abs=1e-4)


def test_what_cannot_be_ranked_is_refused(server: Server) -> None:
    for fields in (
        {"query": "dog", "documents": []},
        {"query": "", "documents": ["a"]},
        {"query": "dog", "documents": [3]},
        {"query": "dog", "documents": ["snow " * 1000]},
        {"query": "dog", "documents": ["a"], "model": SCRIPT},
    ):
        response = server.post("/v1/rerank", {"model": RERANK, **fields})
        assert response.status == 400, response.data
        assert response.json()["error"]["message"]


def test_an_echo_has_the_prompt_and_its_log_probabilities(client: OpenAI) -> None:
    answer = client.completions.create(model=SCRIPT, prompt="Some text", echo=True, max_tokens=16)
    assert answer.choices[0].text == "Some text" + SCRIPT_COMPLETION
    scored = client.completions.create(model=SCRIPT, prompt="Some text", echo=True, logprobs=1, max_tokens=0)
    assert scored.choices[0].text == "Some text"
    logprobs = scored.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or ()) == "Some text"
    assert logprobs.text_offset is not None
    assert logprobs.text_offset[0] == 0
    first, *others = logprobs.token_logprobs or ()
    assert first is None, "nothing stands before the first token"
    assert all(value <= 0 for value in others)
    assert scored.usage is not None
    assert scored.usage.completion_tokens == 0
    stream = client.completions.create(model=SCRIPT, prompt="Some text", echo=True, max_tokens=16, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == "Some text" + SCRIPT_COMPLETION


def test_the_best_of_several_is_given(client: OpenAI) -> None:
    asked: Any = {"model": "test/tiny-random", "prompt": "The quick brown fox", "seed": 3, "max_tokens": 8}
    every = client.completions.create(n=4, logprobs=0, **asked)
    best = client.completions.create(n=1, best_of=4, logprobs=0, **asked)

    def likelihood(choice: Any) -> float:
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    assert len(best.choices) == 1
    assert best.choices[0].text == max(every.choices, key=likelihood).text
    assert best.usage is not None
    assert every.usage is not None
    assert best.usage.completion_tokens == every.usage.completion_tokens, "all that was computed is billed"
    with pytest.raises(openai.BadRequestError, match="best_of"):
        client.completions.create(n=2, best_of=1, **asked)


def test_a_suffix_needs_a_model_that_can_fill_in(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=SCRIPT, prompt="def f():", suffix="return a", max_tokens=8)
    assert refused.value.param == "suffix"


def test_token_prompts_are_those_of_the_text(client: OpenAI, server: Server) -> None:
    found = server.post("/tokenize", {"model": SCRIPT, "content": "Some text", "with_pieces": True}).json()
    tokens = [entry["id"] for entry in found["tokens"]]
    assert "".join(entry["piece"] for entry in found["tokens"]) == "Some text"
    back = server.post("/detokenize", {"model": SCRIPT, "tokens": tokens}).json()
    assert back["content"] == "Some text"
    of_text = client.completions.create(model=SCRIPT, prompt="Some text", max_tokens=16)
    of_tokens = client.completions.create(model=SCRIPT, prompt=tokens, max_tokens=16)
    several = client.completions.create(model=SCRIPT, prompt=[tokens, tokens], max_tokens=16)
    assert of_tokens.choices[0].text == of_text.choices[0].text == SCRIPT_COMPLETION
    assert of_tokens.usage is not None
    assert of_text.usage is not None
    assert several.usage is not None
    assert of_tokens.usage.prompt_tokens == of_text.usage.prompt_tokens
    assert several.usage.prompt_tokens == 2 * of_text.usage.prompt_tokens
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=SCRIPT, prompt=[10**6], max_tokens=16)


def test_a_request_may_bring_its_own_template(client: OpenAI) -> None:
    ask: Any = [{"role": "user", "content": "Some text"}]
    for template in ("{{ messages[0].content }}", "{% for each in messages %}{{ each['content'] }}{% endfor %}"):
        answer = client.chat.completions.create(model=SCRIPT, messages=ask, extra_body={"chat_template": template})
        assert answer.choices[0].message.content == SCRIPT_COMPLETION
    with pytest.raises(openai.BadRequestError, match="template"):
        client.chat.completions.create(model=SCRIPT, messages=ask, extra_body={"chat_template": "{% if"})
