"""Flags about where weights and KV cells lie, and about the rotary embedding."""

from __future__ import annotations

from dmr.config import CELL_TYPES
from dmr.runtime_flags.flag import Flag, refused, sets, told
from dmr.runtime_flags.kinds import Choice, Number, Shares, Switch, Whole, Words

_FITTED = "what fits is found out by the engine, with a margin of its own"

DEVICES: tuple[Flag, ...] = (
    sets("-dev --device", "weights.devices", Words(","), "names of devices; none: the CPU alone"),
    sets(
        "-ngl --gpu-layers --n-gpu-layers", "engine.num_gpu_layers", Whole(-1, 1 << 16, words={"auto": -1, "all": -1})
    ),
    sets("-sm --split-mode", "weights.split_mode", Choice(("none", "layer", "row", "tensor"))),
    sets("-ts --tensor-split", "weights.tensor_split", Shares()),
    sets("-mg --main-gpu", "weights.main_gpu", Whole(0, 255)),
    told("-fit --fit", "a context without a wished size is made to fit; one with a size never is", "on"),
    refused("-fitt --fit-target", _FITTED),
    refused("-fitc --fit-ctx", _FITTED),
    sets("-kvo --kv-offload", "attention.offload_cells", Switch(True)),
    sets("-nkvo --no-kv-offload", "attention.offload_cells", Switch(False)),
    sets("--repack", "weights.repack", Switch(True)),
    sets("-nr --no-repack", "weights.repack", Switch(False)),
    sets("--no-host", "weights.use_host_buffers", Switch(False)),
    sets("-ctk --cache-type-k", "attention.key_type", Choice(CELL_TYPES), "quantized ones need flash attention"),
    sets("-ctv --cache-type-v", "attention.value_type", Choice(CELL_TYPES), "quantized ones need flash attention"),
    sets("--mlock", "weights.use_mlock", Switch(True)),
    sets("--mmap", "weights.use_mmap", Switch(True)),
    sets("--no-mmap", "weights.use_mmap", Switch(False)),
    sets("-dio --direct-io", "weights.use_direct_io", Switch(True), "not with `--mlock`"),
    sets("-ndio --no-direct-io", "weights.use_direct_io", Switch(False)),
    sets("-cmoe --cpu-moe", "weights.num_cpu_expert_layers", Switch(-1)),
    sets("-ncmoe --n-cpu-moe", "weights.num_cpu_expert_layers", Whole(0, 4096)),
    sets("--op-offload", "attention.offload_operations", Switch(True)),
    sets("--no-op-offload", "attention.offload_operations", Switch(False)),
    sets("--check-tensors", "weights.check_tensors", Switch(True)),
)

ROPE: tuple[Flag, ...] = (
    sets("--rope-scaling", "rope.scaling", Choice(("none", "linear", "yarn"))),
    sets("--rope-scale", "rope.freq_scale", Number(1e-6, 1e6, is_inverse=True), "n: `--rope-freq-scale 1/n`"),
    sets("--rope-freq-base", "rope.freq_base", Number(0.0)),
    sets("--rope-freq-scale", "rope.freq_scale", Number(1e-6, 1e6)),
    sets("--yarn-orig-ctx", "rope.yarn_orig_ctx", Whole(0, 1 << 24)),
    sets("--yarn-ext-factor", "rope.yarn_ext_factor", Number(), "negative: as the model's file says"),
    sets("--yarn-attn-factor", "rope.yarn_attn_factor", Number(), "negative: as the model's file says"),
    sets("--yarn-beta-slow", "rope.yarn_beta_slow", Number(), "negative: as the model's file says"),
    sets("--yarn-beta-fast", "rope.yarn_beta_fast", Number(), "negative: as the model's file says"),
)
