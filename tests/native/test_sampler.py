"""The sampler chooses what its parameters say: each stage against numpy, draw for draw."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from native import numpy_sampler as reference
from native.numpy_sampler import Candidates, Floats, Stage
from native.objects import make_sampler

from dmr import _core

# Everything off: the model's own distribution.
PLAIN: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
NUM_TOKENS = 437
SEEDS = range(60)
HISTORY = [5, 9, 5, 5, 40, 41, 42, 43, 7, 40, 41, 42]


def row(seed: int = 0, scale: float = 2.5) -> Floats:
    noise = np.random.RandomState(1000 + seed).standard_normal(NUM_TOKENS)
    return np.asarray(noise * scale, np.float32)


def sampled(model: _core.Model, logits: Floats, seen: list[int] | None = None, **fields: Any) -> int:
    sampler = make_sampler(model, **fields)
    sampler.observe(seen or [])
    return sampler.sample(logits).token


def require_same(model: _core.Model, fields: dict[str, Any], *stages: Stage, seen: list[int] | None = None) -> None:
    """Same choices for all seeds, and the stages make a difference to at least one of them."""
    pairs = [(sampled(model, row(seed), seen, **PLAIN | fields | {"seed": seed}), seed) for seed in SEEDS]
    assert [token for token, _ in pairs] == [reference.choose(row(seed), seed, *stages) for seed in SEEDS]
    assert [token for token, _ in pairs] != [reference.choose(row(seed), seed) for seed in SEEDS]


# --- the whole -------------------------------------------------------------------------------------------------------


def test_no_parameters_draw_from_the_models_distribution(random_model: _core.Model) -> None:
    drawn = [sampled(random_model, row(seed), **PLAIN, seed=seed) for seed in SEEDS]
    assert drawn == [reference.choose(row(seed), seed) for seed in SEEDS]


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_temperature_nothing_takes_the_likeliest(random_model: _core.Model, value: float) -> None:
    for seed in SEEDS:
        logits = row(seed)
        likeliest = int(np.argmax(logits))
        assert sampled(random_model, logits, temperature=value, seed=seed) == likeliest
        biased: dict[str, Any] = {"logit_bias": [(likeliest, -100.0)]}
        assert sampled(random_model, logits, temperature=value, **biased) == int(np.argsort(logits)[-2])


def test_likeliest_of_equals_is_the_first(random_model: _core.Model) -> None:
    logits = np.zeros(NUM_TOKENS, np.float32)
    logits[[300, 17]] = 4
    assert sampled(random_model, logits, temperature=0.0) == 17


def test_seed_decides(random_model: _core.Model) -> None:
    def run(seed: int) -> list[int]:
        sampler = make_sampler(random_model, **PLAIN, seed=seed)
        return [sampler.sample(row(i)).token for i in range(30)]

    assert run(7) == run(7)
    assert run(7) != run(8)
    assert run(2**32 - 1) == run(2**32 - 1)


def test_defaults_are_llama_cpps(random_model: _core.Model) -> None:
    stages = (reference.top_k(40), reference.top_p(0.95), reference.min_p(0.05), reference.temperature(0.8))
    drawn = [sampled(random_model, row(seed), seed=seed) for seed in SEEDS]
    assert drawn == [reference.choose(row(seed), seed, *stages) for seed in SEEDS]


def test_top_k_on_the_raw_row_is_top_k_in_the_chain(random_model: _core.Model) -> None:
    fields: dict[str, Any] = {"top_k": 12, "temperature": 1.3}
    for seed in SEEDS:
        in_chain = sampled(random_model, row(seed), **fields, seed=seed, logit_bias=[(3, 0.0)])
        assert sampled(random_model, row(seed), **fields, seed=seed) == in_chain


def test_order_of_the_stages_matters(random_model: _core.Model) -> None:
    fields = PLAIN | {"top_p": 0.6, "temperature": 2.5}
    early, late = reference.temperature(2.5), reference.top_p(0.6)
    for order, stages in ((["temperature", "top_p"], (early, late)), (["top_p", "temperature"], (late, early))):
        require_same(random_model, fields | {"order": order}, *stages)


def test_stage_that_is_not_in_the_order_does_nothing(random_model: _core.Model) -> None:
    drawn = [sampled(random_model, row(seed), order=[], seed=seed) for seed in SEEDS]
    assert drawn == [reference.choose(row(seed), seed) for seed in SEEDS]


# --- stage by stage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 20, 400])
def test_top_k(random_model: _core.Model, k: int) -> None:
    require_same(random_model, {"top_k": k}, reference.top_k(k))


@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
def test_top_p(random_model: _core.Model, p: float) -> None:
    require_same(random_model, {"top_p": p}, reference.top_p(p))


def test_top_p_keeps_at_least(random_model: _core.Model) -> None:
    require_same(random_model, {"top_p": 0.01, "min_keep": 9}, reference.top_p(0.01, 9))


@pytest.mark.parametrize("p", [0.01, 0.1, 0.9])
def test_min_p(random_model: _core.Model, p: float) -> None:
    require_same(random_model, {"min_p": p}, reference.min_p(p))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_typical(random_model: _core.Model, p: float) -> None:
    require_same(random_model, {"typical_p": p}, reference.typical(p))


@pytest.mark.parametrize("n", [0.3, 1.0, 2.0])
def test_top_n_sigma(random_model: _core.Model, n: float) -> None:
    require_same(random_model, {"top_n_sigma": n}, reference.top_n_sigma(n))


@pytest.mark.parametrize("threshold", [0.01, 0.05])
def test_exclude_top_choices(random_model: _core.Model, threshold: float) -> None:
    fields = {"xtc_probability": 1.0, "xtc_threshold": threshold}
    require_same(random_model, fields, reference.exclude_top_choices(threshold))


def test_exclude_top_choices_sometimes(random_model: _core.Model) -> None:
    """A probability of 0.3 is a mixture of always and never."""
    logits, likeliest = row(), int(np.argmax(row()))
    fields = PLAIN | {"xtc_threshold": 0.02, "top_k": 3}
    assert np.sort(Candidates(np.arange(NUM_TOKENS), logits).probabilities)[-2] > 0.02

    def share(probability: float) -> float:
        tokens = [sampled(random_model, logits, **fields, xtc_probability=probability, seed=s) for s in range(400)]
        return tokens.count(likeliest) / len(tokens)

    never, always, sometimes = share(0.0), share(1.0), share(0.3)
    assert always == 0.0
    assert 0.0 < sometimes < never


@pytest.mark.parametrize("value", [0.2, 0.8, 3.0])
def test_temperature(random_model: _core.Model, value: float) -> None:
    require_same(random_model, {"temperature": value}, reference.temperature(value))


@pytest.mark.parametrize(("spread", "exponent"), [(0.5, 1.0), (0.9, 2.5), (3.0, 0.5)])
def test_dynamic_temperature(random_model: _core.Model, spread: float, exponent: float) -> None:
    fields = {"temperature": 1.0, "dynatemp_range": spread, "dynatemp_exponent": exponent}
    require_same(random_model, fields, reference.temperature(1.0, spread, exponent))


def test_logit_bias_pushes_and_forbids(random_model: _core.Model) -> None:
    values = {int(np.argmax(row(seed))): -math.inf for seed in range(0, 60, 2)} | {3: 6.5, 4: 5.5}
    require_same(random_model, {"logit_bias": list(values.items())}, reference.bias(values))


def test_ignored_end_is_never_chosen(script_model: _core.Model) -> None:
    logits = np.zeros(NUM_TOKENS, np.float32)
    logits[script_model.end_tokens] = 30
    for seed in SEEDS:
        assert script_model.is_end(sampled(script_model, logits, **PLAIN, seed=seed))
        assert not script_model.is_end(sampled(script_model, logits, **PLAIN, seed=seed, ignore_eos=True))
    assert not script_model.is_end(sampled(script_model, logits, temperature=0.0, ignore_eos=True))


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ({"repeat_penalty": 8.0}, {"repeat": 8.0}),
        ({"repeat_penalty": 0.1}, {"repeat": 0.1}),
        ({"frequency_penalty": 4.0}, {"frequency": 4.0}),
        ({"frequency_penalty": -3.0}, {"frequency": -3.0}),
        ({"presence_penalty": -6.0}, {"presence": -6.0}),
        ({"repeat_penalty": 0.5, "frequency_penalty": -1.0, "presence_penalty": -2.0}, {}),
    ],
)
def test_penalties(random_model: _core.Model, fields: dict[str, float], values: dict[str, float]) -> None:
    values = values or {"repeat": 0.5, "frequency": -1.0, "presence": -2.0}
    seen = [*HISTORY, *(int(np.argmax(row(seed))) for seed in range(0, 60, 3))]
    require_same(random_model, fields, reference.penalties(seen, **values), seen=seen)


@pytest.mark.parametrize("window", [0, 1, 3, 64, -1])
def test_penalties_look_back_as_far_as_told(random_model: _core.Model, window: int) -> None:
    seen = HISTORY * 7
    counted = seen[len(seen) - window :] if window >= 0 else seen
    stage = reference.penalties(counted, presence=-9.0)
    for seed in SEEDS:
        fields = PLAIN | {"presence_penalty": -9.0, "repeat_last_n": window, "seed": seed}
        assert sampled(random_model, row(seed), seen, **fields) == reference.choose(row(seed), seed, stage)


def test_penalties_count_what_was_sampled(random_model: _core.Model) -> None:
    logits = np.zeros(NUM_TOKENS, np.float32)
    logits[[10, 20, 30]] = [3, 2, 1]
    sampler = make_sampler(random_model, temperature=0.0, presence_penalty=10.0, repeat_last_n=2)
    assert [sampler.sample(logits).token for _ in range(7)] == [10, 20, 30, 10, 20, 30, 10]


@pytest.mark.parametrize(("base", "allowed"), [(1.75, 2), (3.0, 1), (1.0, 3)])
@pytest.mark.parametrize("breakers", [[], ["*"]])
def test_dry(random_model: _core.Model, base: float, allowed: int, breakers: list[str]) -> None:
    star = random_model.tokenize("*")[0]
    seen = [star if breakers and token == 41 else token for token in HISTORY]
    fields: dict[str, Any] = {"dry_multiplier": 3.0, "dry_base": base, "dry_allowed_length": allowed}
    # Every token is penalised by the reference where llama.cpp does, so the continuation is made the likeliest.
    lift = {43: 9.0, 40: 6.0, 5: 6.0}
    stages = (
        reference.bias(lift),
        reference.dry(seen, 3.0, base, allowed, frozenset([star]) if breakers else frozenset()),
    )
    fields |= {"dry_sequence_breakers": breakers, "logit_bias": list(lift.items())}
    require_same(random_model, fields, *stages, seen=seen)


def test_dry_breaks_a_loop(random_model: _core.Model) -> None:
    logits = np.zeros(NUM_TOKENS, np.float32)
    logits[43] = 5
    fields = {"temperature": 0.0, "dry_allowed_length": 3}
    assert sampled(random_model, logits, HISTORY, **fields) == 43
    assert sampled(random_model, logits, HISTORY, **fields, dry_multiplier=8.0) != 43
    assert sampled(random_model, logits, HISTORY, **fields, dry_multiplier=4.0) == 43


@pytest.mark.parametrize(("version", "kind"), [(1, reference.MirostatOne), (2, reference.Mirostat)])
@pytest.mark.parametrize(("tau", "eta"), [(5.0, 0.1), (1.5, 0.4)])
def test_mirostat(
    random_model: _core.Model, version: int, kind: type[reference.Mirostat], tau: float, eta: float
) -> None:
    sampler = make_sampler(random_model, temperature=1.0, mirostat=version, mirostat_tau=tau, mirostat_eta=eta, seed=11)
    twin = kind(11, tau, eta)
    assert [sampler.sample(row(i)).token for i in range(50)] == [twin(row(i)) for i in range(50)]


def test_adaptive_sampling_prefers_tokens_near_the_target(random_model: _core.Model) -> None:
    logits = np.full(NUM_TOKENS, -30.0, np.float32)
    logits[[10, 20]] = [np.log(0.9), np.log(0.1)]

    def share(target: float) -> float:
        fields = PLAIN | {"adaptive_target": target, "adaptive_decay": 0.0}
        tokens = [sampled(random_model, logits, **fields, seed=seed) for seed in range(200)]
        return tokens.count(10) / len(tokens)

    assert share(1.0) > 0.97
    assert share(0.1) < 0.6


def test_infill_ends_where_the_model_would(script_model: _core.Model) -> None:
    logits = np.zeros(NUM_TOKENS, np.float32)
    logits[script_model.end_tokens[0]] = 6  # half of all probability
    for seed in SEEDS:
        fields = PLAIN | {"order": ["top_k", "infill"], "top_k": 256, "seed": seed}
        assert script_model.is_end(sampled(script_model, logits, **fields))


# --- log-probabilities -----------------------------------------------------------------------------------------------


def log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    return np.asarray(wide - wide.max() - np.log(np.sum(np.exp(wide - wide.max()))))


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.0}, {"top_k": 3, "logit_bias": [(5, 50.0)]}])
def test_logprobs_are_those_of_the_raw_row(random_model: _core.Model, fields: dict[str, Any]) -> None:
    for seed in range(10):
        logits = row(seed, 8.0)
        expected = log_softmax(logits)
        result = make_sampler(random_model, num_logprobs=7, seed=seed, **fields).sample(logits)
        assert result.logprob == pytest.approx(expected[result.token], abs=1e-4)
        assert [entry.token for entry in result.top] == list(np.argsort(-logits)[:7])
        assert [entry.logprob for entry in result.top] == pytest.approx(np.sort(expected)[::-1][:7], abs=1e-4)


def test_logprobs_only_when_asked_for(random_model: _core.Model) -> None:
    silent = make_sampler(random_model).sample(row())
    assert (silent.logprob, silent.top) == (0.0, [])
    chosen_only = make_sampler(random_model, num_logprobs=0).sample(row())
    assert chosen_only.logprob < 0
    assert chosen_only.top == []
    everything = make_sampler(random_model, num_logprobs=1000).sample(row())
    assert len(everything.top) == NUM_TOKENS
    assert sum(math.exp(entry.logprob) for entry in everything.top) == pytest.approx(1.0, abs=1e-4)


def test_impossible_tokens_have_no_probability(random_model: _core.Model) -> None:
    logits = np.full(NUM_TOKENS, -np.inf, np.float32)
    logits[8] = 1.0
    result = make_sampler(random_model, num_logprobs=2).sample(logits)
    assert result.token == 8
    assert result.logprob == pytest.approx(0.0)
    assert result.top[1].logprob == -math.inf


# --- what cannot be sampled ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.0}, {"mirostat": 2}])
def test_no_numbers_no_token(random_model: _core.Model, fields: dict[str, Any]) -> None:
    logits = row()
    logits[100] = np.nan
    sampler = make_sampler(random_model, **fields)
    with pytest.raises(_core.Error, match="not a number"):
        sampler.sample(logits)
    with pytest.raises(_core.Error, match="failed before"):
        sampler.sample(row())


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.0}, {"mirostat": 1}, {"mirostat": 2}, {"top_k": 0}])
def test_biases_that_forbid_everything(random_model: _core.Model, fields: dict[str, Any]) -> None:
    forbidden = [(token, -math.inf) for token in range(NUM_TOKENS)]
    with pytest.raises(_core.Error, match="forbid"):
        sampled(random_model, row(), logit_bias=forbidden, **fields)


def test_rows_of_another_shape_are_refused(random_model: _core.Model) -> None:
    sampler = make_sampler(random_model)
    for wrong in (np.zeros(436), np.zeros(438), np.zeros((1, 437)), np.zeros(()), np.zeros(0)):
        with pytest.raises(ValueError, match="one float for each token"):
            sampler.sample(wrong)
    assert sampler.sample(row()[::-1][::-1].astype(np.float64).tolist()).token >= 0


@pytest.mark.parametrize(("order", "top_k"), [(["infill"], 40), (["top_k", "infill"], 0), (["top_k", "infill"], 1000)])
def test_infill_needs_few_candidates(script_model: _core.Model, order: list[str], top_k: int) -> None:
    """It compares each with each: over a whole vocabulary it would not end."""
    options = _core.SamplerOptions()
    options.order, options.top_k = order, top_k
    with pytest.raises(ValueError, match="infill"):
        _core.Sampler(script_model, options)
