"""Templates that have a name render as llama.cpp does under that name (`llama_chat_apply_template`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmr import _core
from dmr.runtime_flags.templates import TEMPLATES

PROMPTS: dict[str, str] = json.loads((Path(__file__).parent / "template_prompts.json").read_text(encoding="utf-8"))
TURNS = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": " Hello there "},
    {"role": "user", "content": 'Who are "you"?'},
]


def test_each_has_a_prompt_to_compare_with() -> None:
    assert set(PROMPTS) == set(TEMPLATES)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_it_renders_as_llama_cpp_does(name: str) -> None:
    request = _core.ChatRequest()
    request.messages = json.dumps(TURNS)
    assert _core.ChatTemplate(TEMPLATES[name]).render(request).text == PROMPTS[name]
