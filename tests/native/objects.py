"""Native objects from keywords, and the loops that nearly every test needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dmr import _core

Options = TypeVar("Options", _core.ContextOptions, _core.SamplerOptions, _core.ChatRequest)
DONE = _core.DecodeStatus.DONE
NO_ROOM = _core.DecodeStatus.NO_ROOM
ABORTED = _core.DecodeStatus.ABORTED


def with_fields(options: Options, fields: dict[str, Any]) -> Options:
    for name, value in fields.items():
        setattr(options, name, value)
    return options


def make_context(model: _core.Model, **fields: Any) -> _core.Context:
    return _core.Context(model, with_fields(_core.ContextOptions(), {"context_size": 512, "max_batch": 128, **fields}))


def make_sampler(model: _core.Model, **fields: Any) -> _core.Sampler:
    return _core.Sampler(model, with_fields(_core.SamplerOptions(), fields))


def make_batch(*parts: tuple[int, Sequence[int], int]) -> _core.Batch:
    """Parts of (sequence, tokens, first position); the last token of each has an output."""
    batch = _core.Batch()
    for part in parts:
        batch.add(*part)
    return batch


def prefill(context: _core.Context, sequence: int, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """Decode the tokens after what the sequence holds; the logits of what follows."""
    batch = make_batch((sequence, tokens, context.position_max(sequence) + 1))
    assert context.decode(batch) == DONE
    return context.logits(len(tokens) - 1)


def greedy(context: _core.Context, sequence: int, tokens: Sequence[int], count: int) -> list[int]:
    """The likeliest `count` tokens after `tokens`."""
    answer: list[int] = []
    for _ in range(count):
        answer.append(int(np.argmax(prefill(context, sequence, tokens if not answer else answer[-1:]))))
    return answer


def generate_text(model: _core.Model, prompt: str, sampler: _core.Sampler, max_tokens: int = 200) -> tuple[str, bool]:
    """What the sampler makes of the model's logits, and whether it ended by itself."""
    context = make_context(model, max_batch=512)
    detokenizer = _core.Detokenizer(model)
    tokens = model.tokenize(prompt)
    text = ""
    for _ in range(max_tokens):
        token = sampler.sample(prefill(context, 0, tokens)).token
        if model.is_end(token):
            return text + detokenizer.flush(), True
        text += detokenizer.push(token)
        tokens = [token]
    return text + detokenizer.flush(), False
