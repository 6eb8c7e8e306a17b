"""The row about vectors: many short texts in one request."""

from __future__ import annotations

from .figures import Figures, check, median
from .prompts import words
from .row import BEST, DEFAULTS, Load, Metric, Row, Setup, Target

NUM_TEXTS, NUM_WORDS = 256, 14  # and two tokens that stand around each text
REPEATS = 3  # of what takes a second; the median counts


async def many_texts(load: Load, seed: str) -> Figures:
    rates, num_tokens = [], 0
    for number in range(REPEATS):
        outcome = await load.embed([words(f"{seed} {number} text {text}", NUM_WORDS) for text in range(NUM_TEXTS)])
        check([outcome])
        rates.append(NUM_TEXTS / (outcome.ended - outcome.began))
        num_tokens = outcome.num_prompt_tokens
    return {"texts": median(rates), "tokens_per_text": num_tokens / NUM_TEXTS}


ROWS = (
    Row(
        "7",
        f"{NUM_TEXTS} texts of about 16 tokens in one request for vectors",
        Setup(64, 256, embeds=True),
        many_texts,
        (
            Metric("texts", "texts", "1/s", True),
            Metric("tokens_per_text", "tokens of a text, as told", "tokens", False),
        ),
        (Target("texts", DEFAULTS, 3.0), Target("texts", BEST, 1.1)),
    ),
)
