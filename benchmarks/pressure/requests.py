"""Requests as bytes, made before the clock runs."""

from __future__ import annotations

import json
from typing import Any

from versus.prompts import words


def request_of(model: str, seed: str, num_words: int, num_tokens: int, *, key: str, **more: Any) -> bytes:
    """A completion of exactly so many tokens, asked for by the holder of a key."""
    body = {"model": model, "prompt": words(seed, num_words), "max_tokens": num_tokens, "temperature": 0}
    return post("/v1/completions", {**body, "ignore_eos": True, **more}, key)


def streamed(model: str, seed: str, num_words: int, num_tokens: int, *, key: str, **more: Any) -> bytes:
    options = {"stream": True, "stream_options": {"include_usage": True}, **more}
    return request_of(model, seed, num_words, num_tokens, key=key, **options)


def post(path: str, body: dict[str, Any], key: str) -> bytes:
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", "Connection: close"]
    lines += [f"Authorization: Bearer {key}", f"Content-Length: {len(data)}", "", ""]
    return "\r\n".join(lines).encode() + data
