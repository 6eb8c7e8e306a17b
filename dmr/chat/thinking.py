"""How long a model may think."""

from __future__ import annotations

from dmr import _core
from dmr.errors import InvalidRequest
from dmr.types import ChatInput
from dmr.wire import ThoughtLimit

# Tokens of thought for an effort, where the template has no use of its own for the word. None = no limit.
EFFORT_BUDGETS: dict[str, int | None] = {
    "none": 0,
    "minimal": 0,
    "low": 512,
    "medium": 2048,
    "high": 8192,
    "xhigh": None,
    "max": None,
}


def thought_budget(chat: ChatInput, knows_effort: bool) -> int | None:
    """Tokens of thought that a request allows; None = no limit. Raises InvalidRequest for an effort nobody knows."""
    if chat.reasoning_budget is not None:
        return max(chat.reasoning_budget, 0)
    if chat.reasoning_effort is None or knows_effort:
        return None
    if chat.reasoning_effort not in EFFORT_BUDGETS:
        known = ", ".join(EFFORT_BUDGETS)
        raise InvalidRequest(
            f"Unknown reasoning effort '{chat.reasoning_effort}': known are {known}.", param="reasoning_effort"
        )
    return EFFORT_BUDGETS[chat.reasoning_effort]


def is_thought_open(prompt: _core.ChatPrompt) -> bool:
    """Whether the prompt ends in the midst of a thought."""
    begun = prompt.generation_prompt
    start = prompt.thought_start.strip()
    return bool(start) and begun.rfind(start) > max(
        (begun.rfind(end.strip()) for end in prompt.thought_ends), default=-1
    )


def thought_limit(prompt: _core.ChatPrompt, budget: int | None) -> ThoughtLimit | None:
    """The limit in the engine's words; None also for a format whose thoughts have no known end."""
    if budget is None or not prompt.thought_ends:
        return None
    # White space around the tag is left to the model: one that ends its thought without it has ended it all the same.
    end = prompt.thought_ends[0].strip()
    return ThoughtLimit(budget, prompt.thought_start.strip(), end, is_thought_open(prompt)) if end else None
