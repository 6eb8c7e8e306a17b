"""Tools for models whose chat template knows none: told in the system message, called and answered as plain text.

A template of our own shows llama-common the form, so that grammar, triggers and parser come from where all others do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from dmr.types import Message, Role, TextPart, Tool, ToolCall

_SYSTEM = """\
You can call functions. These are known, as JSON, one in each line:
<tools>
{tools}
</tools>
To call one, write exactly this and nothing after it, with the function's name and an object of its arguments:
<tool_call>
{{"name": NAME, "arguments": ARGUMENTS}}
</tool_call>
The result comes back between <tool_response> and </tool_response>. If no function is needed, answer in plain words."""

# The form of calls and of thoughts; the words of the prompt are the model's own template's.
_TEMPLATE = r"""
{%- if tools %}
    {{- '<|im_start|>system' }}
    {%- for tool in tools %}
        {{- '\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set content = message.content or '' %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\n<tool_response>\n' + content + '\n</tool_response>' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' }}@PAST_THOUGHT@
        {{- content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\n' if content or not loop.first else '' }}
            {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}@THOUGHT@
{%- endif %}
"""
_PAST_THOUGHT = r"""
        {%- if message.reasoning_content %}
            {{- '@START@\n' + message.reasoning_content + '\n@END@\n\n' }}
        {%- endif %}"""
_THOUGHT = r"""
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '@START@\n\n@END@\n\n' }}
    {%- elif thought_is_open is defined and thought_is_open %}
        {{- '@START@\n' }}
    {%- endif %}"""


def template_source(thought_start: str, thought_end: str) -> str:
    """A template in the generic form. With tags (both or none), thoughts stand between them.

    It knows one word of its own: with `thought_is_open` its prompt ends in the midst of a thought.
    """
    thinks = bool(thought_start and thought_end)
    source = _TEMPLATE.replace("@PAST_THOUGHT@", _PAST_THOUGHT if thinks else "")
    source = source.replace("@THOUGHT@", _THOUGHT if thinks else "")
    return source.replace("@START@", _quoted(thought_start)).replace("@END@", _quoted(thought_end)).strip()


def rewritten(turns: Sequence[Message], tools: Iterable[Tool]) -> list[Message]:
    """The conversation without calls and results, with the tools (if there are any) at the end of the system text."""
    section = _section(tools)
    system = turns[0].text if turns and turns[0].role is Role.SYSTEM else ""
    rest = turns[1:] if turns and turns[0].role is Role.SYSTEM else turns
    text = "\n\n".join(part for part in (system, section) if part)
    written = [Message(Role.SYSTEM, (TextPart(text),))] if text else []
    for message in rest:
        if message.role is Role.TOOL:
            message = _text(Role.USER, f"<tool_response>\n{message.text}\n</tool_response>")
        elif message.tool_calls:
            texts = [message.text, *(_call(call) for call in message.tool_calls)]
            message = _text(Role.ASSISTANT, "\n".join(text for text in texts if text), message.reasoning)
        if written and written[-1].role is message.role is Role.USER:
            message = _text(Role.USER, f"{written.pop().text}\n{message.text}")
        written.append(message)
    return written


def _section(tools: Iterable[Tool]) -> str:
    lines = [
        json.dumps({"name": tool.name, "description": tool.description}, ensure_ascii=False)[:-1]
        + f', "parameters": {tool.parameters}}}'
        for tool in tools
    ]
    return _SYSTEM.format(tools="\n".join(lines)) if lines else ""


def _call(call: ToolCall) -> str:
    name = json.dumps(call.name, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {name}, "arguments": {call.arguments}}}\n</tool_call>'


def _text(role: Role, text: str, reasoning: str = "") -> Message:
    return Message(role, (TextPart(text),), reasoning=reasoning)


def _quoted(text: str) -> str:
    """As the inside of a Jinja string."""
    return text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
