"""Hostile parameters of samplers, and rows of logits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from native.hostile_bench import INT_MAX, INT_MIN, NUM_TOKENS, REFUSED, Bench, Case

from dmr import _core


def is_float(member: object) -> bool:
    return isinstance(member, property) and "-> float" in (member.fget.__doc__ or "")


FLOATS = [name for name, member in vars(_core.SamplerOptions).items() if is_float(member)]


OUT_OF_RANGE: list[tuple[str, Any]] = [
    *((name, bad) for name in FLOATS for bad in (math.nan, math.inf, -math.inf)),
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
]
WRONG_TYPES: list[tuple[str, Any]] = [
    *(("seed", bad) for bad in (-1, 2**32)),
    *(("top_k", bad) for bad in (2**31, 1.5)),
    ("temperature", "hot"),
    ("logit_bias", [1]),
    ("order", "top_k"),
    ("dry_sequence_breakers", [1]),
    ("grammar", 5),
]


def sampler_options(bench: Bench) -> Iterator[Case]:
    for error, fields in ((ValueError, OUT_OF_RANGE), (TypeError, WRONG_TYPES)):
        for name, value in fields:
            text = f"{name} = {str(value)[:40]}"
            yield Case(text, lambda n=name, v=value: bench.sample(**{n: v}), (error,))


def extreme_samplers(bench: Bench) -> Iterator[Case]:
    switched_on: dict[str, list[dict[str, Any]]] = {
        "mirostat_tau": [{"mirostat": 1}, {"mirostat": 2}],
        "mirostat_eta": [{"mirostat": 1}, {"mirostat": 2}],
        "temperature": [{}, {"mirostat": 1}, {"mirostat": 2}, {"adaptive_target": 0.5}, {"dynatemp_range": 0.5}],
        "dynatemp_exponent": [{"dynatemp_range": 0.5}],
        "dry_base": [{"dry_multiplier": 1.0}],
        "adaptive_decay": [{"adaptive_target": 0.5}],
        "xtc_threshold": [{"xtc_probability": 1.0}],
    }
    for name in FLOATS:
        for value in (3e38, -3e38, 1e-38, -1e-38, 1e-45, 0.0, 1.0):
            for more in switched_on.get(name, [{}]):
                text = f"extreme {name} = {value} {more or ''}"
                yield Case(text, lambda n=name, v=value, m=more: bench.sample(**{**m, n: v}), may_pass=True)
    combinations: list[dict[str, Any]] = [
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
    ]
    for fields in combinations:
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


GROUPS = (sampler_options, extreme_samplers, logits)
