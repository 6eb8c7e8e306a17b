"""What is asked through LiteLLM; `test_litellm.py` knows what must come back."""

from __future__ import annotations

from typing import Any

import litellm
from calls import main

SCRIPT = "test/tiny-script"
ASK = [{"role": "user", "content": "Count, please."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
PATHS = {"openai": "/v1", "anthropic": "", "ollama": "", "ollama_chat": "", "hosted_vllm": "/v1"}


def options(url: str, provider: str, model: str = SCRIPT, **fields: Any) -> dict[str, Any]:
    return {
        "model": f"{provider}/{model}",
        "api_base": url + PATHS[provider],
        "api_key": "none",
        "num_retries": 0,
        "max_retries": 0,
        **fields,
    }


def whole(url: str) -> Any:
    """Provider -> text, reason and counts."""
    found = {}
    for provider in PATHS:
        answer = litellm.completion(messages=ASK, **options(url, provider))
        choice = answer.choices[0]
        usage = answer.usage
        found[provider] = [choice.message.content, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens]
    return found


def streamed(url: str) -> Any:
    """Provider -> the pieces of the text."""
    found = {}
    for provider in PATHS:
        chunks = litellm.completion(messages=ASK, stream=True, **options(url, provider))
        texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        found[provider] = [text for text in texts if text]
    return found


def tools(url: str) -> Any:
    """Provider -> the call's name and arguments, and the answer to its result."""
    found = {}
    for provider in ("openai", "anthropic", "ollama_chat"):
        ask: list[Any] = [{"role": "user", "content": "How is the weather?"}]
        asked = options(url, provider, tools=[WEATHER])
        message = litellm.completion(messages=ask, **asked).choices[0].message
        call = message.tool_calls[0]
        result = {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": "sunny"}
        answer = litellm.completion(messages=[*ask, message.model_dump(), result], **asked)
        found[provider] = [call.function.name, call.function.arguments, answer.choices[0].message.content]
    return found


def structured(url: str) -> Any:
    """Provider -> the text of an answer under a schema."""
    format = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    found = {}
    for provider in ("openai", "hosted_vllm", "ollama_chat"):
        answer = litellm.completion(
            messages=ASK, response_format=format, **options(url, provider, max_tokens=200, temperature=0)
        )
        found[provider] = answer.choices[0].message.content
    return found


def reasoning(url: str) -> Any:
    answer = litellm.completion(messages=ASK, **options(url, "openai", "test/tiny-think"))
    message = answer.choices[0].message
    return [message.reasoning_content, message.content]


def embedded(url: str) -> Any:
    """Provider -> two vectors."""
    found = {}
    for provider in ("openai", "ollama"):
        asked = options(url, provider, "test/tiny-embed")
        asked.pop("num_retries")
        if provider == "openai":
            asked["encoding_format"] = "float"
        answer = litellm.embedding(input=["a dog runs", "snow"], **asked)
        found[provider] = [entry["embedding"] for entry in answer.data]
    return found


def reranked(url: str) -> Any:
    answer = litellm.rerank(
        model="jina_ai/test/tiny-rerank",
        api_base=url + "/v1/rerank",
        api_key="none",
        query="dog",
        documents=["a dog runs", "snow", "bread"],
        top_n=2,
    )
    return [result["index"] for result in answer.results]


def unknown_model(url: str) -> Any:
    """Provider -> the name of what is raised."""
    found = {}
    for provider in ("openai", "anthropic"):
        try:
            litellm.completion(messages=ASK, **options(url, provider, "nobody/nothing"))
        except Exception as error:
            found[provider] = type(error).__name__
    return found


if __name__ == "__main__":
    main([whole, streamed, tools, structured, reasoning, embedded, reranked, unknown_model])
