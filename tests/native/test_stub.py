"""The hand-written stub says what the module has: neither can change without the other."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from types import BuiltinFunctionType

import pytest

from dmr import _core

ROOT = Path(__file__).parents[2]
STUB = ast.parse((ROOT / "dmr" / "_core.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}
SPECIAL = {"__init__", "__len__"}  # the special methods that are part of the interface
ENUMS = {"DecodeStatus", "TriggerKind"}
TUPLES = {"RowResult"}  # with named fields
# What pybind11 writes in its signatures, in the stub's words.
SPELLINGS = {
    "typing.SupportsInt | typing.SupportsIndex": "int",
    "typing.SupportsFloat | typing.SupportsIndex": "float",
    "collections.abc.Sequence": "Sequence",
    "dmr._core.": "",
    "typing.Annotated[numpy.typing.ArrayLike, numpy.float32]": "numpy.typing.ArrayLike",
}
# Where the stub knows more than a C++ signature can say: (place, what the module says).
REFINED = {
    ("Model.__init__", "progress", "object"),
    ("Projector.encode", "between", "object"),
    ("Context.restore", "state", "str"),
    ("build_info", "return", "dict"),
    ("devices", "return", "list"),
    ("take_log", "return", "list"),
    ("take_log", "return", "list[tuple[int, str]]"),
    ("step", "rows", "Sequence"),
    ("Model.metadata", "return", "dict"),
    ("StepResult.rows", "return", "list"),
}


def in_module(name: str) -> type:
    kind: type = getattr(_core, name)
    return kind


def members_of_module(name: str) -> set[str]:
    own = vars(in_module(name))
    return {key for key in own if not key.startswith("_") or (key in SPECIAL and has_signature(own[key]))}


def has_signature(function: object) -> bool:
    return "(self: dmr._core." in (getattr(function, "__doc__", None) or "")


def members_of_stub(name: str) -> set[str]:
    body = CLASSES[name].body
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    fields = {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    return {key for key in functions | fields if not key.startswith("__") or key in SPECIAL}


def signature_of(doc: str) -> ast.FunctionDef:
    """The first line of a pybind11 docstring, as Python."""
    line = doc.splitlines()[0].strip()
    for theirs, ours in SPELLINGS.items():
        line = line.replace(theirs, ours)
    if line.startswith("("):  # a property's getter has no name, and not always one for itself
        line = "get" + line.replace("(arg0: ", "(self: ")
    node = ast.parse(f"def {line}: ...").body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


def parameters(function: ast.FunctionDef) -> list[tuple[str, str, str]]:
    """(name, kind, default) of each parameter but self."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    found = [(a.arg, "positional", d) for a, d in zip(positional, defaults, strict=True)]
    found += [(a.arg, "keyword", d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return [(name, kind, ast.unparse(d) if d else "") for name, kind, d in found if name != "self"]


def types_of(function: ast.FunctionDef) -> dict[str, str]:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    found = {a.arg: ast.unparse(a.annotation) for a in arguments if a.annotation is not None and a.arg != "self"}
    return {**found, "return": ast.unparse(function.returns) if function.returns else ""}


def require_same(place: str, stub: ast.FunctionDef, module: ast.FunctionDef) -> None:
    assert parameters(stub) == parameters(module), place
    said = types_of(module)
    for key, wanted in types_of(stub).items():
        assert wanted == said[key] or (place, key, said[key]) in REFINED, f"{place}: {key} is {said[key]}, not {wanted}"


def test_every_public_name_is_in_both() -> None:
    module = {name for name in vars(_core) if not name.startswith("_")}
    assert module == set(CLASSES) | set(FUNCTIONS)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_have_the_same_parameters(name: str) -> None:
    function: BuiltinFunctionType = getattr(_core, name)
    require_same(name, FUNCTIONS[name], signature_of(function.__doc__ or ""))


@pytest.mark.parametrize("name", sorted(set(CLASSES) - TUPLES))
def test_classes_have_the_same_members(name: str) -> None:
    own = members_of_module(name) - ({"__init__"} if issubclass(in_module(name), Exception) else set())
    assert own == members_of_stub(name)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - ENUMS - TUPLES))
def test_methods_have_the_same_parameters(name: str) -> None:
    for node in CLASSES[name].body:
        if isinstance(node, ast.FunctionDef):
            member = inspect.getattr_static(in_module(name), node.name)
            member = member.__func__ if isinstance(member, staticmethod) else member
            getter = isinstance(member, property)
            doc = member.fget.__doc__ if isinstance(member, property) and member.fget else member.__doc__
            assert getter == any(ast.unparse(d) == "property" for d in node.decorator_list), node.name
            require_same(f"{name}.{node.name}", node, signature_of(doc or ""))


@pytest.mark.parametrize("name", sorted(set(CLASSES) - ENUMS - TUPLES))
def test_fields_that_can_be_set_are_fields_in_the_stub(name: str) -> None:
    own = vars(in_module(name))
    settable = {key for key, member in own.items() if isinstance(member, property) and member.fset is not None}
    fields = {
        node.target.id: ast.unparse(node.annotation)
        for node in CLASSES[name].body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert settable == set(fields)
    for key, annotation in fields.items():
        getter = own[key].fget
        assert types_of(signature_of(getter.__doc__))["return"] == annotation, key


@pytest.mark.parametrize("name", sorted(TUPLES))
def test_tuples_have_the_same_fields_in_the_same_order(name: str) -> None:
    fields = [ast.unparse(node.target) for node in CLASSES[name].body if isinstance(node, ast.AnnAssign)]
    kind = in_module(name)
    assert issubclass(kind, tuple)
    assert kind.__match_args__ == tuple(fields)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_enumerations_have_the_same_members(name: str) -> None:
    module = set(in_module(name).__members__)  # type: ignore[attr-defined]
    fields = {ast.unparse(node.target) for node in CLASSES[name].body if isinstance(node, ast.AnnAssign)}
    assert fields == module | {"__members__"}


@pytest.mark.parametrize("name", sorted(name for name in CLASSES if issubclass(in_module(name), Exception)))
def test_exceptions_have_the_same_base(name: str) -> None:
    assert [ast.unparse(base) for base in CLASSES[name].bases] == [in_module(name).__base__.__name__]  # type: ignore[union-attr]


def test_the_code_that_uses_the_module_agrees_with_the_stub(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    users = ["dmr/engine/model_runner.py", "dmr/chat", "dmr/service/service.py"]
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}", "--follow-imports=silent", *users]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
