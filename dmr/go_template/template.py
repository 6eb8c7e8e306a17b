"""Go's text/template as far as model templates use it: read here, carried out in `evaluation`.

There are variables, fields, pipelines, if/else, range, with, break and continue, trim markers, comments, and the
functions that `evaluation` lists. There is no `define`, `template` or `block`. A template can come from anyone:
its size, its nesting, the steps it takes and the text it makes are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple, NoReturn, Union

from dmr.go_template.evaluation import (
    Action,
    Branch,
    Budget,
    Command,
    Function,
    Jump,
    Literal,
    Loop,
    Node,
    Operand,
    Path,
    Pipe,
    Renderer,
    Text,
)
from dmr.go_template.functions import GoTemplateError, is_function

MAX_LENGTH = 64 * 1024  # characters of a template
MAX_DEPTH = 32  # of blocks and of parentheses

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<comment>/\*.*?\*/)
    |(?P<close>-?\}\})
    |(?P<string>"(?:\\.|[^"\\\n])*")
    |(?P<raw>`[^`]*`)
    |(?P<number>[-+]?[0-9]+(?:\.[0-9]+)?(?![\w.]))
    |(?P<path>\$\w*(?:\.\w+)*|(?:\.[^\W\d]\w*)+|\.(?!\w))
    |(?P<word>[^\W\d]\w*)
    |(?P<mark>:=|[=|(),])""",
    re.DOTALL | re.VERBOSE,
)
_UNSUPPORTED = ("define", "template", "block")
_CONSTANTS: Mapping[str, Any] = {"true": True, "false": False, "nil": None}


class Token(NamedTuple):
    kind: str
    text: str
    is_apart: bool  # white space stands before it


class _Inside(NamedTuple):
    """What stands between `{{` and `}}`."""

    tokens: tuple[Token, ...]
    line: int


_Piece = Union[str, _Inside]


class GoTemplate:
    """A template that has been read. Raises GoTemplateError for one that cannot be."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise GoTemplateError(f"The template is longer than {MAX_LENGTH} characters.")
        self._nodes = _Parser(_pieces(text)).parse()

    def render(self, values: Mapping[str, Any], today: date, budget: Budget | None = None) -> str:
        """The text that it makes of `values`: text, numbers, booleans, lists and dicts of them.

        A field `.ToolCalls` finds the key "ToolCalls" or "tool_calls"; one that is not there is empty. The text ends
        where an empty `.Response` stands: there the model goes on. Renderings that belong together share a budget.
        Raises GoTemplateError.
        """
        return Renderer(values, today, Budget() if budget is None else budget).render(self._nodes)


def _pieces(text: str) -> list[_Piece]:
    """Texts and actions by turns, with the white space cut that trim markers cut."""
    pieces: list[_Piece] = []
    position, trims = 0, False
    while True:
        start = text.find("{{", position)
        before = text[position:] if start < 0 else text[position:start]
        if trims:
            before = before.lstrip()
        if start < 0:
            pieces.append(before)
            return pieces
        position = start + 2
        if text.startswith("-", position) and text[position + 1 : position + 2].isspace():
            before, position = before.rstrip(), position + 1
        pieces.append(before)
        tokens, position, trims = _tokens(text, position)
        if tokens:
            pieces.append(_Inside(tokens, text.count("\n", 0, start) + 1))


def _tokens(text: str, position: int) -> tuple[tuple[Token, ...], int, bool]:
    """The tokens of the action that begins here, where it ends, and whether it trims what follows."""
    tokens: list[Token] = []
    is_apart = True
    while True:
        found = _TOKEN.match(text, position)
        if found is None:
            line = text.count("\n", 0, position) + 1
            what = "an action is not closed" if position >= len(text) else f"unexpected {text[position]!r}"
            raise GoTemplateError(f"The template is wrong in line {line}: {what}.")
        position = found.end()
        kind = str(found.lastgroup)
        if kind == "close":
            return tuple(tokens), position, found.group().startswith("-")
        if kind not in ("space", "comment"):
            tokens.append(Token(kind, found.group(), is_apart))
        is_apart = kind in ("space", "comment")


class _Parser:
    """Recursive descent over the pieces; bounded in depth."""

    def __init__(self, pieces: list[_Piece]) -> None:
        self._pieces = pieces
        self._next_piece = 0
        self._tokens: tuple[Token, ...] = ()
        self._next = 0
        self._line = 1
        self._depth = 0
        self._num_loops = 0

    def parse(self) -> tuple[Node, ...]:
        nodes, end = self._block(())
        assert not end
        return nodes

    # --- blocks ---

    def _block(self, ends: tuple[str, ...]) -> tuple[tuple[Node, ...], str]:
        """Nodes up to one of the words in `ends`, and that word; with no ends up to the end of the template."""
        nodes: list[Node] = []
        while self._next_piece < len(self._pieces):
            piece = self._pieces[self._next_piece]
            self._next_piece += 1
            if isinstance(piece, str):
                if piece:
                    nodes.append(Text(piece))
                continue
            self._tokens, self._next, self._line = piece.tokens, 0, piece.line
            word = piece.tokens[0].text if piece.tokens[0].kind == "word" else ""
            if word in ("end", "else"):
                if word not in ends:
                    self._fail(f"unexpected '{word}'")
                self._next = 1
                return tuple(nodes), word
            nodes.append(self._node(word))
        if ends:
            self._fail("a block is not closed with 'end'")
        return tuple(nodes), ""

    def _node(self, word: str) -> Node:
        if word in _UNSUPPORTED:
            self._fail(f"'{word}' is not supported")
        if word in ("if", "with", "range"):
            self._next = 1
            return self._nested(word)
        if word in ("break", "continue"):
            self._next = 1
            self._expect_end()
            if not self._num_loops:
                self._fail(f"'{word}' stands in no 'range'")
            return Jump(word)
        pipe = self._pipe()
        self._expect_end()
        return Action(pipe)

    def _nested(self, kind: str) -> Node:
        """An if, with or range up to its end; the words after `kind` come next."""
        self._deeper()
        pipe = self._pipe(in_range=kind == "range")
        self._expect_end()
        self._num_loops += kind == "range"
        body, end = self._block(("end", "else"))
        self._num_loops -= kind == "range"
        otherwise: tuple[Node, ...] = ()
        if end == "else":
            otherwise = self._otherwise(kind)
        else:
            self._expect_end()
        self._depth -= 1
        return Loop(pipe, body, otherwise) if kind == "range" else Branch(kind == "with", pipe, body, otherwise)

    def _otherwise(self, kind: str) -> tuple[Node, ...]:
        token = self._peek()
        if token is not None and token.kind == "word" and token.text == kind and kind != "range":
            self._next += 1
            return (self._nested(kind),)  # "else if": one end closes both
        self._expect_end()
        nodes, _ = self._block(("end",))
        self._expect_end()
        return nodes

    # --- pipelines ---

    def _pipe(self, in_range: bool = False) -> Pipe:
        names, declares = self._names(in_range)
        commands = [self._command()]
        while self._take("|"):
            commands.append(self._command())
        if any(not isinstance(command.operands[0], Function) for command in commands[1:]):
            self._fail("only a function can stand behind '|'")
        return Pipe(names, declares, tuple(commands))

    def _names(self, in_range: bool) -> tuple[tuple[str, ...], bool]:
        """The variables that a pipeline is assigned to, and whether they are new."""
        start, names = self._next, []
        while (token := self._peek()) is not None and token.text.startswith("$") and "." not in token.text:
            self._next += 1
            names.append(token.text)
            for mark in (":=", "="):
                if self._take(mark):
                    if len(names) > (2 if in_range else 1):
                        self._fail("too many variables")
                    return tuple(names), mark == ":="
            if not self._take(","):
                break
        self._next = start
        return (), False

    def _command(self) -> Command:
        operands: list[Operand] = []
        while (operand := self._operand()) is not None:
            operands.append(operand)
        if not operands:
            self._fail("a value is missing")
        if len(operands) > 1 and not isinstance(operands[0], Function):
            self._fail("a value cannot be called")
        return Command(tuple(operands))

    def _operand(self) -> Operand | None:
        token = self._peek()
        if token is None or (token.kind == "mark" and token.text != "("):
            return None
        self._next += 1
        if token.kind == "string":
            return Literal(self._unquoted(token.text))
        if token.kind == "raw":
            return Literal(token.text[1:-1])
        if token.kind == "number":
            return Literal(self._number(token.text))
        if token.kind == "path":
            base, *fields = token.text.split(".")
            return Path(base or ".", tuple(name for name in fields if name))
        if token.kind == "word":
            if token.text in _CONSTANTS:
                return Literal(_CONSTANTS[token.text])
            if not is_function(token.text):
                self._fail(f"there is no function '{token.text[:40]}'")
            return Function(token.text)
        return self._parenthesised()

    def _parenthesised(self) -> Path:
        self._deeper()
        pipe = self._pipe()
        if not self._take(")"):
            self._fail("a parenthesis is not closed")
        self._depth -= 1
        after = self._peek()
        if after is None or after.kind != "path" or after.is_apart or not after.text.startswith("."):
            return Path(pipe, ())
        self._next += 1
        return Path(pipe, tuple(name for name in after.text.split(".") if name))

    def _unquoted(self, text: str) -> str:
        try:
            return str(json.loads(text))  # Go's escapes are JSON's and a few that no template needs
        except ValueError:
            self._fail(f"the text {text[:40]} has an escape that is not understood")

    def _number(self, text: str) -> int | float:
        if len(text) > 18:
            self._fail("a number is too long")
        return float(text) if "." in text else int(text)

    # --- tokens ---

    def _peek(self) -> Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self, mark: str) -> bool:
        token = self._peek()
        if token is None or token.kind != "mark" or token.text != mark:
            return False
        self._next += 1
        return True

    def _expect_end(self) -> None:
        token = self._peek()
        if token is not None:
            self._fail(f"unexpected '{token.text[:40]}'")

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"it nests deeper than {MAX_DEPTH}")

    def _fail(self, what: str) -> NoReturn:
        raise GoTemplateError(f"The template is wrong in line {self._line}: {what}.")
