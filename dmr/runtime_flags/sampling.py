"""Flags about how tokens are chosen: defaults for requests that do not say it themselves."""

from __future__ import annotations

from dmr.runtime_flags.flag import Flag, refused, sets
from dmr.runtime_flags.kinds import Grammar, JsonObject, Number, Switch, Whole, Words

_STAGES = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
_SPELLINGS = {
    "top-k": "top_k",
    "top-p": "top_p",
    "min-p": "min_p",
    "nucleus": "top_p",
    "typical": "typ_p",
    "typical-p": "typ_p",
    "typical_p": "typ_p",
    "typ-p": "typ_p",
    "typ": "typ_p",
    "top-n-sigma": "top_n_sigma",
    "temp": "temperature",
}
_PROBABILITY = Number(0.0, 1.0)
_ANY = Number()

SAMPLING: tuple[Flag, ...] = (
    sets("--samplers", "sampling.order", Words(";", (*_STAGES, "adaptive_p", "infill"), _SPELLINGS)),
    sets("-s --seed", "sampling.seed", Whole(-1, 2**32 - 1, none=frozenset({-1, 2**32 - 1})), "-1: another each time"),
    sets("--temp --temperature", "sampling.temperature", Number(0.0, clamps=True), "0: always the likeliest token"),
    sets("--top-k", "sampling.top_k", Whole(0), "0: off"),
    sets("--top-p", "sampling.top_p", _PROBABILITY),
    sets("--min-p", "sampling.min_p", _PROBABILITY),
    sets("--top-nsigma", "sampling.top_n_sigma", _ANY, "negative: off"),
    sets("--xtc-probability", "sampling.xtc_probability", _PROBABILITY),
    sets("--xtc-threshold", "sampling.xtc_threshold", _PROBABILITY),
    sets("--typical", "sampling.typical_p", _PROBABILITY),
    sets("--repeat-last-n", "sampling.repeat_last_n", Whole(-1), "-1: the whole context"),
    sets("--repeat-penalty", "sampling.repeat_penalty", Number(1e-6)),
    sets("--presence-penalty", "sampling.presence_penalty", _ANY),
    sets("--frequency-penalty", "sampling.frequency_penalty", _ANY),
    sets("--dry-multiplier", "sampling.dry_multiplier", _ANY),
    sets("--dry-base", "sampling.dry_base", _ANY),
    sets("--dry-allowed-length", "sampling.dry_allowed_length", Whole(0)),
    sets("--dry-penalty-last-n", "sampling.dry_penalty_last_n", Whole(-1)),
    sets("--mirostat", "sampling.mirostat", Whole(0, 2)),
    sets("--mirostat-lr", "sampling.mirostat_eta", _ANY),
    sets("--mirostat-ent", "sampling.mirostat_tau", _ANY),
    sets("--ignore-eos", "sampling.ignore_eos", Switch(True)),
    sets("--dynatemp-range", "sampling.dynatemp_range", _ANY),
    sets("--dynatemp-exp", "sampling.dynatemp_exponent", _ANY),
    sets("--grammar", "request.format", Grammar(), "of answers whose request has no format and no tools"),
    sets("-j --json-schema", "request.format", JsonObject(as_text=True), "likewise; takes the place of `--grammar`"),
    refused("-bs --backend-sampling", "tokens are chosen on the CPU, in several threads", takes_value=False),
)
