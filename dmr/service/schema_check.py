"""What JSON Schemas ask beyond the grammar: refused, or looked at when the answer is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from dmr.chat.schema import Schema, read_schema
from dmr.errors import InvalidRequest
from dmr.types import ChatInput, FinishReason, GenerateRequest, ResponseFormat, Tool, ToolChoice

MAX_VIOLATIONS = 20  # that are told


class AnswerCheck(NamedTuple):
    """The schemas that a whole answer is held against."""

    answer: Schema | None
    tools: Mapping[str, Schema]

    def violations(self, text: str, calls: list[tuple[str, str]], reason: FinishReason) -> tuple[str, ...]:
        """Sentences with the place in the answer. An answer that is cut off is looked at only if it is whole JSON."""
        is_cut = reason is FinishReason.LENGTH
        found: list[str] = []
        if self.answer is not None and not calls:
            found += self.answer.violations(text, is_cut)
        for name, arguments in calls:
            if name in self.tools:
                found += [f"{name}: {each}" for each in self.tools[name].violations(arguments, is_cut)]
        return tuple(found[:MAX_VIOLATIONS])


def checked_schemas(request: GenerateRequest) -> tuple[GenerateRequest, AnswerCheck | None]:
    """The request with schemas that can be turned into grammars, and what is to be looked at afterwards.

    Raises:
        InvalidRequest: with `strict`, a schema asks what cannot be enforced; the message names path and keyword.
    """
    changes: dict[str, object] = {}
    answer: Schema | None = None
    form = request.response_format
    if form is not None and form.json_schema:
        answer = read_schema(form.json_schema, "response_format")
        _refuse_unless_enforceable(answer, form.strict, "response_format", "The schema")
        changes["response_format"] = ResponseFormat(json_schema=answer.for_grammar, strict=form.strict)
    tools: dict[str, Schema] = {}
    chat = request.input
    if isinstance(chat, ChatInput) and chat.tools and chat.tool_choice is not ToolChoice.NONE:
        fitted: list[Tool] = []
        for tool in chat.tools:
            tools[tool.name] = schema = _read_tool(tool)
            enforced = "" if schema.for_grammar == tool.parameters else schema.for_grammar
            fitted.append(msgspec.structs.replace(tool, enforced=enforced))
        changes["input"] = msgspec.structs.replace(chat, tools=tuple(fitted))
    if not changes:
        return request, None
    return msgspec.structs.replace(request, **changes), AnswerCheck(answer, tools)


def _read_tool(tool: Tool) -> Schema:
    schema = read_schema(tool.parameters, "tools")
    _refuse_unless_enforceable(schema, tool.strict, "tools", f"The schema of the tool '{tool.name}'")
    return schema


def _refuse_unless_enforceable(schema: Schema, strict: bool, param: str, whose: str) -> None:
    if strict and schema.unenforceable:
        listed = ", ".join(f"'{keyword}' at {path}" for path, keyword in schema.unenforceable[:5])
        more = f" and {len(schema.unenforceable) - 5} more" if len(schema.unenforceable) > 5 else ""
        raise InvalidRequest(
            f"{whose} is strict, but has what cannot be enforced: {listed}{more}. Leave it out, or leave 'strict' out: "
            "then the answer is checked for it afterwards.",
            param=param,
        )
