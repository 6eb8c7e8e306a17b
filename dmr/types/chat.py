"""A conversation: who said what, what the model may call, how it shall think."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Literal, Union

from dmr.types.value import Value


class Role(str, enum.Enum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class TextPart(Value, frozen=True, tag="text"):
    text: str


class MediaPart(Value, frozen=True, tag="media"):
    """A picture or a sound, as a file. `detail`: how closely a picture is to be looked at."""

    kind: Literal["image", "audio"]
    data: bytes
    detail: str = "auto"  # "low", "high"


class MediaLink(Value, frozen=True, tag="link"):
    """The same, where it is to be fetched from. The service makes a `MediaPart` of it, or refuses."""

    kind: Literal["image", "audio"]
    url: str
    detail: str = "auto"
    param: str = "messages"  # the field that has it, for errors


Part = Union[TextPart, MediaPart, MediaLink]


class ToolCall(Value, frozen=True):
    """A call that the model made. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class Message(Value, frozen=True):
    """One turn. In what order roles may follow each other is no concern of a dialect: the chat room puts it right."""

    role: Role
    parts: tuple[Part, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """What is written in it, without pictures and sounds."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


class Tool(Value, frozen=True):
    """A function that is offered to the model. `parameters` is a JSON Schema as text.

    With `strict`, a schema that cannot be enforced word for word is refused; without, as much as can be is enforced.
    """

    name: str
    description: str = ""
    parameters: str = '{"type":"object","properties":{}}'
    strict: bool = False
    enforced: str = ""  # what the grammar is made of, if it cannot be made of `parameters`; the service finds it


class ToolChoice(str, enum.Enum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


class ChatInput(Value, frozen=True, tag="chat"):
    """A conversation; the model's own template turns it into a prompt.

    To force one tool, allow only that one and ask for `ToolChoice.REQUIRED`.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice.AUTO
    allowed_tools: tuple[str, ...] | None = None  # names that may be called; None = all. The others are shown only
    parallel_tool_calls: bool = True
    enable_thinking: bool = True
    reasoning_effort: str | None = (
        None  # "minimal", "low", "medium", "high", "xhigh", "max": for templates, and a budget
    )
    reasoning_budget: int | None = None  # tokens of thought before it is ended; None = from the effort, else unlimited
    template: str = ""  # Jinja; empty = the model's own
    template_kwargs: Mapping[str, Any] = {}
    continue_final: bool = True  # a last assistant message (without calls) is continued instead of closed
    truncate: bool = False  # drop the oldest turns (never system, never the last) until the prompt fits
