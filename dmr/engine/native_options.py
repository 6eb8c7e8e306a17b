"""Settings and sampling parameters as the native side takes them."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from dmr import _core
from dmr.config import EngineSettings
from dmr.types import SamplingParams
from dmr.wire import EngineRequest

_TRIGGER_KINDS = {
    "word": _core.TriggerKind.WORD,
    "pattern": _core.TriggerKind.PATTERN,
    "full_pattern": _core.TriggerKind.FULL_PATTERN,
}


def num_usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_operations() -> int:
    """Of graphs, that were computed in this process. Any thread; never waits."""
    return _core.num_operations()


def context_options(settings: EngineSettings) -> _core.ContextOptions:
    """What settings say of any context. Raises ValueError."""
    options = _core.ContextOptions()
    set_option(options, "num_threads", settings.num_threads or num_usable_cores())
    set_option(options, "num_batch_threads", settings.num_batch_threads)
    set_option(options, "thread_polling", settings.thread_polling)
    for name, value in msgspec.structs.asdict(settings.attention).items():
        set_option(options, name, value)
    rope = _core.RopeOptions()
    for name, value in msgspec.structs.asdict(settings.rope).items():
        set_option(rope, name, value)
    options.rope = rope
    return options


def sampler_options(request: EngineRequest, seed: int) -> _core.SamplerOptions:
    """Raises ValueError."""
    options = _core.SamplerOptions()
    params = request.sampling
    for name in SamplingParams.__struct_fields__:
        value = getattr(params, name)
        if name != "seed":
            set_option(options, name, list(value) if isinstance(value, tuple) else value)
    options.seed = seed
    set_option(options, "num_logprobs", -1 if request.num_logprobs is None else request.num_logprobs)
    if request.grammar is not None:
        options.grammar = request.grammar.text
        options.grammar_prefill = request.grammar.prefill
        options.grammar_lazy = request.grammar.lazy
        options.grammar_triggers = [
            _core.GrammarTrigger(_TRIGGER_KINDS[kind], text) for kind, text in request.grammar.triggers
        ]
    limit = request.thought_limit
    if limit is not None:
        set_option(options, "thought_budget", limit.budget)
        options.thought_start, options.thought_end = limit.start, limit.end
        options.thought_is_open = limit.is_open
    return options


def set_option(options: _core.ContextOptions | _core.RopeOptions | _core.SamplerOptions, name: str, value: Any) -> None:
    """Raises ValueError."""
    try:
        setattr(options, name, value)
    except TypeError:  # a number that does not fit into the native type
        raise ValueError(f"{name} is out of range") from None
