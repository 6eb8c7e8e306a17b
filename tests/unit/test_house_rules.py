"""Rules of the house that no linter checks: sizes, names, and what must not be written anywhere."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THIS = Path(__file__).relative_to(ROOT)

MAX_FILE_LINES = 400
MAX_TEST_FILE_LINES = 600
MAX_FUNCTION_LINES = 60

VENDORS = re.compile("openai|anthropic|ollama|docker", re.IGNORECASE)
# The default place of the store is upstream's: that is the point of it.
VENDOR_EXCEPTIONS = {
    ("dmr/config/settings.py", "~/.docker/models"),
    ("dmr/config/settings.py", "docker.io"),
    ("dmr/config/settings.py", "~/.docker/model-runner/certs"),
    *(("dmr/config/outside.py", f"DOCKER_{name}") for name in ("CONFIG", "USERNAME", "PASSWORD")),
    *(("dmr/config/outside.py", f"DOCKER_HUB_{name}") for name in ("USER", "PASSWORD")),
    # Flags are upstream's, so that what people have written goes on working.
    ("dmr/cli/models.py", "--openai"),
    ("dmr/cli/models.py", "--openaiurl"),
    ("dmr/cli/run.py", "--openaiurl"),
    ("dmr/cli/run.py", "Ask another server that speaks OpenAI's API, as http://HOST/v1."),
    ("dmr/cli/other_server.py", "OPENAI_API_KEY"),
    ("dmr/cli/show.py", "--openai"),
    ("dmr/cli/show.py", "--openai and --remote exclude each other."),
    ("dmr/cli/run.py", "DOCKER_MODEL_NOHISTORY"),
    ("dmr/cli/package.py", "docker"),
}
VENDOR_FILES = {"dmr/cli/apps.py"}  # `dmr launch` tells others' programs, in their own words, where this server is
# import-linter sees Python sources only. `dmr version` loads it by name, to tell in one line when it is not there.
NATIVE_DOORS = {
    "dmr/chat/grammars.py",
    "dmr/chat/parser.py",
    "dmr/chat/prompt.py",
    "dmr/chat/rendering.py",
    "dmr/chat/sandboxed_template.py",
    "dmr/chat/template.py",
    "dmr/chat/template_messages.py",
    "dmr/chat/template_process.py",
    "dmr/chat/thinking.py",
    "dmr/engine/devices.py",
    "dmr/engine/draft_model.py",
    "dmr/engine/embed_runner.py",
    "dmr/engine/loading.py",
    "dmr/engine/media_reader.py",
    "dmr/engine/media_steps.py",
    "dmr/engine/model_runner.py",
    "dmr/engine/native_options.py",
    "dmr/engine/quantize.py",
    "dmr/engine/worker.py",
    "dmr/service/service.py",
}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}

# Put together from parts, so that this file keeps the rule too.
PACKAGE_HOSTS = ["pypi" + ".org", "python" + "hosted.org", "npm" + "js.org", "crates" + ".io"]
MACHINE_PATH = re.compile(r"(?<![\w.~}/-])/(?:" + "|".join(["work", "root", "home", "tmp", "opt"]) + r")/")


@cache
def tracked_files() -> tuple[Path, ...]:
    """What git has or would take, relative to ROOT."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    paths = (Path(name) for name in listed.stdout.decode().split("\0") if name)
    return tuple(sorted(path for path in paths if (ROOT / path).is_file()))


@cache
def text_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8", errors="replace")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path))


def files(*suffixes: str, under: str = "") -> list[Path]:
    found = [path for path in tracked_files() if path.suffix in suffixes and str(path).startswith(under)]
    assert found, f"no {suffixes} below '{under}': the rule would check nothing"
    return found


def report(rows: list[tuple[int, str]], limit: int) -> list[str]:
    """Print the longest ten as a table; the ones over the limit."""
    for lines, name in sorted(rows, reverse=True)[:10]:
        print(f"{lines:5} {'>' if lines > limit else ' '} {name}")
    return [f"{name}: {lines} lines, the most is {limit}" for lines, name in rows if lines > limit]


@pytest.mark.parametrize("is_test", [False, True], ids=["code", "tests"])
def test_files_are_short(is_test: bool) -> None:
    # A stub mirrors the whole extension module, so it has no size of its own.
    paths = [path for path in files(".py", ".cpp", ".h") if (path.parts[0] == "tests") is is_test]
    rows = [(text_of(path).count("\n"), str(path)) for path in paths]
    assert not report(rows, MAX_TEST_FILE_LINES if is_test else MAX_FILE_LINES)


def test_functions_are_short() -> None:
    rows = [
        (node.end_lineno - node.lineno + 1, f"{path}:{node.lineno} {node.name}")
        for path in files(".py")
        for node in ast.walk(tree_of(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None
    ]
    assert not report(rows, MAX_FUNCTION_LINES)


def test_no_module_has_a_name_that_says_nothing() -> None:
    paths = files(".py", ".pyi", ".cpp", ".h")
    assert not [str(path) for path in paths if {path.stem.lower(), *map(str.lower, path.parent.parts)} & VAGUE_NAMES]


def words_of(path: Path) -> Iterator[str]:
    """Names and strings of the code; docstrings and comments may compare us with others."""
    docstrings = {id(node.value) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree_of(path)):
        for _, value in ast.iter_fields(node):
            if isinstance(value, str) and id(node) not in docstrings:
                yield value
    yield path.stem


def test_vendors_are_named_in_the_server_and_the_store_only() -> None:
    found = [
        (str(path), word)
        for path in files(".py", ".pyi", under="dmr/")
        if path.parts[1] != "store" and str(path) not in VENDOR_FILES
        for word in words_of(path)
        if VENDORS.search(word) and (str(path), word) not in VENDOR_EXCEPTIONS
    ]
    assert not found


def test_vendors_are_not_named_in_the_extension() -> None:
    code = {path: re.sub("//.*", "", text_of(path)) for path in files(".cpp", ".h", under="csrc/")}
    assert not [str(path) for path, text in code.items() if VENDORS.search(text)]


def test_the_check_for_vendors_sees_names_strings_and_attributes(tmp_path: Path) -> None:
    sample = tmp_path / "sample.py"
    sample.write_text('"""Docker."""\nimport openai\ndef ollama(): return x.docker("anthropic") # OpenAI\n')
    assert {word for word in words_of(sample) if VENDORS.search(word)} == {"openai", "ollama", "docker", "anthropic"}


def imports_of(path: Path) -> Iterator[str]:
    """Full names of all that a module imports, at whatever place in it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield str(node.module)


def test_native_code_has_few_doors() -> None:
    importers = {str(path) for path in files(".py", under="dmr/") if "dmr._core" in imports_of(path)}
    importers |= {str(path) for path in files(".py", under="server/") if "dmr._core" in imports_of(path)}
    assert importers == NATIVE_DOORS


def test_nothing_names_the_host_of_a_package_registry() -> None:
    texts = {path: text_of(path).lower() for path in tracked_files()}
    assert not [(str(path), host) for path, text in texts.items() for host in PACKAGE_HOSTS if host in text]


def test_nothing_names_a_path_of_one_machine() -> None:
    found = [
        f"{path}:{number}: {line.strip()[:80]}"
        for path in tracked_files()
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found


def test_the_check_for_paths_sees_them_and_nothing_else() -> None:
    folder = "".join(["/", "tmp", "/"])
    assert MACHINE_PATH.search(f'open("{folder}x")')
    assert MACHINE_PATH.search(f"cd {folder}")
    assert not MACHINE_PATH.search("net" + folder + " and http://host" + folder)


def test_nothing_large_is_tracked() -> None:
    assert not [str(path) for path in tracked_files() if (ROOT / path).stat().st_size > 1_000_000]
