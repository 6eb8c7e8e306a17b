"""Which architectures keep a state instead of KV cells, or beside them. As llama.cpp says of models that it has loaded;
here for those that are not.
"""

from __future__ import annotations

_RECURRENT = frozenset(("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"))
_HYBRID = frozenset(
    (
        "bailingmoe3",
        "deepseek4",
        "falcon-h1",
        "glm5-next",
        "granitehybrid",
        "jamba",
        "kimi-k3",
        "kimi-linear",
        "lfm2",
        "lfm2moe",
        "minimax-01",
        "nemotron_h",
        "nemotron_h_moe",
        "plamo2",
        "qwen35",
        "qwen35moe",
        "qwen3next",
        "qwen4exp",
    )
)


def is_recurrent(architecture: str) -> bool:
    return architecture in _RECURRENT


def is_hybrid(architecture: str) -> bool:
    return architecture in _HYBRID
