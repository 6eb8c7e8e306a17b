"""Flags about pictures and about guesses of the next tokens."""

from __future__ import annotations

from dmr.config import CELL_TYPES
from dmr.runtime_flags.flag import Flag, refused, sets, told
from dmr.runtime_flags.kinds import Choice, Number, Switch, Whole, Words

_PLACE = "the draft model computes on the cores of the server, with its priority"
_TOGETHER = "the draft model lies on the devices of the model"
_MEASURED = "how many guesses are worth their time is measured while answers are computed"
_ONE_NGRAM = "there is one way to guess from what was said before, and it has nothing to set"

MULTIMODAL: tuple[Flag, ...] = (
    sets("--mmproj-auto", "projector.is_used", Switch(True), "where the model has one"),
    sets("--no-mmproj --no-mmproj-auto", "projector.is_used", Switch(False), "the model sees and hears nothing"),
    sets("--mmproj-offload", "projector.use_gpu", Switch(True)),
    sets("--no-mmproj-offload", "projector.use_gpu", Switch(False)),
    sets("--image-min-tokens", "projector.min_tokens", Whole(1, 1 << 16), "of one picture"),
    sets("--image-max-tokens", "projector.max_tokens", Whole(1, 1 << 16), "of one picture"),
    refused("--spm-infill", "text to fill in is given as prefix, suffix, middle", takes_value=False),
)

SPECULATION: tuple[Flag, ...] = (
    sets("-td --threads-draft --spec-draft-threads", "draft.num_threads", Whole(-1, 512, none=frozenset({-1, 0}))),
    refused("-tbd --threads-batch-draft --spec-draft-threads-batch", _PLACE),
    refused("-Cd --cpu-mask-draft --spec-draft-cpu-mask", _PLACE),
    refused("-Crd --cpu-range-draft --spec-draft-cpu-range", _PLACE),
    refused("--cpu-strict-draft --spec-draft-cpu-strict", _PLACE),
    refused("--prio-draft --spec-draft-prio", _PLACE),
    refused("--poll-draft --spec-draft-poll", _PLACE),
    refused("-Cbd --cpu-mask-batch-draft --spec-draft-cpu-mask-batch", _PLACE),
    refused("--cpu-strict-batch-draft --spec-draft-cpu-strict-batch", _PLACE),
    refused("--prio-batch-draft --spec-draft-prio-batch", _PLACE),
    refused("--poll-batch-draft --spec-draft-poll-batch", _PLACE),
    refused("-otd --override-tensor-draft --spec-draft-override-tensor", _TOGETHER),
    refused("-cmoed --cpu-moe-draft --spec-draft-cpu-moe", _TOGETHER, takes_value=False),
    refused("-ncmoed --n-cpu-moe-draft --spec-draft-ncmoe --spec-draft-n-cpu-moe", _TOGETHER),
    sets("--draft-max --draft-n-max --spec-draft-n-max", "model.max_draft_tokens", Whole(1, 64)),
    refused("--draft-min --draft-n-min --spec-draft-n-min", _MEASURED),
    refused("--draft-p-split --spec-draft-p-split", _MEASURED),
    sets("--draft-p-min --spec-draft-p-min", "model.least_draft_probability", Number(0.0, 1.0)),
    refused("--spec-draft-backend-sampling", "guesses are chosen on the CPU", takes_value=False),
    told("--no-spec-draft-backend-sampling", "guesses are chosen on the CPU"),
    refused("-devd --device-draft --spec-draft-device", _TOGETHER),
    sets(
        "-ngld --gpu-layers-draft --n-gpu-layers-draft --spec-draft-ngl",
        "draft.num_gpu_layers",
        Whole(-1, 1 << 16, words={"auto": -1, "all": -1}),
    ),
    sets(
        "--spec-type",
        "engine.speculation",
        Words(",", ("none", "draft-simple", "ngram-simple")),
        "draft-simple needs a draft model; both: as far as they can be had",
    ),
    refused("--spec-ngram-mod-n-min", _ONE_NGRAM),
    refused("--spec-ngram-mod-n-max", _ONE_NGRAM),
    refused("--spec-ngram-mod-n-match", _ONE_NGRAM),
    refused("--spec-ngram-simple-size-n", _ONE_NGRAM),
    refused("--spec-ngram-simple-size-m", _ONE_NGRAM),
    refused("--spec-ngram-simple-min-hits", _ONE_NGRAM),
    refused("--spec-ngram-map-k-size-n", _ONE_NGRAM),
    refused("--spec-ngram-map-k-size-m", _ONE_NGRAM),
    refused("--spec-ngram-map-k-min-hits", _ONE_NGRAM),
    refused("--spec-ngram-map-k4v-size-n", _ONE_NGRAM),
    refused("--spec-ngram-map-k4v-size-m", _ONE_NGRAM),
    refused("--spec-ngram-map-k4v-min-hits", _ONE_NGRAM),
    sets("-ctkd --cache-type-k-draft --spec-draft-type-k", "draft.key_type", Choice(CELL_TYPES)),
    sets("-ctvd --cache-type-v-draft --spec-draft-type-v", "draft.value_type", Choice(CELL_TYPES)),
    refused("-cd --ctx-size-draft", "the draft model's context holds what the model's does"),
)
