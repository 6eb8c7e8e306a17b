"""Many streams at the same time: each client asks again as soon as it has its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count

from .answers import REFUSED
from .client import Client, Exchange
from .counts import Account, Figures
from .requests import streamed
from .side import Side

NUM_WORDS, NUM_TOKENS = 8, 64  # a word is about five tokens of the tiny model
TIMEOUT = 120.0  # seconds for an answer
PAUSE = 1.0  # seconds that a client waits after a refusal, which is the least that it is told to


def measure_crowd(
    side: Side,
    num_streams: int,
    seconds: float,
    seed: str,
    meanwhile: Callable[[float], None] = lambda now: None,
) -> tuple[Figures, dict[str, int]]:
    """With why requests were refused or have failed. `meanwhile` is called again and again with the monotonic time."""
    account = Account(NUM_TOKENS)
    numbers = count()
    client = Client(side.port, TIMEOUT)
    begin = time.perf_counter()
    end = begin + seconds
    waiting: list[tuple[float, str]] = []  # until when, and whose key; times only rise

    def ask(key: str) -> None:
        request = streamed(side.model, f"{seed} {next(numbers)}", NUM_WORDS, NUM_TOKENS, key=key)
        client.send(request, lambda exchange: go_on(exchange, key))

    def go_on(exchange: Exchange, key: str) -> None:
        how = account.add(exchange)
        now = time.perf_counter()
        if now < end:
            if how == REFUSED:
                waiting.append((now + PAUSE, key))
            else:
                ask(key)

    for number in range(num_streams):
        ask(f"key-{number}")
    while (now := time.perf_counter()) < end:
        while waiting and waiting[0][0] <= now:
            ask(waiting.pop(0)[1])
        client.turn(min(end, now + 1.0, waiting[0][0] if waiting else end))
        meanwhile(time.monotonic())
    client.drain(time.perf_counter() + TIMEOUT / 2)
    client.close()
    figures = account.figures()
    figures["tokens/s"] = account.num_tokens_until(end) / seconds
    return figures, dict(account.reasons)
