"""The requests of a soak: what is asked, and what became of it."""

from __future__ import annotations

import http.client
import json
import random
import time
from typing import Any, NamedTuple

DEADLINE = 90.0  # seconds of silence after which a request counts as hung; the server answers or comments long before

# What can become of a request. The last two must not be.
ENDS = ("answered", "refused", "failed", "left", "cut", "hung", "malformed")


class Ask(NamedTuple):
    kind: str
    path: str
    body: dict[str, Any] | None  # None: GET
    leaves_after: int = 0  # bytes of the answer, after which the client goes; 0 = it stays
    is_slow: bool = False  # the client reads little and seldom


class End(NamedTuple):
    ask: Ask
    how: str  # one of ENDS
    detail: str = ""


def choose(dice: random.Random, models: list[str]) -> Ask:
    """A request of a random kind."""
    model = dice.choice(models)
    text = " ".join(
        dice.choices(["tell", "me", "more", "about", "rain", "stones", "and", "ships"], k=dice.randint(1, 12))
    )
    limit = dice.choice([1, 4, 16, 64, 200])
    messages = [{"role": "user", "content": text}]
    chat = {"model": model, "messages": messages, "max_tokens": limit, "stream": dice.random() < 0.6}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    leaves_after = dice.choice([0, 0, 0, 1, 300])
    asks = [
        Ask("chat", "/v1/chat/completions", chat, leaves_after),
        Ask("chat of several", "/v1/chat/completions", {**chat, "n": 3}, leaves_after),
        Ask("long prompt", "/v1/chat/completions", {**chat, "messages": [{"role": "user", "content": text * 12}]}),
        Ask("too long", "/v1/chat/completions", {**chat, "messages": [{"role": "user", "content": text * 3000}]}),
        Ask(
            "schema",
            "/v1/chat/completions",
            {**chat, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        ),
        Ask("slow reader", "/v1/chat/completions", {**chat, "stream": True, "max_tokens": 200}, is_slow=True),
        Ask("completion", "/v1/completions", {"model": model, "prompt": text, "max_tokens": limit}),
        Ask("messages", "/v1/messages", {**chat, "system": "Be brief."}, leaves_after),
        Ask("generate", "/api/generate", {"model": model, "prompt": text, "options": {"num_predict": limit}}),
        Ask("embeddings", "/v1/embeddings", {"model": model, "input": [text, "two"]}),
        Ask("bad value", "/v1/chat/completions", {**chat, "temperature": -1}),
        Ask("unknown model", "/v1/chat/completions", {**chat, "model": "nobody/nothing"}),
        Ask("look", dice.choice(["/v1/models", "/engines/ps", "/metrics", "/api/ps", "/health"]), None),
    ]
    return dice.choice(asks)


def ask(port: int, what: Ask) -> End:
    """Send it, read what comes, and tell how it ended. Never raises."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        if what.body is None:
            connection.request("GET", what.path)
        else:
            connection.request("POST", what.path, json.dumps(what.body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = _read(response, what)
        if data is None:
            return End(what, "left")
        how, detail = _judge(what, response.status, data)
        return End(what, how, detail)
    except TimeoutError:
        return End(what, "hung")
    except (OSError, http.client.HTTPException) as error:
        return End(what, "cut", type(error).__name__)
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, what: Ask) -> bytes | None:
    """The whole body; None: the client has left before."""
    data = b""
    while piece := response.read1(256 if what.is_slow else 1 << 16):
        data += piece
        if what.leaves_after and len(data) >= what.leaves_after:
            return None
        if what.is_slow:
            time.sleep(0.05)
    return data


def _judge(what: Ask, status: int, data: bytes) -> tuple[str, str]:
    if status != 200:
        return _judge_error(what, status, data)
    if what.body is None:
        return "answered", ""
    text = data.decode(errors="replace")
    is_stream = what.body.get("stream", what.path.startswith("/api/")) is True
    if not is_stream:
        return ("answered", "") if text.strip() else ("malformed", "an empty answer")
    if _ends_well(what.path, text):
        return "answered", ""
    if '"error"' in text:
        return "failed", "in the stream"
    return "malformed", f"a stream without an end: {text[-80:]!r}"


def _ends_well(path: str, text: str) -> bool:
    last = text.rstrip().rpartition("\n")[2]
    if path.startswith("/api/"):
        return '"done":true' in last
    return "message_stop" in last if path == "/v1/messages" else last == "data: [DONE]"


def _judge_error(what: Ask, status: int, data: bytes) -> tuple[str, str]:
    if what.body is None and data.strip():  # errors of these routes may be text
        return "failed", f"{status} {data[:60].decode(errors='replace').strip()}"
    try:
        error = json.loads(data)["error"]
        message = error if isinstance(error, str) else error["message"]
    except (ValueError, KeyError, TypeError):
        return "malformed", f"{status} without an error: {data[:80]!r}"
    return ("refused" if status < 500 and status != 429 else "failed"), f"{status} {message[:60]}"
