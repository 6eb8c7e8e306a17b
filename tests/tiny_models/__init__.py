"""Tiny GGUF models whose output is known in advance: no download, no training, the same bytes on every machine.

`model_file("tiny-script", folder)` writes one and gives its path; the constants are what the scripted ones answer.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .bert import EMBED_CONTEXT, EMBED_SIZE, write_embed_model, write_rerank_model
from .ear import NOISE, SILENCE, write_script_ear
from .llama import (
    RANDOM_CONTEXT,
    SCRIPT_CONTEXT,
    write_mrope_model,
    write_random_model,
    write_script_model,
    write_think_model,
)
from .memories import MEMORY_CONTEXT, WINDOW, write_hybrid_model, write_recurrent_model, write_window_model
from .projector import write_hybrid_projector, write_projector_for, write_random_projector, write_script_projector
from .script import (
    SCRIPT_ANSWER,
    SCRIPT_ANSWER_TOKENS,
    SCRIPT_COLOURS,
    SCRIPT_COMPLETION,
    SCRIPT_TOOL,
    SCRIPT_TOOL_ANSWER,
    SCRIPT_TOOL_ARGUMENTS,
    SCRIPT_TOOL_CALL,
    THINK_REASONING,
    ToolCall,
)
from .towers import WINDOW_PLACES, write_costly_projector, write_mrope_projector, write_window_projector

__all__ = [
    "EMBED_CONTEXT",
    "EMBED_SIZE",
    "MEMORY_CONTEXT",
    "MODELS",
    "NOISE",
    "PROJECTORS",
    "RANDOM_CONTEXT",
    "SCRIPT_ANSWER",
    "SCRIPT_ANSWER_TOKENS",
    "SCRIPT_COLOURS",
    "SCRIPT_COMPLETION",
    "SCRIPT_CONTEXT",
    "SCRIPT_TOOL",
    "SCRIPT_TOOL_ANSWER",
    "SCRIPT_TOOL_ARGUMENTS",
    "SCRIPT_TOOL_CALL",
    "SILENCE",
    "THINK_REASONING",
    "WINDOW",
    "WINDOW_PLACES",
    "ToolCall",
    "model_file",
    "write_costly_projector",
    "write_embed_model",
    "write_hybrid_model",
    "write_hybrid_projector",
    "write_mrope_model",
    "write_mrope_projector",
    "write_projector_for",
    "write_random_model",
    "write_random_projector",
    "write_recurrent_model",
    "write_rerank_model",
    "write_script_model",
    "write_script_projector",
    "write_think_model",
    "write_window_model",
    "write_window_projector",
]

MODELS: dict[str, Callable[[Path], None]] = {
    "tiny-script": write_script_model,
    "tiny-think": write_think_model,
    "tiny-random": write_random_model,
    "tiny-mrope": write_mrope_model,
    "tiny-window": write_window_model,
    "tiny-recurrent": write_recurrent_model,
    "tiny-hybrid": write_hybrid_model,
    "tiny-embed": write_embed_model,
    "tiny-rerank": write_rerank_model,
    # For coding agents: each is asked to run a command by the name that one of them gives its shell.
    "tiny-bash": partial(write_script_model, call=ToolCall("Bash", "command", "pwd")),
    "tiny-exec": partial(write_script_model, call=ToolCall("exec_command", "cmd", "pwd")),
}


# Of the models whose names they begin with; "tiny-script-mmproj" goes with "tiny-think" too.
PROJECTORS: dict[str, Callable[[Path], None]] = {}
# What makes the model of the same name see.
PROJECTORS: dict[str, Callable[[Path], None]] = {
    "tiny-script-mmproj": write_script_projector,
    "tiny-script-ear": write_script_ear,
    "tiny-random-mmproj": write_random_projector,
    "tiny-hybrid-mmproj": write_hybrid_projector,
    "tiny-mrope-mmproj": write_mrope_projector,
    "tiny-window-mmproj": write_window_projector,
}


def model_file(name: str, folder: Path) -> Path:
    """The path of one of `MODELS` or `PROJECTORS` in `folder`, written if it is not there.

    Several processes may ask at once: each sees the whole file or writes it itself, and all write the same bytes.
    """
    write = {**MODELS, **PROJECTORS}[name]
    path = folder / f"{name}.gguf"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{name}-", dir=folder)
    os.close(handle)
    try:
        write(Path(draft))
        Path(draft).chmod(0o644)
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
    return path
