"""What the nodes of a Go template mean. The reader of templates is `template`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from typing import Any, NamedTuple, Union

from dmr.go_template.functions import FUNCTIONS, GoTemplateError, is_true, to_text

MAX_STEPS = 200_000  # nodes and values that one budget pays for
MAX_OUTPUT = 1 << 24  # characters that one budget pays for, intermediate ones included
READ_PER_WRITTEN = 16  # characters that a function may look at for the price of one that is made

ELEMENT_COST = 16  # characters: the price of looking at an element of a list or an object
_AT_ONCE = ("not", "len", "index", "slice")  # what these take does not depend on how many elements there are

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


# --- nodes -----------------------------------------------------------------------------------------------------------


class Literal(NamedTuple):
    value: Any


class Function(NamedTuple):
    name: str


class Path(NamedTuple):
    """Fields below ".", a variable ("$" is the whole data) or a pipeline in parentheses."""

    base: str | Pipe
    fields: tuple[str, ...]


Operand = Union[Literal, Function, Path]


class Command(NamedTuple):
    """A value, or a function and its arguments."""

    operands: tuple[Operand, ...]


class Pipe(NamedTuple):
    """Commands, each with the value of the one before as its last argument."""

    names: tuple[str, ...]
    declares: bool
    commands: tuple[Command, ...]


class Text(NamedTuple):
    text: str


class Action(NamedTuple):
    pipe: Pipe


class Branch(NamedTuple):
    is_with: bool
    pipe: Pipe
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


class Loop(NamedTuple):
    pipe: Pipe
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


class Jump(NamedTuple):
    word: str


Node = Union[Text, Action, Branch, Loop, Jump]


class _Jumped(Exception):
    """`break` or `continue`, on its way to the loop."""

    def __init__(self, word: str) -> None:
        self.word = word


class _ResponseBegins(Exception):
    """The place where the model goes on; nothing of the template follows."""


_RESPONSE = Pipe((), False, (Command((Path(".", ("Response",)),)),))
_ROOT_RESPONSE = Pipe((), False, (Command((Path("$", ("Response",)),)),))


# --- rendering -------------------------------------------------------------------------------------------------------


class Budget:
    """What may still be spent, by one rendering or by several together. Raises GoTemplateError where it ends."""

    def __init__(self) -> None:
        self._steps_left = MAX_STEPS
        self._output_left = MAX_OUTPUT

    def step(self) -> None:
        self._steps_left -= 1
        if self._steps_left < 0:
            raise GoTemplateError(f"The template takes more than {MAX_STEPS} steps.")

    def spend(self, num_characters: int) -> None:
        self._output_left -= num_characters
        if self._output_left < 0:
            raise GoTemplateError(f"The template makes more than {MAX_OUTPUT} characters.")

    def spend_on(self, value: Any) -> None:
        """The price of looking at all of a value."""
        todo = [value]
        while todo:
            each = todo.pop()
            if isinstance(each, str):
                self.spend(len(each) // READ_PER_WRITTEN)
            elif isinstance(each, (Mapping, list, tuple)):
                self.spend(len(each) * ELEMENT_COST)
                if isinstance(each, Mapping):
                    todo += each
                    todo += each.values()
                else:
                    todo += each


class Renderer:
    """One rendering: its variables, and what it may still spend."""

    def __init__(self, values: Mapping[str, Any], today: date, budget: Budget) -> None:
        self._scopes: list[dict[str, Any]] = [{"$": values}]
        self._dot: Any = values
        self._today = today
        self._budget = budget
        self._output: list[str] = []

    def render(self, nodes: tuple[Node, ...]) -> str:
        try:
            self._run(nodes)
        except _ResponseBegins:
            pass
        except RecursionError:
            raise GoTemplateError("The template's values are nested too deep.") from None
        return "".join(self._output)

    def _run(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            self._budget.step()
            if isinstance(node, Text):
                self._write(node.text)
            elif isinstance(node, Action):
                self._act(node.pipe)
            elif isinstance(node, Branch):
                self._branch(node)
            elif isinstance(node, Loop):
                self._loop(node)
            else:
                raise _Jumped(node.word)

    def _act(self, pipe: Pipe) -> None:
        value = self._value(pipe)
        if not pipe.names:
            if pipe in (_RESPONSE, _ROOT_RESPONSE) and value in ("", None):
                raise _ResponseBegins
            self._write(to_text(value))

    def _branch(self, node: Branch) -> None:
        with self._scope():
            value = self._value(node.pipe)
            if not is_true(value):
                self._run(node.otherwise)
            elif node.is_with:
                with self._scope(value):
                    self._run(node.body)
            else:
                self._run(node.body)

    def _loop(self, node: Loop) -> None:
        plain = Pipe((), False, node.pipe.commands)
        over = self._value(plain)
        if isinstance(over, Mapping):  # is sorted
            self._budget.spend(len(over) * ELEMENT_COST)
        is_empty = True
        for key, value in _items(over):
            is_empty = False
            self._budget.step()
            with self._scope(value):
                self._bind(node.pipe, key, value)
                try:
                    self._run(node.body)
                except _Jumped as jump:
                    if jump.word == "break":
                        return
        if is_empty:
            with self._scope():
                self._run(node.otherwise)

    def _bind(self, pipe: Pipe, key: Any, value: Any) -> None:
        for name, each in zip(pipe.names, (value,) if len(pipe.names) == 1 else (key, value), strict=False):
            self._set(name, each, pipe.declares)

    # --- values ---

    def _value(self, pipe: Pipe) -> Any:
        value = self._command(pipe.commands[0], ())
        for command in pipe.commands[1:]:
            value = self._command(command, (value,))
        for name in pipe.names:
            self._set(name, value, pipe.declares)
        return value

    def _command(self, command: Command, piped: tuple[Any, ...]) -> Any:
        self._budget.step()
        first, *rest = command.operands
        if not isinstance(first, Function):
            return self._operand(first)
        if first.name in ("and", "or"):
            return self._choose(first.name == "or", rest, piped)
        return self._call(first.name, [*(self._operand(each) for each in rest), *piped])

    def _choose(self, wanted: bool, operands: Iterable[Operand], piped: tuple[Any, ...]) -> Any:
        """`or`'s first true value or `and`'s first false one, else the last; nothing behind it is looked at."""
        value: Any = None
        for thunk in [*operands, *(Literal(each) for each in piped)]:
            value = self._operand(thunk)
            if is_true(value) is wanted:
                break
        return value

    def _call(self, name: str, arguments: list[Any]) -> Any:
        if name == "currentDate":
            return self._today.isoformat()
        for each in arguments:
            if isinstance(each, str) or name not in _AT_ONCE:
                self._budget.spend_on(each)
        try:
            value = FUNCTIONS[name](*arguments)
        except GoTemplateError:
            raise
        except (TypeError, ValueError, IndexError, KeyError, OverflowError):
            raise GoTemplateError(f"The template calls '{name}' with values that it cannot take.") from None
        if isinstance(value, (str, list)):
            self._budget.spend(len(value))
        return value

    def _operand(self, operand: Operand) -> Any:
        self._budget.step()
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand, Function):
            return self._command(Command((operand,)), ())
        value = self._base(operand.base)
        for name in operand.fields:
            value = _field(value, name)
        return value

    def _base(self, base: str | Pipe) -> Any:
        if isinstance(base, Pipe):
            return self._value(base)
        if base == ".":
            return self._dot
        for scope in reversed(self._scopes):
            if base in scope:
                return scope[base]
        raise GoTemplateError(f"The template uses the variable '{base[:40]}' before it is set.")

    def _set(self, name: str, value: Any, declares: bool) -> None:
        if declares:
            self._scopes[-1][name] = value
            return
        for scope in reversed(self._scopes):
            if name in scope:
                scope[name] = value
                return
        raise GoTemplateError(f"The template sets the variable '{name[:40]}' before it is declared.")

    @contextmanager
    def _scope(self, *dot: Any) -> Iterator[None]:
        """Variables of a block's own and, if one is given, another "."."""
        outer = self._dot
        self._scopes.append({})
        self._dot = dot[0] if dot else outer
        try:
            yield
        finally:
            self._scopes.pop()
            self._dot = outer

    def _write(self, text: str) -> None:
        self._budget.spend(len(text))
        self._output.append(text)


def _field(value: Any, name: str) -> Any:
    if value is None or isinstance(value, str):  # a method of Ollama's types, or a field of what is not there
        return None
    if not isinstance(value, Mapping):
        raise GoTemplateError(f"The template asks for the field '.{name[:40]}' of a {type(value).__name__}.")
    if name in value:
        return value[name]
    return value.get(_CAMEL.sub("_", name).lower())


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return ((key, value[key]) for key in sorted(value))
    if isinstance(value, (list, tuple)):
        return enumerate(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return ((number, number) for number in range(min(value, MAX_STEPS)))
    if value is None:
        return ()
    raise GoTemplateError(f"The template ranges over a {type(value).__name__}.")
