"""Settings of an engine that the native side takes as they are, under the same names."""

from __future__ import annotations

import msgspec

CELL_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
PLAIN_CELL_TYPES = ("f32", "f16", "bf16")
ALL_LAYERS = -1


class WeightSettings(msgspec.Struct, frozen=True):
    """How weights are loaded and where they are put."""

    use_mmap: bool = True
    use_mlock: bool = False
    use_direct_io: bool = False
    check_tensors: bool = False
    repack: bool = True
    use_host_buffers: bool = True
    split_mode: str = "layer"  # over several devices: "none", "layer", "row", "tensor"
    main_gpu: int = 0  # the one of "none"
    tensor_split: tuple[float, ...] = ()  # shares of the devices; empty = by their free memory
    devices: tuple[str, ...] = ()  # by name; empty = all, "none" = the CPU alone
    num_cpu_expert_layers: int = 0  # the first so many keep their experts with the CPU; `ALL_LAYERS`


class AttentionSettings(msgspec.Struct, frozen=True):
    """KV cells, and what is computed with them."""

    flash_attention: str = "auto"  # "auto", "on", "off"
    key_type: str = "f16"  # one of `CELL_TYPES`; those that are not plain need flash attention
    value_type: str = "f16"
    offload_cells: bool = True
    offload_operations: bool = True


class RopeSettings(msgspec.Struct, frozen=True):
    """Positions in the rotary embedding; 0 = as the file says, and so is a negative factor."""

    scaling: str = "model"  # "model", "none", "linear", "yarn", "longrope"
    freq_base: float = 0.0
    freq_scale: float = 0.0
    yarn_orig_ctx: int = 0
    yarn_ext_factor: float = -1.0
    yarn_attn_factor: float = -1.0
    yarn_beta_fast: float = -1.0
    yarn_beta_slow: float = -1.0


class DraftSettings(msgspec.Struct, frozen=True):
    """Of the smaller model that guesses."""

    least_probability: float = 0.4  # a guess that it is less sure of is not made
    num_gpu_layers: int | None = None  # None = as many as the model's own
    num_threads: int = 0  # 0 = as the model has
    key_type: str = "f16"
    value_type: str = "f16"


class ProjectorSettings(msgspec.Struct, frozen=True):
    """Of what turns pictures and sounds into places of a prompt."""

    is_used: bool = True  # where the model has one
    use_gpu: bool = True
    min_tokens: int = -1  # of one picture; negative = as the file says
    max_tokens: int = -1
