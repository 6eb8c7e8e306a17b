"""Chat templates that have a name: the formats of well-known families, each as llama.cpp renders it under that name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple


class _Turns(NamedTuple):
    """Formats in which each turn stands between two texts, by its role."""

    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    opening: str  # of the answer
    trims: bool = False  # blanks around what is said
    beginning: str = ""

    def jinja(self) -> str:
        said = "message.content | trim" if self.trims else "message.content"
        cases: list[str] = []
        for role, (before, after) in zip(("system", "user", "assistant"), self[:3], strict=True):
            test = f"{'if' if not cases else 'elif'} message.role == '{role}'"
            cases.append(f"{{%- {test} -%}}{{{{ {_text(before)} + ({said}) + {_text(after)} }}}}")
        return (
            f"{{{{ {_text(self.beginning)} }}}}{{%- for message in messages -%}}{''.join(cases)}{{%- endif -%}}"
            f"{{%- endfor -%}}{{%- if add_generation_prompt -%}}{{{{ {_text(self.opening)} }}}}{{%- endif -%}}"
        )


def _text(text: str) -> str:
    """As a literal of Jinja."""
    return json.dumps(text)


def _alike(before: str, after: str, opening: str, *, trims: bool = False, beginning: str = "") -> _Turns:
    """All roles look alike: `{}` is the role's name."""
    system, user, assistant = ((before.format(role), after) for role in ("system", "user", "assistant"))
    return _Turns(system, user, assistant, opening, trims, beginning)


_OF_TURNS: Mapping[str, _Turns] = {
    "chatml": _alike("<|im_start|>{}\n", "<|im_end|>\n", "<|im_start|>assistant\n"),
    "llama3": _alike(
        "<|start_header_id|>{}<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        trims=True,
    ),
    "phi3": _alike("<|{}|>\n", "<|end|>\n", "<|assistant|>\n"),
    "phi4": _alike("<|im_start|>{}<|im_sep|>", "<|im_end|>", "<|im_start|>assistant<|im_sep|>"),
    "falcon3": _alike("<|{}|>\n", "\n", "<|assistant|>\n"),
    "zephyr": _alike("<|{}|>\n", "<|endoftext|>\n", "<|assistant|>\n"),
    "chatglm3": _alike("<|{}|>\n ", "", "<|assistant|>", beginning="[gMASK]sop"),
    "chatglm4": _alike("<|{}|>\n", "", "<|assistant|>\n", beginning="[gMASK]<sop>"),
    "mistral-v7": _Turns(("[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"), ("[INST] ", "[/INST]"), (" ", "</s>"), ""),
    "mistral-v7-tekken": _Turns(("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), ("[INST]", "[/INST]"), ("", "</s>"), ""),
    "openchat": _Turns(
        ("", "<|end_of_turn|>"),
        ("GPT4 Correct User: ", "<|end_of_turn|>"),
        ("GPT4 Correct Assistant: ", "<|end_of_turn|>"),
        "GPT4 Correct Assistant:",
    ),
    "vicuna": _Turns(("", "\n\n"), ("USER: ", "\n"), ("ASSISTANT: ", "</s>\n"), "ASSISTANT:"),
    "vicuna-orca": _Turns(("SYSTEM: ", "\n"), ("USER: ", "\n"), ("ASSISTANT: ", "</s>\n"), "ASSISTANT:"),
    "deepseek": _Turns(("", ""), ("### Instruction:\n", "\n"), ("### Response:\n", "\n<|EOT|>\n"), "### Response:\n"),
    "command-r": _Turns(
        ("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        trims=True,
    ),
}

# A question with all that stands before it is in brackets, its answer is behind them.
_BRACKETS = (
    "{{%- set state = namespace(is_open={is_open}) -%}}{{{{ {beginning} }}}}{{%- for message in messages -%}}"
    "{{%- if not state.is_open -%}}{{{{ {opening} }}}}{{%- set state.is_open = true -%}}{{%- endif -%}}"
    "{{%- if message.role == 'system' -%}}{{{{ {system} }}}}"
    "{{%- elif message.role == 'user' -%}}{{{{ {user} }}}}"
    "{{%- elif message.role == 'assistant' -%}}{{{{ {assistant} }}}}{{%- set state.is_open = false -%}}{{%- endif -%}}"
    "{{%- endfor -%}}"
)
_GEMMA = (
    "{%- set state = namespace(system='') -%}{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{%- set state.system = state.system + (message.content | trim) -%}{%- else -%}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}"
    "{%- if state.system and message.role != 'assistant' -%}{{ state.system + '\\n\\n' }}"
    "{%- set state.system = '' -%}{%- endif -%}"
    "{{ (message.content | trim) + '<end_of_turn>\\n' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"
)


def _llama2(system: str, again: str = "[INST] ", said: str = "message.content") -> str:
    return _BRACKETS.format(
        is_open="true",
        beginning="'[INST] '",
        opening=f"'{again}'",
        system=system.replace("SAID", f"({said})"),
        user=f"({said}) + ' [/INST]'",
        assistant=f"({said}) + '</s>'",
    )


def _mistral(before: str, after: str, answer: str = "message.content") -> str:
    return _BRACKETS.format(
        is_open="false",
        beginning="''",
        opening=f"'{before}[INST]{after}'",
        system="message.content + '\\n\\n'",
        user=f"message.content + '{before}[/INST]'",
        assistant=f"'{after}' + ({answer}) + '</s>'",
    )


_MARKED = "'<<SYS>>\\n' + SAID + '\\n<</SYS>>\\n\\n'"
TEMPLATES: Mapping[str, str] = {
    **{name: turns.jinja() for name, turns in _OF_TURNS.items()},
    "gemma": _GEMMA,
    "llama2": _llama2("SAID + '\\n'"),
    "llama2-sys": _llama2(_MARKED),
    "llama2-sys-bos": _llama2(_MARKED, again="<s>[INST] "),
    "llama2-sys-strip": _llama2(_MARKED, said="message.content | trim"),
    "mistral-v1": _mistral(" ", " "),
    "mistral-v3": _mistral("", " ", "message.content | trim"),
    "mistral-v3-tekken": _mistral("", ""),
}
