"""How much the model shall think, in the words of all the servers that clients were written for."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from dmr.errors import InvalidRequest, Unsupported
from dmr_server.fields import INT32_MAX
from dmr_server.openai.fields import CommonFields

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Budget = Annotated[int, Meta(ge=-1, le=INT32_MAX)]  # tokens; -1 = no limit


class ReasoningOptions(msgspec.Struct, frozen=True):
    """OpenRouter's object, which Ollama's OpenAI routes know too."""

    effort: Union[Effort, None] = None
    max_tokens: Union[Budget, None] = None
    enabled: Union[bool, None] = None
    exclude: Union[bool, None] = None


class ThinkingFields(CommonFields, frozen=True, kw_only=True):
    reasoning_effort: Union[Effort, UnsetType] = UNSET
    reasoning: Union[ReasoningOptions, UnsetType] = UNSET
    thinking_budget_tokens: Union[Budget, UnsetType] = UNSET
    reasoning_budget_tokens: Union[Budget, UnsetType] = UNSET
    reasoning_budget: Union[Budget, UnsetType] = UNSET
    thinking_budget: Union[Budget, UnsetType] = UNSET
    enable_thinking: Union[bool, UnsetType] = UNSET
    include_reasoning: bool = True
    reasoning_format: Union[Literal["auto", "deepseek", "deepseek-legacy", "none"], UnsetType] = UNSET
    chat_template_kwargs: Union[dict[str, Any], UnsetType] = UNSET


class Thinking(msgspec.Struct, frozen=True):
    """`effort` and `budget` (tokens) as `ChatInput` has them; with `hidden` the thought is left out of the answer.

    `is_given`: the client has said whether, or how much, the model is to think.
    """

    is_given: bool
    enabled: bool
    effort: str | None
    budget: int | None
    hidden: bool
    template_kwargs: dict[str, Any]


def read_thinking(fields: ThinkingFields) -> Thinking:
    """Raises InvalidRequest, Unsupported."""
    if fields.reasoning_format in ("none", "deepseek-legacy"):
        raise Unsupported(
            "'reasoning_format' other than 'deepseek' is not supported: thoughts never stand in the text.",
            param="reasoning_format",
        )
    options = ReasoningOptions() if fields.reasoning is UNSET else fields.reasoning
    arguments = dict(fields.chat_template_kwargs or {})
    effort = options.effort if fields.reasoning_effort is UNSET else fields.reasoning_effort
    return Thinking(
        is_given=_is_given(fields, options) or "enable_thinking" in arguments,
        enabled=effort != "none" and _is_enabled(fields, options, arguments.pop("enable_thinking", None)),
        effort=None if effort == "none" else effort,
        budget=_budget(fields, options),
        hidden=bool(options.exclude) or not fields.include_reasoning,
        template_kwargs=arguments,
    )


def _is_given(fields: ThinkingFields, options: ReasoningOptions) -> bool:
    ours = (fields.reasoning_effort, fields.enable_thinking, *_budgets(fields, options))
    return any(value is not UNSET and value is not None for value in (*ours, options.effort, options.enabled))


def _is_enabled(fields: ThinkingFields, options: ReasoningOptions, argument: Any) -> bool:
    if argument is not None and not isinstance(argument, bool):
        name = "chat_template_kwargs.enable_thinking"
        raise InvalidRequest(f"Invalid value for '{name}': expected bool.", param=name)
    return argument is not False and fields.enable_thinking is not False and options.enabled is not False


def _budget(fields: ThinkingFields, options: ReasoningOptions) -> int | None:
    budgets = _budgets(fields, options)
    return next((budget for budget in budgets if isinstance(budget, int) and budget >= 0), None)


def _budgets(fields: ThinkingFields, options: ReasoningOptions) -> tuple[int | UnsetType | None, ...]:
    return (
        fields.thinking_budget_tokens,
        fields.reasoning_budget_tokens,
        fields.reasoning_budget,
        fields.thinking_budget,
        options.max_tokens,
    )
