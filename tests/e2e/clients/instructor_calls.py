"""What is asked through Instructor; `test_instructor.py` knows what must come back."""

from __future__ import annotations

from typing import Any, Literal

import instructor
from calls import main
from openai import OpenAI
from pydantic import BaseModel

ASK: Any = [{"role": "user", "content": "Anna is 31 years old and lives in Rome. She likes cats."}]


class Person(BaseModel):
    """Somebody"""

    name: str
    age: int
    pet: Literal["cat", "dog", "none"]


class Anything(BaseModel, extra="allow"):
    """Some object"""


def ask(url: str, model: str, mode: instructor.Mode) -> Any:
    client = instructor.from_openai(OpenAI(base_url=url + "/v1", api_key="none", max_retries=0), mode=mode)
    person = client.chat.completions.create(
        model=model, response_model=Person, messages=ASK, max_retries=0, max_tokens=300, temperature=0
    )
    return person.model_dump()


def script_tools(url: str) -> Any:
    return ask(url, "test/tiny-script", instructor.Mode.TOOLS)


def script_json_schema(url: str) -> Any:
    return ask(url, "test/tiny-script", instructor.Mode.JSON_SCHEMA)


def real_tools(url: str) -> Any:
    return ask(url, "ai/smollm2", instructor.Mode.TOOLS)


def real_json_schema(url: str) -> Any:
    return ask(url, "ai/smollm2", instructor.Mode.JSON_SCHEMA)


def script_json(url: str) -> Any:
    """JSON mode promises some object, and no more."""
    client = instructor.from_openai(
        OpenAI(base_url=url + "/v1", api_key="none", max_retries=0), mode=instructor.Mode.JSON
    )
    found = client.chat.completions.create(
        model="test/tiny-script", response_model=Anything, messages=ASK, max_retries=0, max_tokens=300, temperature=0
    )
    return found.model_dump()


def script_partial(url: str) -> Any:
    """Streamed: the last of the ever more complete objects."""
    client = instructor.from_openai(
        OpenAI(base_url=url + "/v1", api_key="none", max_retries=0), mode=instructor.Mode.JSON_SCHEMA
    )
    partials = client.chat.completions.create_partial(
        model="test/tiny-script", response_model=Person, messages=ASK, max_retries=0, max_tokens=300, temperature=0
    )
    return [partial.model_dump() for partial in partials][-1]


if __name__ == "__main__":
    main([script_tools, script_json_schema, script_json, script_partial, real_tools, real_json_schema])
