"""Run by the interpreter of a clean environment: `python -I smoke.py MODEL`. Prints one JSON object; knows no pytest.

It uses the installed package only: load a model, complete a prompt greedily, tell what the build is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import dmr
import dmr_server
from dmr import _core

PROMPT = "Hello"
MAX_TOKENS = 16


def complete(path: str) -> str:
    """The likeliest continuation of PROMPT."""
    model = _core.Model([path])
    options = _core.ContextOptions()
    options.context_size, options.max_batch = 256, 64
    context = _core.Context(model, options)
    sampler_options = _core.SamplerOptions()
    sampler_options.temperature = 0.0
    sampler = _core.Sampler(model, sampler_options)
    detokenizer = _core.Detokenizer(model)
    batch, pool = _core.Batch(), _core.ThreadPool(1)
    tokens, position, text = model.tokenize(PROMPT, add_special=True, parse_special=True), 0, ""
    for _ in range(MAX_TOKENS):
        batch.clear()
        index = batch.add(0, tokens, position)
        (row,) = _core.step(context, batch, [(index, sampler, detokenizer)], pool).rows
        text += row.text
        if row.is_end:
            break
        position, tokens = position + len(tokens), list(row.tokens)
    return text


def main(path: str) -> None:
    modules = {name: str(Path(module.__file__ or "")) for name, module in (("dmr", dmr), ("dmr_server", dmr_server))}
    modules["dmr._core"] = str(_core.__file__)
    told = {"modules": modules, "prefix": sys.prefix, "build_info": _core.build_info(), "text": complete(path)}
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
