"""LangChain's chat and embedding classes against a real server, one of each vendor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pydantic
import pytest
from e2e.conftest import Server
from langchain_anthropic import ChatAnthropic
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from tiny_models import EMBED_SIZE, SCRIPT_ANSWER, SCRIPT_ANSWER_TOKENS, SCRIPT_COLOURS, SCRIPT_TOOL_ANSWER

MakeChat = Callable[..., BaseChatModel]
UNPOOLED = {"headers": {"Connection": "close"}}  # these never close their clients' idle connections


@tool
def get_weather(city: str) -> str:
    """The weather in a city"""
    return f"sunny in {city}"


class Person(pydantic.BaseModel):
    """Somebody"""

    name: str
    age: int


def make_openai(url: str, model: str, **options: Any) -> BaseChatModel:
    return ChatOpenAI(base_url=url + "/v1", api_key=pydantic.SecretStr("none"), model=model, max_retries=0, **options)


def make_responses(url: str, model: str, **options: Any) -> BaseChatModel:
    return make_openai(url, model, use_responses_api=True, **options)


def make_anthropic(url: str, model: str, **options: Any) -> BaseChatModel:
    settings: Any = {"max_tokens": 400, "max_retries": 0, **options}
    return ChatAnthropic(base_url=url, api_key=pydantic.SecretStr("none"), model_name=model, **settings)


def make_ollama(url: str, model: str, **options: Any) -> BaseChatModel:
    return ChatOllama(base_url=url, model=model, client_kwargs=UNPOOLED, **options)


@pytest.fixture(autouse=True)
def nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """LangChain would report to its vendor if the developer's environment says so."""
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "false")


@pytest.fixture(params=[make_openai, make_responses, make_anthropic, make_ollama], ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> MakeChat:
    found: MakeChat = request.param
    return found


@pytest.fixture
def chat(make: MakeChat, server: Server) -> BaseChatModel:
    return make(server.url, "test/tiny-script")


def test_a_whole_answer(chat: BaseChatModel) -> None:
    message = chat.invoke([HumanMessage("Count, please.")])
    assert message.text == SCRIPT_ANSWER
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == SCRIPT_ANSWER_TOKENS
    assert message.usage_metadata["input_tokens"] > 0


def test_a_stream_says_the_same(chat: BaseChatModel) -> None:
    chunks = list(chat.stream("Count, please."))
    assert "".join(chunk.text for chunk in chunks) == SCRIPT_ANSWER
    assert len([chunk for chunk in chunks if chunk.text]) >= SCRIPT_ANSWER_TOKENS - 1


def test_a_system_message_is_read(chat: BaseChatModel) -> None:
    colour = SCRIPT_COLOURS[3]
    assert chat.invoke([SystemMessage(f"Always say {colour} here."), HumanMessage("Hi")]).text == colour


def test_a_tool_is_called_and_answered(chat: BaseChatModel) -> None:
    with_tools = chat.bind_tools([get_weather])
    ask = HumanMessage("How is the weather?")
    call = with_tools.invoke([ask])
    assert isinstance(call, AIMessage)
    assert [(each["name"], each["args"]) for each in call.tool_calls] == [("get_weather", {"city": "Paris"})]
    result = get_weather.invoke(call.tool_calls[0])
    assert isinstance(result, ToolMessage)
    assert with_tools.invoke([ask, call, result]).text == SCRIPT_TOOL_ANSWER
    whole: Any = None
    for chunk in with_tools.stream([ask]):
        assert isinstance(chunk, AIMessageChunk)
        whole = chunk if whole is None else whole + chunk
    assert [(each["name"], each["args"]) for each in whole.tool_calls] == [("get_weather", {"city": "Paris"})]


# Ollama's API cannot force a call.
STRUCTURED = [(make_ollama, "json_schema")] + [
    (make, method)
    for make in (make_openai, make_responses, make_anthropic)
    for method in ("function_calling", "json_schema")
]


@pytest.mark.parametrize(("make", "method"), STRUCTURED, ids=lambda value: getattr(value, "__name__", value))
@pytest.mark.parametrize("name", ["test/tiny-script", pytest.param("ai/smollm2", marks=pytest.mark.real)])
def test_an_answer_has_the_structure_that_was_asked_for(make: MakeChat, server: Server, method: str, name: str) -> None:
    options: Any = {"num_predict": 300} if make is make_ollama else {"max_tokens": 300}
    chat = make(server.url, name, temperature=0.0, **options)
    found = chat.with_structured_output(Person, method=method).invoke("Anna is 31 years old. Who is it?")
    assert isinstance(found, Person)


@pytest.mark.parametrize("make_embeddings", ["openai", "ollama"])
def test_texts_become_vectors(server: Server, make_embeddings: str) -> None:
    embeddings: Embeddings
    if make_embeddings == "openai":
        embeddings = OpenAIEmbeddings(
            base_url=server.url + "/v1",
            api_key=pydantic.SecretStr("none"),
            model="test/tiny-embed",
            check_embedding_ctx_length=False,  # else it sends the tokens of OpenAI's own models
        )
    else:
        embeddings = OllamaEmbeddings(base_url=server.url, model="test/tiny-embed", client_kwargs=UNPOOLED)
    vectors = embeddings.embed_documents(["a dog runs", "the dog runs", "snow"])
    assert [len(vector) for vector in vectors] == [EMBED_SIZE] * 3
    near, far = (sum(map(float.__mul__, vectors[0], other)) for other in vectors[1:])
    assert near > far
    query = embeddings.embed_query("snow")
    assert query == pytest.approx(vectors[2], abs=1e-4)
    assert math.isclose(sum(x * x for x in query), 1.0, rel_tol=1e-3)
