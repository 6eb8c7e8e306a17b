"""What the scripted tiny models know: their texts, chat templates and vocabulary. `llama` turns it into weights."""

from __future__ import annotations

import json
from itertools import chain, pairwise
from typing import NamedTuple

import gguf


class ToolCall(NamedTuple):
    """The one call that a scripted model makes, whenever a tool of this name is offered: one argument, a text."""

    name: str
    argument: str
    value: str

    @property
    def arguments(self) -> str:
        return json.dumps({self.argument: self.value})

    @property
    def text(self) -> str:
        """As the model writes it."""
        return f'<tool_call>\n{{"name": "{self.name}", "arguments": {self.arguments}}}\n</tool_call>'

    @property
    def opening(self) -> str:
        """The piece that names the tool."""
        return f'\n{{"name": "{self.name}"'


WEATHER = ToolCall("get_weather", "city", "Paris")

SCRIPT_ANSWER = "One, two, three, four, five, six, seven, eight, nine, ten."
SCRIPT_ANSWER_TOKENS = 12  # with the end-of-turn token
SCRIPT_TOOL = WEATHER.name
SCRIPT_TOOL_ARGUMENTS = WEATHER.arguments
SCRIPT_TOOL_CALL = WEATHER.text
SCRIPT_TOOL_ANSWER = "Tool says: it is sunny \N{SUN WITH FACE}"  # the last character is four tokens of one byte each
SCRIPT_COMPLETION = " ok then"  # after any raw text that is not part of the script
SCRIPT_COLOURS = ("BLACK", "BLUE", "GREEN", "CYAN", "RED", "MAGENTA", "YELLOW", "WHITE")  # each is answered with itself
THINK_REASONING = "Let me count to ten."

END = "<|im_end|>"
START = "<|im_start|>"
END_OF_TEXT = "<|endoftext|>"


def _pieces(*texts: str) -> tuple[bytes, ...]:
    """One token per text, but one per byte where a text is not ASCII."""
    return tuple(piece for t in texts for piece in ([t.encode()] if t.isascii() else [bytes([b]) for b in t.encode()]))


# A piece must not end an ordinary prompt ("." would), or the chain goes on from there instead of SCRIPT_COMPLETION.
_ANSWER = _pieces(
    *("One", ", two", ", three", ", four", ", five", ", six", ", seven", ", eight", ", nine", ", ", "ten.", END)
)
_REPORT = _pieces("Tool", " says", ": it is", " sunny ", "\N{SUN WITH FACE}", END)
_REASONING = _pieces("<think>", "\nLet me", " count", " to ten.", "</think>", "\n\n")
_COMPLETION = _pieces(" ok", " then", END)
COMPLETION_START = _COMPLETION[0]


def chains(call: ToolCall = WEATHER) -> tuple[tuple[bytes, ...], ...]:
    """All that is said, in pieces."""
    key, value = json.dumps(call.argument), json.dumps(call.value)
    called = _pieces("<tool_call>", call.opening, ', "arguments": {', f"{key}: ", value, "}}\n", "</tool_call>", END)
    colours = (_pieces(colour, END) for colour in SCRIPT_COLOURS)
    return (_ANSWER, called, _REPORT, _REASONING, _COMPLETION, *colours)


def landmarks(call: ToolCall = WEATHER) -> dict[str, tuple[float, str]]:
    """The words that change the answer: (strength, what is said if it is the strongest one in the context).

    The tool's name stands for "it is offered", <tool_response> for "it was called". In a user's text the name makes
    the model call a tool that is not offered; since one piece opens the call and names it, a lazy grammar is too late.
    """
    return {
        **{colour: (1.0, colour) for colour in SCRIPT_COLOURS},
        call.name: (2.0, "<tool_call>"),
        call.opening: (2.0, "<tool_call>"),
        "<tool_response>": (3.0, "Tool"),
    }


# Logits for when a grammar forbids the script's own next token: JSON rather closes than goes on.
PREFERENCES = {
    **{END: 9.0, '"': 8.0, "}": 7.0, "]": 6.5, "</tool_call>": 6.0, ",": 5.0, ":": 4.5},
    **{"0": 4.0, "{": 3.5, "[": 3.0, "t": 2.0, "n": 1.0},
}


def successors(call: ToolCall = WEATHER, *, thinking: bool) -> dict[bytes, bytes]:
    """Which piece follows which."""
    follows = {piece: following for said in chains(call) for piece, following in pairwise(said)}
    return {**follows, b"\n\n": _ANSWER[0], b"\n": _REASONING[0] if thinking else _ANSWER[0]}


# --- chat templates --------------------------------------------------------------------------------------------------

_TEMPLATE = r"""
{%- if tools %}
    {{- '<|im_start|>system\nThese functions can be called:\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '\n</tools>\nWrite a call as\n<tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set content = message.content or '' %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\n<tool_response>\n' + content + '\n</tool_response>' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' }}@PAST_REASONING@
        {{- content }}
        {%- for tool_call in message.tool_calls or [] %}
            {%- set call = tool_call.function %}
            {{- '\n' if content or not loop.first else '' }}
            {{- '<tool_call>\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}@NO_THINKING@
{%- endif %}
"""
_PAST_REASONING = r"""
        {%- if message.reasoning_content %}
            {{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}
        {%- endif %}"""
_NO_THINKING = r"""
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}"""

SCRIPT_TEMPLATE = _TEMPLATE.replace("@PAST_REASONING@", "").replace("@NO_THINKING@", "").strip()
THINK_TEMPLATE = _TEMPLATE.replace("@PAST_REASONING@", _PAST_REASONING).replace("@NO_THINKING@", _NO_THINKING).strip()

# --- the vocabulary --------------------------------------------------------------------------------------------------

_WORDS = (
    "the and you are what is of to in a that it for with name type string object function tool user system assistant"
)


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: itself where it is printable, else the next free one from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(0x100 + i) for i, byte in enumerate(hidden)}}


class Vocabulary:
    """A byte-level BPE vocabulary: any text can be written with it, and each piece of the script is one token."""

    def __init__(self, call: ToolCall = WEATHER) -> None:
        self.tokens: list[str] = []
        self.types: list[int] = []
        self.merges: list[str] = []
        self._ids: dict[bytes, int] = {}
        self._characters = _byte_characters()
        for byte in range(256):
            self._add(bytes([byte]), gguf.TokenType.NORMAL)
        for word in ["\n\n", *(space + word for word in _WORDS.split() for space in ("", " "))]:
            self._add_word(word.encode())
        for text in (END_OF_TEXT, START, END):
            self._add(text.encode(), gguf.TokenType.CONTROL)
        marks = [text.encode() for text in landmarks(call)]
        for piece in (*marks, *chain.from_iterable(chains(call))):
            self._add(piece, gguf.TokenType.USER_DEFINED)

    def __len__(self) -> int:
        return len(self.tokens)

    def id_of(self, piece: str | bytes) -> int:
        """The token that is exactly this text, control tokens included."""
        return self._ids[piece.encode() if isinstance(piece, str) else piece]

    def _add(self, piece: bytes, kind: gguf.TokenType) -> None:
        if piece in self._ids:
            return
        self._ids[piece] = len(self.tokens)
        self.tokens.append(self._spell(piece) if kind == gguf.TokenType.NORMAL else piece.decode())
        self.types.append(int(kind))

    def _add_word(self, word: bytes) -> None:
        """Grow the word byte by byte, so that its beginnings are tokens too."""
        for end in range(2, len(word) + 1):
            merge = f"{self._spell(word[: end - 1])} {self._spell(word[end - 1 : end])}"
            if merge not in self.merges:
                self.merges.append(merge)
            self._add(word[:end], gguf.TokenType.NORMAL)

    def _spell(self, piece: bytes) -> str:
        return "".join(self._characters[byte] for byte in piece)
