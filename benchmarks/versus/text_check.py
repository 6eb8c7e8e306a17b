"""Row "text": the same prompts at temperature 0 give the same text on both sides.

Every prompt is answered alone, one after another, in order and backwards; then all at once, sent in order and sent
backwards. The servers are started anew for each of the four, so that nothing comes out of a cache, whose numbers are
those of another batch. All answers are compared, character by character, with those that llama-server gives alone. What
batches do to sums of floating-point numbers can tip a choice between two tokens that are nearly as likely; so where
texts part, the note tells by how much llama-server preferred its token there. llama-server's own batches are compared
in the same way, to show what is to be expected.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from .figures import RoundFailed, check
from .machine import load_average, read_machine, read_versions
from .measuring import Plan, Say, describe_settings, sides_of
from .results import Round, RowResult
from .row import DEFAULTS, Load, Metric, Row, Setup, Target
from .side import DMR, Side

NUM_TOKENS = 48
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived an old fisherman who",
    "def fibonacci(n):\n    ",
    "Water boils at one hundred degrees because",
    "List three reasons why people keep bees:\n1.",
    "Dear Sir or Madam,\n\nI am writing to complain about",
    "The difference between a virus and a bacterium is that",
    "In 1969, two astronauts",
    "Question: Why is the sky blue?\nAnswer:",
    "To make bread you need flour, water, salt and",
    "Der schnellste Weg von Berlin nach München ist",
    "She opened the letter, read the first line, and",
    "SELECT name, age FROM users WHERE",
    "A good teacher is somebody who",
    "Whenever it rained, the children of the street would run outside and",
    '{"name": "Ada", "born": 1815, "known_for": "',
)

Answers = Sequence[str]
Way = Callable[[Load], Coroutine[Any, Any, Answers]]


async def _alone(load: Load, prompts: Sequence[str]) -> Answers:
    return [(await _together(load, [prompt]))[0] for prompt in prompts]


async def _together(load: Load, prompts: Sequence[str]) -> Answers:
    outcomes = await asyncio.gather(*(load.complete(prompt, NUM_TOKENS) for prompt in prompts))
    check(outcomes)
    return [outcome.text for outcome in outcomes]


def _backwards(way: Callable[[Load, Sequence[str]], Coroutine[Any, Any, Answers]]) -> Way:
    async def answer(load: Load) -> Answers:
        return (await way(load, PROMPTS[::-1]))[::-1]

    return answer


WAYS: Mapping[str, Way] = {
    "alone": lambda load: _alone(load, PROMPTS),
    "alone, backwards": _backwards(_alone),
    "together": lambda load: _together(load, PROMPTS),
    "together, backwards": _backwards(_together),
}
ROW = Row(
    "text",
    f"{len(PROMPTS)} prompts at temperature 0: texts equal to those that llama-server gives alone",
    Setup(len(PROMPTS)),
    None,
    tuple(Metric(way, f"equal when {way}", f"of {len(PROMPTS)}", True, 0) for way in WAYS),
    tuple(Target(way, None, len(PROMPTS)) for way in WAYS if way.startswith("alone")),
)


class Parting(NamedTuple):
    """Where two texts stop being the same."""

    position: int  # in characters
    expected: str  # some characters from there on
    found: str


def parting(expected: str, found: str) -> Parting | None:
    """None: the texts are equal."""
    if expected == found:
        return None
    pairs = zip(expected, found, strict=False)
    shorter = min(len(expected), len(found))
    position = next((at for at, (one, other) in enumerate(pairs) if one != other), shorter)
    return Parting(position, expected[position : position + 12], found[position : position + 12])


class Choice(NamedTuple):
    """One token that was chosen, and how much likelier it was than the next best, in nats."""

    text: str
    lead: float


def lead_at(choices: Sequence[Choice], position: int) -> tuple[int, float]:
    """The token that covers a character of the text, and its lead. Raises RoundFailed when none does."""
    length = 0
    for number, choice in enumerate(choices):
        length += len(choice.text)
        if position < length:
            return number, choice.lead
    raise RoundFailed("the probabilities that llama-server tells are of another text")


def compare_texts(expected: Answers, found: Answers) -> list[tuple[int, Parting]]:
    """The prompts whose texts differ, and where."""
    partings = ((number, parting(*texts)) for number, texts in enumerate(zip(expected, found, strict=True)))
    return [(number, found) for number, found in partings if found is not None]


def check_texts(plan: Plan, say: Say) -> RowResult:
    """One round of every side. Raises RoundFailed, DidNotStart."""
    if DEFAULTS not in plan.settings or not plan.with_dmr:
        raise RoundFailed(f"it needs dmr and the peer's {DEFAULTS}")
    plan = plan._replace(settings=(DEFAULTS,))
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    settings = describe_settings(ROW.setup, plan)
    result = RowResult(ROW.name, ROW.title, date, read_machine(), read_versions(), settings)
    with tempfile.TemporaryDirectory(prefix="dmr-bench-") as text, sides_of(ROW.setup, plan, Path(text)) as sides:
        by_name = {side.name: side for side in sides}
        expected = asyncio.run(WAYS["alone"](by_name[DEFAULTS].load))
        for name in (DEFAULTS, DMR):
            began, average = time.perf_counter(), load_average()
            differing = {way: compare_texts(expected, _answer_anew(by_name[name], way)) for way in WAYS}
            figures = {way: float(len(PROMPTS) - len(found)) for way, found in differing.items()}
            result.rounds.append(Round(name, 0, "", average, time.perf_counter() - began, figures))
            say(f"  {name}: equal " + ", ".join(f"{way} {number:.0f}" for way, number in figures.items()))
            for way, found in differing.items():
                result.notes += [asyncio.run(_note(by_name[DEFAULTS].load, name, way, *where)) for where in found]
    return result


def _answer_anew(side: Side, way: str) -> Answers:
    side.stop()
    return asyncio.run(WAYS[way](side.load))


async def _note(peer: Load, side: str, way: str, prompt: int, where: Parting) -> str:
    choices = [Choice(*choice) for choice in await peer.choices(PROMPTS[prompt], NUM_TOKENS)]
    token, lead = lead_at(choices, where.position)
    return (
        f"{side}, {way}: prompt {prompt} parts at character {where.position} (token {token}): "
        f"{where.found!r} instead of {where.expected!r}, whose lead was {lead:.3f} nats"
    )
