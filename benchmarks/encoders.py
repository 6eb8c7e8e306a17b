"""What a streamed token costs a worker: microseconds of one text delta in each dialect's encoder.

    PYTHONPATH=server python benchmarks/encoders.py [--tokens 20000] [--rounds 7]

Needs no server. The best of the rounds counts: the others tell what else the machine was doing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from dmr.types import ReasoningDelta, Started, TextDelta
from dmr_server.anthropic.message import read_message
from dmr_server.dialect import Encoder
from dmr_server.generation import Stamp
from dmr_server.ollama.chat import read_chat as read_ollama_chat
from dmr_server.ollama.generate import read_generate
from dmr_server.openai.chat import read_chat
from dmr_server.openai.completions import read_completion
from dmr_server.openai.infill import read_infill
from dmr_server.responses.request import read_response

TARGET = 15.0  # microseconds
STAMP = Stamp("answer-0123456789abcdef0123456789abcdef", 1_700_000_000)
MODEL = "ai/smollm2:135M-Q4_1"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}


class NothingKept:
    """The Responses API's memory, empty."""

    def history(self, id: str) -> list[Any]:
        raise KeyError(id)

    def find_item(self, id: str) -> Any:
        raise KeyError(id)


ENCODERS: dict[str, Callable[[], Encoder]] = {
    "openai chat": lambda: read_chat(CHAT, STAMP).encoder(),
    "openai chat, usage": lambda: read_chat({**CHAT, "stream_options": {"include_usage": True}}, STAMP).encoder(),
    "openai completions": lambda: read_completion({"model": MODEL, "prompt": "Hi", "stream": True}, STAMP).encoder(),
    "openai infill": lambda: read_infill({"model": MODEL, "input_prefix": "a", "stream": True}, STAMP).encoder(),
    "openai responses": lambda: read_response(
        {"model": MODEL, "input": "Hi", "stream": True}, STAMP, NothingKept()
    ).encoder(),
    "anthropic messages": lambda: read_message(
        {**CHAT, "max_tokens": 64, "thinking": {"type": "adaptive"}}, STAMP
    ).encoder(),
    "ollama chat": lambda: read_ollama_chat(CHAT, STAMP.created).encoder(),
    "ollama generate": lambda: read_generate({"model": MODEL, "prompt": "Hi"}, STAMP.created).encoder(),
}


def cost(encoder: Encoder, deltas: list[Any]) -> float:
    """Microseconds for each delta."""
    encoder.encode(Started(5))
    encoder.encode(deltas[0])  # what opens an item or a block is no delta
    began = time.perf_counter()
    for delta in deltas:
        encoder.encode(delta)
    return (time.perf_counter() - began) / len(deltas) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    words = [f" word{number % 97}" for number in range(options.tokens)]
    texts, thoughts = [TextDelta(0, word) for word in words], [ReasoningDelta(0, word) for word in words]
    print(f"{'µs per delta':20} {'text':>6} {'thought':>8}")
    for name, make in ENCODERS.items():
        text = min(cost(make(), texts) for _ in range(options.rounds))
        thought = min(cost(make(), thoughts) for _ in range(options.rounds))
        over = "   over the target" if max(text, thought) > TARGET else ""
        print(f"{name:20} {text:6.2f} {thought:8.2f}{over}")


if __name__ == "__main__":
    main()
