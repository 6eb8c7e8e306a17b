"""Rows about what goes wrong: clients that leave, and more KV memory asked for than there is."""

from __future__ import annotations

import asyncio
import random

from .figures import Figures, RoundFailed, check, num_tokens, percentile, throughput, ttfts
from .prompts import words
from .row import BEST, DEFAULTS, Load, Metric, Row, Setup, Target

NUM_CLIENTS = 16
EARLIEST, LATEST = 0.2, 4.0  # seconds after which a client leaves
NUM_HUNGRY, HUNGRY_WORDS, HUNGRY_TOKENS = 8, 200, 64
SCARCE = 1024  # tokens of KV memory: less than four of the hungry need, more than one does


async def half_leave(load: Load, seed: str) -> Figures:
    """Every second client leaves at a moment of its own; the others' tokens count, until the last of them is done."""
    moments = random.Random(f"{seed} moments")
    leaving = [moments.uniform(EARLIEST, LATEST) if client % 2 else None for client in range(NUM_CLIENTS)]
    outcomes = await asyncio.gather(
        *(
            load.complete(words(f"{seed} client {client}", 100), 48, cancel_after=moment)
            for client, moment in enumerate(leaving)
        )
    )
    check(outcomes)
    stayed = outcomes[::2]
    return {
        "goodput": throughput(stayed),
        "ttft_p95": percentile(ttfts(stayed), 95),
        "left": sum(outcome.cancelled for outcome in outcomes),
    }


async def too_much(load: Load, seed: str) -> Figures:
    """A request has failed when it got an error, or less than it asked for."""
    outcomes = await asyncio.gather(
        *(load.complete(words(f"{seed} client {client}", HUNGRY_WORDS), HUNGRY_TOKENS) for client in range(NUM_HUNGRY))
    )
    num_wanted = sum(outcome.num_prompt_tokens + HUNGRY_TOKENS for outcome in outcomes)
    failed = [outcome for outcome in outcomes if outcome.error is not None or num_tokens(outcome) < HUNGRY_TOKENS]
    if not failed and num_wanted <= SCARCE:
        raise RoundFailed(f"the requests took {num_wanted} tokens only, so KV memory was not scarce")
    return {
        "failed": len(failed),
        "refused": sum(outcome.error is not None for outcome in outcomes),
        "throughput": throughput(outcomes),
    }


ROWS = (
    Row(
        "8",
        f"{NUM_CLIENTS} clients, half of which leave within {LATEST:g} s",
        Setup(NUM_CLIENTS),
        half_leave,
        (
            Metric("goodput", "goodput of the rest", "tok/s", True),
            Metric("ttft_p95", "TTFT p95 of the rest", "s", False, 2),
            Metric("left", "clients that left early", "", False, 0),
        ),
        (Target("goodput", DEFAULTS, 1.3), Target("goodput", BEST, 1.1)),
    ),
    Row(
        "9",
        f"{NUM_HUNGRY} requests of {HUNGRY_WORDS} words for {HUNGRY_TOKENS} tokens, over {SCARCE} tokens of KV memory",
        Setup(4, context=SCARCE),
        too_much,
        (
            Metric("failed", f"failed or cut short, of {NUM_HUNGRY}", "requests", False, 0),
            Metric("refused", f"of these with an error, of {NUM_HUNGRY}", "requests", False, 0),
            Metric("throughput", "throughput", "tok/s", True),
        ),
        (Target("failed", None, 0.0),),
        short_pairs=1,
    ),
)
