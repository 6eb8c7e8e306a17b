"""What is packed into signatures and sealed items costs no more memory than one request may have."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import falcon.testing
import pytest
from fakes import FakeService

from dmr.errors import PayloadTooLarge
from dmr_server import unpacking
from dmr_server.anthropic.signature import packed_signature
from dmr_server.responses.sealed import seal
from dmr_server.unpacking import Unpacker


def test_all_texts_share_one_budget() -> None:
    unpacker = Unpacker(1000)
    assert unpacker.unpack(zlib.compress(b"x" * 400)) == b"x" * 400
    assert unpacker.unpack(zlib.compress(b"x" * 600)) == b"x" * 600
    assert unpacker.unpack(zlib.compress(b"")) == b""
    with pytest.raises(PayloadTooLarge):
        unpacker.unpack(zlib.compress(b"x"))


@pytest.mark.parametrize("packed", [b"", b"no", zlib.compress(b"abc" * 99)[:-4], zlib.compress(b"abc" * 99)[:9]])
def test_damage_is_told(packed: bytes) -> None:
    with pytest.raises(zlib.error):
        Unpacker().unpack(packed)


def messages_body(text: str, count: int) -> dict[str, Any]:
    blocks = [{"type": "thinking", "thinking": "", "signature": packed_signature(text)}] * count
    turns = [{"role": "assistant", "content": blocks}, {"role": "user", "content": "Go on"}]
    return {"model": "ai/smollm2", "max_tokens": 9, "messages": turns}


def responses_body(text: str, count: int, kind: str) -> dict[str, Any]:
    items = [{"type": kind, "encrypted_content": seal(text), "summary": []}] * count
    return {"model": "ai/smollm2", "store": False, "input": [*items, {"role": "user", "content": "Go on"}]}


@pytest.mark.parametrize("kind", ["thinking", "reasoning", "compaction"])
def test_a_request_that_unpacks_to_too_much_is_refused(
    client: falcon.testing.TestClient, service: FakeService, answer: tuple[Any, ...], kind: str
) -> None:
    text = "x" * (unpacking.MAX_UNPACKED // 4)

    def status(count: int) -> int:
        service.enqueue(*answer)
        if kind == "thinking":
            return client.simulate_post("/anthropic/v1/messages", json=messages_body(text, count)).status_code
        return client.simulate_post("/v1/responses", json=responses_body(text, count, kind)).status_code

    assert (status(4), status(5)) == (200, 413)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = seal("x" * (unpacking.MAX_UNPACKED + 1))
    assert len(bomb) < 50_000
    with pytest.raises(PayloadTooLarge):
        Unpacker().unpack(base64.b64decode(bomb)[1:])
