"""A conversation, its tools and the wanted form of the answer, rendered by the model's own chat template."""

from __future__ import annotations

from typing import Any

import msgspec

from dmr import _core
from dmr.errors import InvalidRequest, Unsupported
from dmr.types import ChatInput, Message, ResponseFormat, Tool, ToolChoice
from dmr.wire import EngineInfo, GrammarSpec

_TRIGGER_KINDS = {
    _core.TriggerKind.WORD: "word",
    _core.TriggerKind.PATTERN: "pattern",
    _core.TriggerKind.FULL_PATTERN: "full_pattern",
}


class PromptTemplate:
    """The template of one model. Immutable; any thread."""

    def __init__(self, info: EngineInfo) -> None:
        """Raises InvalidRequest when the model's template cannot be parsed."""
        try:
            self._template = _core.ChatTemplate(info.chat_template, info.bos, info.eos, info.adds_bos)
        except (_core.TemplateError, ValueError) as error:
            raise InvalidRequest(f"This model cannot chat: {error}.", param="model") from error

    def render(self, chat: ChatInput, response_format: ResponseFormat | None) -> _core.ChatPrompt:
        """The prompt, and all that is needed to constrain and to read the answer.

        Raises:
            InvalidRequest: the template refuses this conversation, or the form of the answer cannot be enforced.
            Unsupported: tools are offered to a template that knows none.
        """
        try:
            return self._template.render(self._request(chat, response_format))
        except (_core.TemplateError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidRequest(f"{error}.", param="messages") from error

    def _request(self, chat: ChatInput, response_format: ResponseFormat | None) -> _core.ChatRequest:
        tools = () if chat.tool_choice is ToolChoice.NONE else chat.tools
        if tools and not self._template.capabilities.get("supports_tools", False):
            raise Unsupported("This model's chat template does not support tools.", param="tools")
        request = _core.ChatRequest()
        request.messages = _json([_message(message) for message in chat.messages])
        request.tools = _json([_tool(tool) for tool in tools]) if tools else ""
        request.tool_choice = chat.tool_choice.value
        request.parallel_tool_calls = chat.parallel_tool_calls
        request.enable_thinking = chat.enable_thinking
        request.template_kwargs = {key: _json(value) for key, value in chat.template_kwargs.items()}
        if response_format is not None:
            if response_format.json_schema:
                grammar_of_format(response_format)  # so that a schema's fault is not blamed on the messages
            request.json_schema = response_format.json_schema
            request.grammar = response_format.grammar
        return request


def grammar_of(prompt: _core.ChatPrompt) -> GrammarSpec | None:
    """The grammar the answer must follow, in the wire's words."""
    if not prompt.grammar:
        return None
    triggers = tuple((_TRIGGER_KINDS[trigger.kind], trigger.value) for trigger in prompt.grammar_triggers)
    return GrammarSpec(prompt.grammar, prompt.grammar_prefill, prompt.grammar_lazy, triggers)


def grammar_of_format(response_format: ResponseFormat) -> GrammarSpec:
    """The same for a raw completion, which has no template.

    Raises:
        InvalidRequest: the schema cannot be enforced.
    """
    if response_format.grammar:
        return GrammarSpec(response_format.grammar)
    try:
        return GrammarSpec(_core.grammar_from_schema(response_format.json_schema))
    except (_core.GrammarError, ValueError) as error:
        raise InvalidRequest(f"{error}.", param="response_format") from error


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _message(message: Message) -> dict[str, Any]:
    encoded: dict[str, Any] = {"role": message.role.value, "content": message.text}
    if message.reasoning:
        encoded["reasoning_content"] = message.reasoning
    if message.tool_calls:
        encoded["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        encoded["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        encoded["name"] = message.name
    return encoded


def _tool(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": msgspec.Raw(tool.parameters.encode())}
    return {"type": "function", "function": function}
