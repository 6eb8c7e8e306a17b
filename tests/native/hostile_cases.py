"""Calls that a careless or hostile caller could make, each with what may come of it; run in one process of their own.

`python hostile_cases.py FOLDER` prints a line before and after each case: "> name", then "= name" or "! name: what came".
"""

from __future__ import annotations

import itertools
import json
import math
import random
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dmr import _core

REFUSED = (ValueError, _core.Error)
INT_MAX, INT_MIN = 2**31 - 1, -(2**31)
NUM_TOKENS = 437
MEMORY_LIMIT = 12 << 30  # bytes of address space: what asks for all memory must not take the machine with it


class Case(NamedTuple):
    name: str
    call: Callable[[], object]
    must_raise: tuple[type[Exception], ...] = REFUSED
    may_pass: bool = False  # surviving it is enough


class Bench:
    """The models, and objects of them made anew for each call."""

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from native import objects
        from tiny_models import model_file

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

    def filled(self, **fields: Any) -> _core.Context:
        context = self.context(**fields)
        context.decode(self.make_batch((0, [5, 6, 7], 0), (2, [9, 9], 0)))
        return context

    def decode(self, *parts: Any, **fields: Any) -> object:
        batch = _core.Batch()
        for part in parts:
            batch.add(*part)
        return self.filled(**fields).decode(batch)

    def sample(self, logits: Any = None, **fields: Any) -> int:
        """A token, after some tokens to look back at; twice, so that what one draw leaves behind is used."""
        sampler = self.make_sampler(self.random, **fields)
        sampler.observe([1, 2, 3, 1, 2, 3, 1, 2, 3])
        row = np.random.RandomState(1).standard_normal(NUM_TOKENS) * 3 if logits is None else logits
        tokens = [sampler.sample(row).token for _ in range(2)]
        assert all(0 <= token < NUM_TOKENS for token in tokens), tokens
        return tokens[0]

    def render(self, **fields: Any) -> object:
        request = self.with_fields(_core.ChatRequest(), {"messages": '[{"role":"user","content":"x"}]', **fields})
        prompt = self.template.render(request)
        parser = _core.ChatParser(prompt)
        parser.feed("hello")
        return parser.finish()


def tokens_and_sequences(bench: Bench) -> Iterator[Case]:
    for token in (-1, INT_MIN, NUM_TOKENS, INT_MAX):
        yield Case(f"batch with token {token}", lambda t=token: bench.decode((0, [1, t], 3)), (ValueError,))
        yield Case(
            f"observe token {token}", lambda t=token: bench.make_sampler(bench.random).observe([1, t]), (ValueError,)
        )
        yield Case(f"piece of token {token}", lambda t=token: bench.random.piece(t), (ValueError,))
        yield Case(f"end token {token}", lambda t=token: bench.random.is_end(t), (ValueError,))
        yield Case(f"push token {token}", lambda t=token: _core.Detokenizer(bench.random).push(t), (ValueError,))
        yield Case(f"bias on token {token}", lambda t=token: bench.sample(logit_bias=[(t, 1.0)]), (ValueError,))
    methods: dict[str, Callable[[_core.Context, int], object]] = {
        "decode": lambda c, s: c.decode(bench.make_batch((s, [1], 0))),
        "remove": lambda c, s: c.remove(s),
        "copy from": lambda c, s: c.copy(s, 1),
        "copy to": lambda c, s: c.copy(0, s),
        "keep": lambda c, s: c.keep(s),
        "shift": lambda c, s: c.shift(s, 0, -1, 1),
        "position_min": lambda c, s: c.position_min(s),
        "position_max": lambda c, s: c.position_max(s),
        "save": lambda c, s: c.save(s),
        "restore": lambda c, s: c.restore(s, c.save(0)),
        "sequence_embedding": lambda c, s: c.sequence_embedding(s),
    }
    for (name, method), sequence, unified in itertools.product(methods.items(), (-1, 4, 256, INT_MAX), (True, False)):
        layout = "" if unified else " in streams"
        yield Case(
            f"{name} of sequence {sequence}{layout}",
            lambda m=method, s=sequence, u=unified: m(bench.filled(unified=u), s),
            (ValueError,),
        )


def batches(bench: Bench) -> Iterator[Case]:
    wrong: dict[str, tuple[Any, ...]] = {
        "empty batch": (),
        "empty part": ((0, [], 3),),
        "batch over max_batch": ((0, [1] * 129, 3),),
        "gap": ((0, [1], 4),),
        "repeated position": ((0, [1], 2),),
        "repeated inside the batch": ((0, [1, 2], 3), (0, [1], 4)),
        "decreasing": ((0, [1], 4), (0, [1], 3)),
        "negative": ((0, [1], -1),),
        "most negative": ((0, [1], INT_MIN),),
        "huge": ((0, [1], INT_MAX),),
        "over the end of integers": ((0, [1, 2, 3], INT_MAX - 1),),
        "new sequence that does not begin": ((1, [1], 7),),
    }
    for name, parts in wrong.items():
        yield Case(f"batch: {name}", lambda p=parts: bench.decode(*p), (ValueError,))
        yield Case(f"batch: {name}, streams", lambda p=parts: bench.decode(*p, unified=False), (ValueError,))
        yield Case(f"batch: {name}, step", lambda p=parts: step(bench, *p), (ValueError,))
    yield Case("outputs over max_outputs", lambda: bench.decode((0, [1] * 5, 3, True)), (ValueError,))
    yield Case("encoder past its length", lambda: encode(bench, 0, 513), (ValueError,))
    yield Case("encoder that does not begin", lambda: encode(bench, 3, 2), (ValueError,))
    yield Case("encoder without embeddings", lambda: decode_encoder(bench, embeddings=False), (ValueError,))
    yield Case("vocabulary alone", lambda: vocabulary_only(bench, "tiny-random"))
    yield Case("encoder's vocabulary alone", lambda: vocabulary_only(bench, "tiny-embed"))


def step(bench: Bench, *parts: Any) -> object:
    batch = _core.Batch()
    for part in parts:
        batch.add(*part)
    return _core.step(bench.filled(), batch, [], _core.ThreadPool(1))


def encode(bench: Bench, first: int, count: int) -> object:
    context = bench.make_context(bench.embed, embeddings=True, context_size=2048, max_batch=2048)
    return context.decode(bench.make_batch((0, [5] * count, first)))


def decode_encoder(bench: Bench, **fields: Any) -> object:
    return bench.make_context(bench.embed, **fields).decode(bench.make_batch((0, [5, 6], 0)))


def vocabulary_only(bench: Bench, name: str) -> object:
    context = bench.make_context(bench.load(name, vocab_only=True), embeddings=True)
    return context.decode(bench.make_batch((0, [5], 0)))


def outputs(bench: Bench) -> Iterator[Case]:
    for index in (-1, 1, 3, 5, INT_MAX, INT_MIN):
        yield Case(f"logits of place {index}", lambda i=index: bench.filled().logits(i), (ValueError,))
    yield Case("logits before any decode", lambda: bench.context().logits(0), (ValueError,))
    yield Case("logits after a refused decode", lambda: after_refusal(bench), may_pass=True)
    yield Case("logits after a full memory", lambda: after_no_room(bench), may_pass=True)
    yield Case("embedding of a generating context", lambda: bench.filled().embedding(0), (ValueError,))
    yield Case("sequence embedding of one", lambda: bench.filled().sequence_embedding(0), (ValueError,))
    for index in (-1, 7, INT_MAX):
        yield Case(f"embedding of place {index}", lambda i=index: embeddings(bench, "none").embedding(i), (ValueError,))
    yield Case("embedding of a place that pools", lambda: embeddings(bench, "mean").embedding(0), (ValueError,))
    yield Case("sequence that was not computed", lambda: embeddings(bench, "mean").sequence_embedding(3), (ValueError,))
    yield Case("logits of an encoder", lambda: embeddings(bench, "mean").logits(0), may_pass=True)


def embeddings(bench: Bench, pooling: str) -> _core.Context:
    context = bench.make_context(bench.embed, embeddings=True, pooling=pooling, max_sequences=4)
    context.decode(bench.make_batch((0, [5, 6], 0), (1, [7], 0)))
    return context


def after_refusal(bench: Bench) -> object:
    context = bench.filled()
    try:
        context.decode(bench.make_batch((0, [1], 99)))
    except ValueError:
        return context.logits(2)
    return None


def after_no_room(bench: Bench) -> object:
    context = bench.context(context_size=256, max_batch=256)
    assert context.decode(bench.make_batch((1, [5, 6], 0), (0, [7] * 200, 0))) == _core.DecodeStatus.DONE
    assert context.decode(bench.make_batch((0, [7] * 100, 200))) == _core.DecodeStatus.NO_ROOM
    row = context.logits(1)
    assert np.isfinite(row).all()
    return row


def memory(bench: Bench) -> Iterator[Case]:
    streams = {"unified": False}
    yield Case("copy a part of a stream", lambda: bench.filled(**streams).copy(0, 1, 1, 2), (ValueError,))
    yield Case("copy the end of a stream", lambda: bench.filled(**streams).copy(0, 1, 1), (ValueError,))
    yield Case("copy onto something", lambda: bench.filled().copy(0, 2), (ValueError,))
    for begin, end in ((INT_MIN, INT_MAX), (INT_MAX, INT_MIN), (2, 1), (-5, -5), (INT_MAX, INT_MAX)):
        for method in ("remove", "copy"):
            yield Case(
                f"{method} {begin}..{end}", lambda m=method, b=begin, e=end: ranges(bench, m, b, e), may_pass=True
            )
    for delta in (-1, -3, INT_MIN, INT_MAX, INT_MAX - 2):
        yield Case(f"shift by {delta}", lambda d=delta: bench.filled().shift(0, 0, -1, d), (ValueError,))
    yield Case("shift from below", lambda: bench.filled().shift(0, -1, -1, 1), (ValueError,))
    yield Case("shift and go on", lambda: shifted(bench), may_pass=True)
    yield Case("shift an encoder", lambda: embeddings(bench, "mean").shift(0, 0, -1, 1), (ValueError,))
    for count in (0, -1, 2, 100_000, INT_MAX):
        yield Case(f"set {count} threads", lambda n=count: bench.filled().set_threads(n), (ValueError,))


def ranges(bench: Bench, method: str, begin: int, end: int) -> object:
    context = bench.filled()
    if method == "remove":
        return context.remove(0, begin, end)
    context.copy(0, 1, begin, end)
    return context.decode(bench.make_batch((1, [1], context.position_max(1) + 1)))


def shifted(bench: Bench) -> object:
    context = bench.filled()
    for delta in (5, -5, 1000, INT_MAX - 1100):
        context.shift(0, 0, -1, delta)
        context.decode(bench.make_batch((0, [1], context.position_max(0) + 1)))
    return context.shift(0, 0, -1, 100)


def states(bench: Bench) -> Iterator[Case]:
    good = bench.filled().save(0)
    for size in (0, 1, 8, 31, 32, 33, len(good) - 1, len(good) + 1):
        cut = (good + b"x")[:size]
        yield Case(f"state of {size} bytes", lambda s=cut: bench.filled().restore(1, s), (ValueError,))
    yield Case("state of text", lambda: bench.filled().restore(1, "x" * 100), (ValueError,))  # type: ignore[arg-type]
    yield Case(
        "state of noise", lambda: bench.filled().restore(1, random.Random(0).randbytes(len(good))), (ValueError,)
    )
    yield Case("500 mutated states", lambda: mutations(bench, good), may_pass=True)
    others: dict[str, Callable[[], _core.Context]] = {
        "another model": lambda: bench.make_context(bench.script),
        "an encoder": lambda: bench.make_context(bench.embed, embeddings=True),
        "8-bit cells": lambda: bench.filled(key_type="q8_0", value_type="q8_0"),
        "32-bit cells": lambda: bench.filled(key_type="f32", value_type="f32"),
        "32-bit keys": lambda: bench.filled(key_type="f32"),
        "streams": lambda: bench.filled(unified=False),
        "another attention": lambda: bench.filled(flash_attention="off"),
    }
    for name, other in others.items():
        yield Case(f"state of {name}", lambda o=other: bench.filled().restore(1, o().save(0)), (ValueError,))


def mutations(bench: Bench, good: bytes) -> None:
    context, chance = bench.filled(), random.Random(0)
    for _ in range(500):
        state = bytearray(good)
        for _ in range(chance.choice((1, 2, 8))):
            state[chance.randrange(len(state))] ^= 1 << chance.randrange(8)
        cut = state[: chance.randrange(len(state))] if chance.random() < 0.3 else state
        try:
            assert not context.restore(1, bytes(cut)), "a damaged state was taken"
        except ValueError:
            pass
    assert (context.position_max(0), context.position_max(1), context.position_max(2)) == (2, -1, 1)


def context_options(bench: Bench) -> Iterator[Case]:
    wrong: list[dict[str, Any]] = [
        {"max_sequences": 0},
        {"max_sequences": 257},
        {"max_sequences": 129},
        {"max_sequences": 2**32 - 1},
        {"max_sequences": 64, "context_size": 32},
        {"context_size": 2**31},
        {"context_size": 2**32 - 1},
        {"context_size": (1 << 24) + 1},
        {"max_batch": 0},
        {"max_batch": 2**32 - 1},
        {"num_threads": 0},
        {"num_threads": -1},
        {"num_threads": 100_000},
        {"thread_polling": 101},
        {"key_type": "f8"},
        {"key_type": ""},
        {"value_type": "q8_0\0"},
        {"pooling": "median"},
        {"flash_attention": "maybe"},
        {"value_type": "q4_0", "flash_attention": "off"},
    ]
    for fields in wrong:
        yield Case(f"context {fields}", lambda f=fields: bench.context(**f))
    odd: list[dict[str, Any]] = [
        {"max_outputs": 2**32 - 1},
        {"max_outputs": 1_000_000},
        {"context_size": 1, "max_batch": 1, "max_sequences": 1},
        {"max_batch": 65536},
        {"num_threads": 64},
        {"max_sequences": 256, "max_batch": 256, "unified": False},
        {"embeddings": True, "pooling": "rank"},
        {"embeddings": True, "pooling": "cls", "max_sequences": 3},
        {"embeddings": True, "pooling": "mean", "max_sequences": 3},
        {"embeddings": True, "pooling": "last", "max_sequences": 7, "unified": False},
        *({"key_type": t, "value_type": t} for t in ("f32", "bf16", "q5_1", "q5_0", "q4_1", "q4_0")),
    ]
    for fields in odd:
        yield Case(f"odd context {fields}", lambda f=fields: odd_context(bench, f), may_pass=True)
    too_big = (("num_threads", 2**31), ("context_size", -1), ("context_size", 2**32), ("max_batch", 1.5))
    for name, value in (*too_big, ("unified", "yes"), ("key_type", 5), ("embeddings", [])):
        yield Case(f"{name} = {value!r}", lambda n=name, v=value: bench.context(**{n: v}), (TypeError,))


def odd_context(bench: Bench, fields: dict[str, Any]) -> None:
    for model in (bench.random, bench.embed):
        if model is bench.embed and not fields.get("embeddings"):
            continue
        bench.make_context(model, **{"max_sequences": 1, **fields}).decode(bench.make_batch((0, [5], 0)))


def sampler_options(bench: Bench) -> Iterator[Case]:
    floats = [name for name, kind in vars(_core.SamplerOptions).items() if is_float(kind)]
    assert len(floats) == 18, floats
    for name, value in itertools.product(floats, (math.nan, math.inf, -math.inf)):
        yield Case(f"{name} = {value}", lambda n=name, v=value: bench.sample(**{n: v}), (ValueError,))
    for name, value in (
        *((name, bad) for name in ("top_p", "min_p", "typical_p") for bad in (-0.1, 1.1)),
        *((name, bad) for name in ("xtc_probability", "xtc_threshold") for bad in (-0.1, 1.1)),
        *(("repeat_penalty", bad) for bad in (0.0, -1.0, 1e-45)),
        *(("adaptive_decay", bad) for bad in (-0.1, 1.0)),
        *((name, bad) for name in ("top_k", "min_keep", "dry_allowed_length") for bad in (-1, INT_MIN)),
        *((name, bad) for name in ("repeat_last_n", "dry_penalty_last_n") for bad in (-2, INT_MIN)),
        *(("num_logprobs", bad) for bad in (-2, 10**9)),
        *(("mirostat", bad) for bad in (-1, 3)),
        ("order", ["top_k", "top_k"]),
        ("order", ["nothing"]),
        ("order", ["temperature"] * 1000),
        ("dry_sequence_breakers", ["x"] * 65),
        ("logit_bias", [(1, math.inf)]),
        ("logit_bias", [(1, math.nan)]),
    ):
        yield Case(f"{name} = {str(value)[:40]}", lambda n=name, v=value: bench.sample(**{n: v}), (ValueError,))
    for name, value in (("seed", -1), ("seed", 2**32), ("top_k", 2**31), ("top_k", 1.5), ("temperature", "hot")):
        yield Case(f"{name} = {value!r}", lambda n=name, v=value: bench.sample(**{n: v}), (TypeError,))
    for name, value in (("logit_bias", [1]), ("order", "top_k"), ("dry_sequence_breakers", [1]), ("grammar", 5)):
        yield Case(f"{name} = {value!r}", lambda n=name, v=value: bench.sample(**{n: v}), (TypeError,))
    yield from extreme_samplers(bench, floats)


def is_float(member: object) -> bool:
    return isinstance(member, property) and "-> float" in (member.fget.__doc__ or "")


def extreme_samplers(bench: Bench, floats: list[str]) -> Iterator[Case]:
    switched_on: dict[str, list[dict[str, Any]]] = {
        "mirostat_tau": [{"mirostat": 1}, {"mirostat": 2}],
        "mirostat_eta": [{"mirostat": 1}, {"mirostat": 2}],
        "temperature": [{}, {"mirostat": 1}, {"mirostat": 2}, {"adaptive_target": 0.5}, {"dynatemp_range": 0.5}],
        "dynatemp_exponent": [{"dynatemp_range": 0.5}],
        "dry_base": [{"dry_multiplier": 1.0}],
        "adaptive_decay": [{"adaptive_target": 0.5}],
        "xtc_threshold": [{"xtc_probability": 1.0}],
    }
    for name in floats:
        for value in (3e38, -3e38, 1e-38, -1e-38, 1e-45, 0.0, 1.0):
            for more in switched_on.get(name, [{}]):
                text = f"extreme {name} = {value} {more or ''}"
                yield Case(text, lambda n=name, v=value, m=more: bench.sample(**{**m, n: v}), may_pass=True)
    for fields in (
        {"top_k": INT_MAX},
        {"min_keep": INT_MAX, "top_p": 0.1},
        {"repeat_last_n": INT_MAX, "repeat_penalty": 1.5},
        {"dry_penalty_last_n": INT_MAX, "dry_multiplier": 1.0},
        {"dry_allowed_length": INT_MAX, "dry_multiplier": 1.0},
        {"dry_multiplier": 1.0, "dry_sequence_breakers": ["", "x" * 100_000, "\0", "é🌞\ufffd"]},
        {"logit_bias": [(3, 3e38), (3, 3e38)], "presence_penalty": 3e38},
        {"logit_bias": [(t, -math.inf) for t in range(NUM_TOKENS - 1)]},
        {"logit_bias": [(t % NUM_TOKENS, 0.1) for t in range(100_000)]},
        {"order": ["infill"]},
        {"order": []},
        {"order": ["adaptive_p", "infill", "xtc", "typ_p"], "xtc_probability": 1.0, "typical_p": 0.5},
    ):
        yield Case(f"extreme {str(fields)[:60]}", lambda f=fields: bench.sample(**f), may_pass=True)


def logits(bench: Bench) -> Iterator[Case]:
    zeros = np.zeros(NUM_TOKENS, np.float32)
    for name, row in {
        "too short": zeros[:-1],
        "too long": np.zeros(NUM_TOKENS + 1),
        "two dimensions": zeros[None],
        "a number": np.float32(1),
        "nothing": [],
        "not numbers": zeros + np.nan,
        "one not a number": np.where(np.arange(NUM_TOKENS) == 5, np.nan, 0),
        "words": ["x"] * NUM_TOKENS,
        "none": None,
    }.items():
        yield Case(f"logits that are {name}", lambda r=row: bench.sample(r), (*REFUSED, TypeError))
    for value in (-np.inf, np.inf, 3e38, -3e38):
        for fields in ({}, {"temperature": 0.0}, {"mirostat": 1}, {"mirostat": 2}, {"adaptive_target": 0.5}):
            call = Case(f"logits all {value} {fields}", lambda v=value, f=fields: bench.sample(zeros + v, **f))
            yield call._replace(may_pass=True)
    yield Case("logits of another layout", lambda: bench.sample(np.zeros((NUM_TOKENS, 2))[:, 0]), may_pass=True)


def nested_rules(count: int, body: str) -> str:
    rules = "\n".join(f"r{i} ::= " + body.replace("@", f"r{i + 1}") for i in range(count))
    return f'root ::= r0\n{rules}\nr{count} ::= "a"'


def grammars(bench: Bench) -> Iterator[Case]:
    bad = (_core.GrammarError,)
    for name, text in {
        "syntax": "root ::= (",
        "no root": 'toor ::= "a"',
        "undefined rule": "root ::= absent",
        "left recursion": 'root ::= root "a" | "b"',
        "hidden left recursion": 'root ::= a root "x" | "z"\na ::= b\nb ::= "" | "y"',
        "deeply hidden left recursion": 'root ::= (a b)* root "x" | "z"\na ::= b?\nb ::= c{0,3}\nc ::= "y"',
        "backward repetition": 'root ::= "a"{5,2}',
        "backward repetition with comments": 'root ::= ("a"{ # five\n 5 , # two\n 2 })',
        "3000 repetitions": 'root ::= "a"{3000}',
        "endless number": 'root ::= "a"{99999999999999999999}',
        "100k parentheses": "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
        "200k rules": nested_rules(200_000, "@"),
        "2 MB of text": 'root ::= "' + "a" * 2_000_000 + '"',
        "doubling alternatives": nested_rules(40, "@ | @"),
        "doubling options": nested_rules(40, "@? @?"),
        "100k alternatives": "root ::= " + " | ".join(f'"a{i}"' for i in range(60_000)),
        "zero byte": 'root ::= "a"\0',
        "only a zero byte": "\0",
        "token that is not there": "root ::= <nobody>",
        "half a literal": 'root ::= "abc',
        "half an escape": 'root ::= "\\x',
        "half a class": "root ::= [abc",
    }.items():
        yield Case(f"grammar: {name}", lambda t=text: bench.sample(grammar=t), bad)
    for name, text in {
        "8000 rules": nested_rules(8000, "@"),
        "8000 optional rules": nested_rules(8000, "@?"),
        "repetition of repetition": 'root ::= (("a"{1000}){1000}){1000}',
        "options of options": 'root ::= (("a"?){0,40}){0,40}',
        "1 MB of text": 'root ::= "' + "a" * 1_000_000 + '"',
        "no character": "root ::= [z-a]",
        "beyond Unicode": 'root ::= "\\UFFFFFFFF"',
        "surrogate": 'root ::= "\\uD800"',
        "token beyond the vocabulary": "root ::= <[99999999]>",
        "nothing": 'root ::= ""',
        "not that token": "root ::= !<[3]>",
    }.items():
        yield Case(f"grammar: {name}", lambda t=text: bench.sample(grammar=t), may_pass=True)
    a = bench.random.tokenize("a")[0]
    forbidden = {"grammar": 'root ::= "a"', "logit_bias": [(a, -math.inf)]}
    for fields in ({}, {"temperature": 0.0}, {"top_k": 0}, {"mirostat": 2}, {"adaptive_target": 0.5}):
        yield Case(f"grammar against biases {fields}", lambda f=fields: bench.sample(**forbidden, **f), bad)
    yield Case("grammar after its end", lambda: bench.sample(grammar='root ::= "a"', ignore_eos=True), may_pass=True)


def triggers(bench: Bench) -> Iterator[Case]:
    def lazy(kind: _core.TriggerKind, *texts: str) -> Callable[[], object]:
        starts = [_core.GrammarTrigger(kind, text) for text in texts]
        return lambda: bench.sample(grammar='root ::= "a"', grammar_lazy=True, grammar_triggers=starts)

    word, pattern = _core.TriggerKind.WORD, _core.TriggerKind.PATTERN
    yield Case("no triggers", lazy(word), (ValueError,))
    yield Case("empty trigger", lazy(word, ""), (ValueError,))
    yield Case("long word", lazy(word, "x" * 1_000_000))
    yield Case("long pattern", lazy(pattern, "(" * 100_000 + ")" * 100_000))
    yield Case("10k triggers", lazy(word, *("word" + str(i) for i in range(10_000))))
    yield Case("pattern's syntax", lazy(pattern, "((("), (_core.GrammarError,))
    yield Case("pattern's size", lazy(pattern, "a{1000}{1000}{1000}"), (_core.GrammarError,))
    yield Case("deep pattern", lazy(pattern, "(" * 2000 + "a" + ")" * 2000), may_pass=True)
    yield Case("word of signs", lazy(word, ".^$|()*+?[]{}\\/-"), may_pass=True)
    yield Case("trigger kind", lambda: _core.TriggerKind(7), may_pass=True)


def schemas(bench: Bench) -> Iterator[Case]:
    def doubled(depth: int) -> dict[str, Any]:
        levels = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(depth)}
        return {"$ref": "#/$defs/d0", "$defs": {**levels, f"d{depth}": {"type": "null"}}}

    loop = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    for name, schema in {
        "backward items": {"type": "array", "items": {}, "minItems": 5, "maxItems": 2},
        "3000 properties": {"type": "object", "properties": {f"p{i}": {} for i in range(3000)}},
        "loop of references": loop,
        "reference to itself": {"$ref": "#"},
        "reference into nothing": {"$ref": "#/$defs/a/b/c"},
        "doubling references": doubled(40),
        "pattern's syntax": {"type": "string", "pattern": "^((($"},
        "pattern backwards": {"type": "string", "pattern": "^a{5,2}$"},
        "endless enumeration": {"enum": list(range(60_000))},
    }.items():
        yield Case(f"schema: {name}", lambda s=schema: use_schema(bench, json.dumps(s)))
    for name, text in {
        "no JSON": "{",
        "100k arrays": "[" * 100_000 + "]" * 100_000,
        "20k schemas": '{"items":' * 20_000 + "{}" + "}" * 20_000,
        "20k alternatives": '{"anyOf":[' * 20_000 + "{}" + "]}" * 20_000,
        "half a character": '"\\ud800"',
    }.items():
        yield Case(f"schema: {name}", lambda t=text: use_schema(bench, t))
    for name, schema in {
        "deep pattern": {"type": "string", "pattern": "^" + "(" * 50_000 + ")" * 50_000 + "$"},
        "large pattern": {"type": "string", "pattern": "^(a{1000}){1000}$"},
        "huge numbers": {"type": "integer", "minimum": -(10**18), "maximum": 10**18},
        "huger numbers": {"type": "integer", "minimum": -(10**30), "maximum": 10**30},
        "endless text": {"type": "string", "maxLength": 10**9},
        "256 properties": {"type": "object", "properties": {f"p{i}": {} for i in range(256)}},
        "strange keys": {"type": "object", "properties": {'\0\n"\\é🌞 ::= |': {"type": "null"}}},
        "wrong required": {"type": "object", "properties": {"a": {}}, "required": 5},
    }.items():
        yield Case(f"schema: {name}", lambda s=schema: use_schema(bench, json.dumps(s)), may_pass=True)


def use_schema(bench: Bench, text: str) -> object:
    return bench.sample(grammar=_core.grammar_from_schema(text))


def chats(bench: Bench) -> Iterator[Case]:
    deep = "[" * 100_000
    for name, value in {"no list": "5", "no JSON": "{", "no role": "[{}]", "deep": deep, "nothing": ""}.items():
        yield Case(f"messages: {name}", lambda v=value: bench.render(messages=v), (ValueError,))
    yield Case("messages: content 5", lambda: bench.render(messages='[{"role":"user","content":5}]'), (ValueError,))
    yield Case("messages: none", lambda: bench.render(messages="[]"), may_pass=True)
    for name, value in {"no list": "5", "no function": "[{}]", "deep": deep}.items():
        yield Case(f"tools: {name}", lambda v=value: bench.render(tools=v), (ValueError,))
    for name, function in {
        "no name": {},
        "parameters 5": {"name": "a", "parameters": 5},
        "reference into nothing": {"name": "a", "parameters": {"properties": {"x": {"$ref": "#/q"}}}},
        "long name": {"name": "x" * 100_000, "parameters": {"type": "object"}},
        "name of signs": {"name": '" \n{5,2}<tool_call>\0', "parameters": {"type": "object"}},
        "3000 parameters": {
            "name": "a",
            "parameters": {"type": "object", "properties": {str(i): {} for i in range(3000)}},
        },
    }.items():
        for choice in ("auto", "required"):
            tools = json.dumps([{"type": "function", "function": function}])
            call = Case(f"tool: {name}, {choice}", lambda t=tools, c=choice: bench.render(tools=t, tool_choice=c))
            yield call._replace(may_pass=True)
    yield Case("keywords: deep", lambda: bench.render(template_kwargs={"a": deep}), (ValueError,))
    yield Case("keywords: no JSON", lambda: bench.render(template_kwargs={"a": "{"}), (ValueError,))
    yield Case("keywords: messages", lambda: bench.render(template_kwargs={"messages": "5"}), REFUSED)
    yield Case("choice", lambda: bench.render(tool_choice="maybe"), (ValueError,))
    refused = (_core.TemplateError,)
    for name, source in {
        "syntax": "{{ ",
        "refusal": "{{ raise_exception('no') }}",
        "100k parentheses": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
        "100k additions": "{{ 1" + "+1" * 100_000 + " }}",
        "100k negations": "{{ " + "not " * 100_000 + "1 }}",
        "100k filters": "{{ a" + "|upper" * 100_000 + " }}",
        "50k blocks": "{% if a %}" * 50_000 + "{% endif %}" * 50_000,
        "50k branches": "{% if a %}" + "{% elif a %}" * 50_000 + "{% endif %}",
        "call of nothing": "{{ nobody() }}",
        "endless indent": '{{ "a\nb" | indent(100000000000) }}',
    }.items():
        yield Case(f"template: {name}", lambda s=source: use_template(s), refused)
    for name, source in {
        "division by zero": "{{ 1 / 0 }}{{ 1 % 0 }}",
        "far index": "{{ messages[99].x.y }}{{ messages[-99] }}",
        "large numbers": "{{ 9223372036854775807 + 1 }}{{ (-9223372036854775807 - 1) % -1 }}",
        "unlike things sorted": '{{ [1, "a", none] | sort }}',
        "long name": "{{ " + "a" * 500_000 + " }}",
        "long text": "{{ '" + "(" * 500_000 + "' }}",
    }.items():
        yield Case(f"template: {name}", lambda s=source: use_template(s), may_pass=True)


def use_template(source: str) -> str:
    request = _core.ChatRequest()
    request.messages = '[{"role":"user","content":"x"}]'
    return _core.ChatTemplate(source).render(request).text


def closed(bench: Bench) -> Iterator[Case]:
    gone = (_core.Error,)

    def closed_model() -> _core.Model:
        model = bench.load("tiny-random", vocab_only=True)
        model.close()
        return model

    def closed_context() -> _core.Context:
        context = bench.filled()
        context.close()
        return context

    model_uses: dict[str, Callable[[_core.Model], object]] = {
        "tokenize": lambda m: m.tokenize("x"),
        "piece": lambda m: m.piece(1),
        "metadata": lambda m: m.metadata,
        "context": lambda m: bench.make_context(m),
        "sampler": lambda m: bench.make_sampler(m),
        "detokenizer": _core.Detokenizer,
    }
    context_uses: dict[str, Callable[[_core.Context], object]] = {
        "decode": lambda c: c.decode(bench.make_batch((0, [1], 3))),
        "step": lambda c: _core.step(c, bench.make_batch((0, [1], 3)), [], _core.ThreadPool(1)),
        "logits": lambda c: c.logits(2),
        "remove": lambda c: c.remove(0),
        "save": lambda c: c.save(0),
        "abort": lambda c: c.abort(),
        "counters": lambda c: c.counters,
        "size": lambda c: c.context_size,
    }
    for name, use in model_uses.items():
        yield Case(f"closed model: {name}", lambda u=use: u(closed_model()), gone)
    for name, use_context in context_uses.items():
        yield Case(f"closed context: {name}", lambda u=use_context: u(closed_context()), gone)
    yield Case("context of a closed model", lambda: orphan(bench), may_pass=True)


def orphan(bench: Bench) -> object:
    model = bench.load("tiny-random")
    context, sampler = bench.make_context(model), bench.make_sampler(model)
    model.close()
    del model
    context.decode(bench.make_batch((0, [1, 2], 0)))
    return sampler.sample(context.logits(1))


def wrong_types(bench: Bench) -> Iterator[Case]:
    context: Any = bench.filled()
    model: Any = bench.random
    core: Any = _core
    for name, call in {
        "model of nothing": lambda: core.Model(None),
        "model of numbers": lambda: core.Model([1]),
        "context of nothing": lambda: core.Context(None, core.ContextOptions()),
        "context of a context": lambda: core.Context(context, core.ContextOptions()),
        "sampler of text": lambda: core.Sampler("x", core.SamplerOptions()),
        "decode nothing": lambda: context.decode(None),
        "decode tokens": lambda: context.decode([1, 2]),
        "batch of text": lambda: core.Batch().add(0, "abc", 0),
        "batch of fractions": lambda: core.Batch().add(0, [1.5], 0),
        "batch of long numbers": lambda: core.Batch().add(0, [2**40], 0),
        "sequence of text": lambda: context.remove("0"),
        "long sequence": lambda: context.remove(2**40),
        "fraction of a token": lambda: model.piece(1.5),
        "tokenize nothing": lambda: model.tokenize(None),
        "tokenize a number": lambda: model.tokenize(5),
        "step of nothing": lambda: core.step(None, None, None, None),
        "step with rows of nothing": lambda: core.step(context, core.Batch(), [None], core.ThreadPool(1)),
        "stop of numbers": lambda: core.Detokenizer(model, stop=[1]),
        "stop by place": lambda: core.Detokenizer(model, ["x"]),
        "bytes of text": lambda: core.valid_utf8("x"),
        "status of text": lambda: core.DecodeStatus("DONE"),
        "result made by hand": lambda: core.StepResult(),
        "prompt made by hand": lambda: core.ChatPrompt(),
        "unknown option": lambda: bench.with_fields(core.ContextOptions(), {"nothing": 1}),
    }.items():
        yield Case(f"types: {name}", call, (TypeError, AttributeError))
    yield Case("types: half a character", lambda: model.tokenize("\ud800"), (TypeError, UnicodeError))
    yield Case("types: object without __init__", lambda: core.Context.__new__(core.Context).decode(None), (TypeError,))


def all_cases(bench: Bench) -> Iterator[Case]:
    for group in (
        *(tokens_and_sequences, batches, outputs, memory, states, context_options, sampler_options, logits),
        *(grammars, triggers, schemas, chats, closed, wrong_types),
    ):
        yield from group(bench)


def verdict(case: Case) -> str:
    """Empty = as it should be."""
    try:
        value = case.call()
    except case.must_raise as error:
        return "" if str(error) else "the error says nothing"
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"[:300].replace("\n", " ")
    return "" if case.may_pass else f"gave {value!r}"[:300].replace("\n", " ")


def main(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    for case in all_cases(Bench(folder)):
        print(f"> {case.name}", flush=True)
        said = verdict(case)
        print(f"! {case.name}: {said}" if said else f"= {case.name}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
