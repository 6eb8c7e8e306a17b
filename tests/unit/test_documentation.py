"""The pages say what the code does: settings, routes, links, make targets."""

from __future__ import annotations

import operator
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeService

from dmr.cli.address import DEFAULT_ADDRESS
from dmr.config import VARIABLES, Alias, read_settings
from dmr_server.app import routes
from dmr_server.generation import Stamps
from dmr_server.openai.resources import ROOTS
from dmr_server.openapi import document

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CONFIGURATION = ROOT / "docs" / "configuration.md"
README = ROOT / "README.md"
MADE_BY_CODE = "a fresh private folder"  # the default of DMR_RUNTIME_DIR is no value that one could set


def rows(page: Path) -> Iterator[list[str]]:
    """The cells of all tables of a page."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def documented_settings() -> dict[str, str]:
    found = [(cells[0].strip("`"), cells[1]) for cells in rows(CONFIGURATION) if cells[0].startswith("`")]
    assert len(dict(found)) == len(found), "a variable is there twice"
    return dict(found)


def test_every_variable_is_documented_and_no_other() -> None:
    assert set(documented_settings()) == {*VARIABLES, "MODEL_RUNNER_HOST", "DMR_CONFIG"}


@pytest.mark.parametrize("variable", sorted(VARIABLES))
def test_every_key_of_the_settings_file_is_documented(variable: str) -> None:
    row = VARIABLES[variable]
    key = row.key if row.kind is Alias else f"{row.section}.{row.key}"
    found = next(cells for cells in rows(CONFIGURATION) if cells[0] == f"`{variable}`")
    assert found[2] == f"`{key}`", "| Variable | Default | Key | Meaning |"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_files_on_the_pages_can_be_read(page: Path, tmp_path: Path) -> None:
    for text in re.findall(r"^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if not re.search(r"^\[(server|engine|registry|aliases|engines\..*)\]$", text, re.MULTILINE):
            continue  # another program's
        (tmp_path / "config.toml").write_text(text, encoding="utf-8")
        assert read_settings({"DMR_CONFIG": str(tmp_path / "config.toml")}) != read_settings({}), text


@pytest.mark.parametrize("variable", sorted(VARIABLES))
def test_setting_a_documented_default_changes_nothing(variable: str) -> None:
    default = documented_settings()[variable]
    if variable == "DMR_RUNTIME_DIR":
        assert default == MADE_BY_CODE
        assert read_settings({}).runtime_dir is None
        return
    if default == "none":
        field = VARIABLES[variable].field
        assert not operator.attrgetter(field)(read_settings({}))
        return
    assert re.fullmatch(r"`\S+`", default)
    assert read_settings({variable: default.strip("`")}) == read_settings({})


def test_the_default_server_of_the_command_line_is_the_documented_one() -> None:
    assert documented_settings()["MODEL_RUNNER_HOST"] == f"`{DEFAULT_ADDRESS}`"


def served_routes() -> set[str]:
    """Every address once, by its usual name."""
    paths = document(routes(FakeService(), read_settings({}), Stamps()), "0")["paths"]
    return {path for path, item in paths.items() if "x-alias-of" not in item}


def documented_routes() -> set[str]:
    cells = [row[0] for row in rows(README) if row[0].startswith("`/")]
    return {route.partition("?")[0] for cell in cells for route in re.findall(r"`([^`]+)`", cell)}


def test_every_route_is_in_the_readme_and_no_other() -> None:
    assert documented_routes() == served_routes()


@pytest.mark.parametrize("root", ROOTS)
def test_the_readme_names_every_root(root: str) -> None:
    assert f"`{root}`" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    for target in targets:
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_pages_of_the_dialects_are_those_that_their_tables_make() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "generate_dialects.py"))["pages"]()
    found = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("docs/dialects/*")}
    assert found == made, "run: python docs/generate_dialects.py"


def make_targets() -> dict[str, str]:
    """Target -> what `make help` says of it."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z][a-z-]*):.*?## (.+)$", makefile, re.MULTILINE))


def test_every_make_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert set(phony.split()) == set(make_targets())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_make_targets_that_a_page_names_exist(page: Path) -> None:
    commands = re.findall(r"(?:^\$ |`)(?:\w+=\S+ )*make ([a-z -]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    named = {target for command in commands for target in command.split() if not target.startswith("-")}
    assert named <= set(make_targets())


def test_the_long_lines_of_prose_are_wrapped() -> None:
    for page in PAGES:
        if page.name == "cli.md":  # made by a program
            continue
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 120 or line.startswith("|"), f"{page.name}:{number}"
