"""What a rendered conversation is: the prompt, what the answer must look like, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass

from dmr import _core
from dmr.chat.literals import put_back
from dmr.chat.parser import OutputParser
from dmr.wire import GrammarSpec, ThoughtLimit


@dataclass(frozen=True)
class RenderedPrompt:
    text: str  # with LITERAL_OPEN i LITERAL_CLOSE in the place of `literals[i]`
    literals: tuple[str, ...]
    grammar: GrammarSpec | None
    preserved_tokens: tuple[str, ...]
    stop: tuple[str, ...]
    thought_limit: ThoughtLimit | None
    answer: _core.ChatPrompt  # how the answer is read; may be of another template than the text
    parses_tool_calls: bool
    only_calls: bool = False  # a call was demanded: nothing else can be in the answer

    def plain_text(self) -> str:
        """The prompt as one text, in which nobody can tell control tokens from what somebody typed."""
        return put_back(self.text, self.literals)

    def parser(self, index: int) -> OutputParser:
        """For one choice."""
        return OutputParser(self.answer, index, self.parses_tool_calls, self.only_calls)
