"""Hostile tokens, batches, sequences, states and sizes."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from native.hostile_bench import INT_MAX, INT_MIN, NUM_TOKENS, Bench, Case

from dmr import _core


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


def guesses(bench: Bench) -> Iterator[Case]:
    """What a step is to verify, and what a small model is to make."""
    wrong_drafts: dict[str, list[int]] = {"token -1": [-1], "another token": [NUM_TOKENS], "too many": [1] * 200}
    for name, drafts in wrong_drafts.items():
        yield Case(f"guesses: {name}", lambda d=drafts: guess(bench.filled(), bench, 0, d), (ValueError,))
    yield Case("guesses over max_outputs", lambda: guess(bench.filled(), bench, 0, [1] * 5), (ValueError,))
    yield Case("guesses of an encoder", lambda: guess(encoder(bench), bench, 0, [1]), (ValueError,))
    yield Case("guesses at the end of integers", lambda: guess(bench.filled(), bench, INT_MAX, [1]), (ValueError,))
    wrong_rows: dict[str, tuple[Any, ...]] = {
        "of no sequence": (4, [1], 0, 2),
        "after nothing": (0, [], 3, 2),
        "after another token": (0, [NUM_TOKENS], 3, 2),
        "after too much": (0, [1] * 129, 3, 2),
        "after a gap": (0, [1], 4, 2),
        "at the end of integers": (0, [1], INT_MAX, 2),
    }
    for name, row in wrong_rows.items():
        yield Case(f"draft {name}", lambda r=row: _core.draft(bench.filled(), [r], 0.0), (ValueError,))
    for count, least in itertools.product((INT_MIN, -1, 0, INT_MAX), (float("nan"), float("inf"), -1.0, 0.0)):
        yield Case(
            f"{count} guesses, each at least {least}",
            lambda c=count, p=least: _core.draft(bench.filled(), [(0, [1], 3, c)], p),
            may_pass=True,
        )
    yield Case("draft of an encoder", lambda: _core.draft(encoder(bench), [(0, [1], 0, 2)], 0.0))
    for number in (-(2**63), -1, 2**63 - 1):
        yield Case(f"abort of decode {number}", lambda n=number: bench.filled().abort(n), may_pass=True)


def encoder(bench: Bench) -> _core.Context:
    return bench.make_context(bench.embed, embeddings=True)


def guess(context: _core.Context, bench: Bench, position: int, drafts: list[int]) -> object:
    batch = _core.Batch()
    index = batch.add(1, [1], position, drafts=drafts)
    row = (index, bench.sampler(), _core.Detokenizer(bench.random))
    return _core.step(context, batch, [row], _core.ThreadPool(1))


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
    context.shift(0, 0, -1, 100)
    return None


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
        with contextlib.suppress(ValueError):
            assert not context.restore(1, bytes(cut)), "a damaged state was taken"
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
        {"num_threads": 8},
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


GROUPS = (tokens_and_sequences, batches, guesses, outputs, memory, states, context_options)
