"""What the hostile calls are made of: a case, and a bench with models and fresh objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from native import objects
from tiny_models import model_file

from dmr import _core

REFUSED = (ValueError, _core.Error)
INT_MAX, INT_MIN = 2**31 - 1, -(2**31)
NUM_TOKENS = 437


class Case(NamedTuple):
    name: str
    call: Callable[..., object]
    must_raise: tuple[type[Exception], ...] = REFUSED
    may_pass: bool = False  # surviving it is enough


class Bench:
    """The models, and objects of them made anew for each call."""

    def __init__(self, folder: Path) -> None:
        def load(name: str, **fields: Any) -> _core.Model:
            return _core.Model([str(model_file(name, folder))], **fields)

        self.folder = folder
        self.load = load
        self.random, self.script = load("tiny-random"), load("tiny-script")
        self.embed, self.rerank = load("tiny-embed"), load("tiny-rerank")
        self.with_fields = objects.with_fields
        self.make_context, self.make_batch = objects.make_context, objects.make_batch
        self.make_sampler = objects.make_sampler
        self.template = _core.ChatTemplate(self.script.chat_template)

    def context(self, **fields: Any) -> _core.Context:
        return self.make_context(self.random, **{"max_sequences": 4, **fields})

    def sampler(self, **fields: Any) -> _core.Sampler:
        return self.make_sampler(self.random, **fields)

    def filled(self, **fields: Any) -> _core.Context:
        context = self.context(**fields)
        context.decode(self.make_batch((0, [5, 6, 7], 0), (2, [9, 9], 0)))
        return context

    def decode(self, *parts: Any, **fields: Any) -> object:
        batch = _core.Batch()
        for part in parts:
            batch.add(*part)
        return self.filled(**fields).decode(batch)

    def sample(self, *logits: Any, **fields: Any) -> int:
        """A token, after some tokens to look back at; twice, so that what one draw leaves behind is used."""
        sampler = self.sampler(**fields)
        sampler.observe([1, 2, 3, 1, 2, 3, 1, 2, 3])
        row = logits[0] if logits else np.random.RandomState(1).standard_normal(NUM_TOKENS) * 3
        tokens = [sampler.sample(row).token for _ in range(2)]
        assert all(0 <= token < NUM_TOKENS for token in tokens), tokens
        return tokens[0]

    def render(self, **fields: Any) -> object:
        request = self.with_fields(_core.ChatRequest(), {"messages": '[{"role":"user","content":"x"}]', **fields})
        prompt = self.template.render(request)
        parser = _core.ChatParser(prompt)
        parser.feed("hello")
        return parser.finish()
