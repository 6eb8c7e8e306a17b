"""Writes docs/dialects/*.md from the tables in the code: `python docs/generate_dialects.py`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

from dmr_server.handling import Field, Route

FOLDER = Path(__file__).parent / "dialects"
TITLES = {
    "openai": "OpenAI",
    "responses": "OpenAI Responses",
    "anthropic": "Anthropic",
    "ollama": "Ollama",
}
MAX_EXAMPLE = 60  # characters


def page_of(package: str) -> str:
    """One dialect's page: a table for each route."""
    module = importlib.import_module(f"dmr_server.{package}.handling")
    return "\n".join(_lines(TITLES[package], (module.__doc__ or "").strip(), module.HANDLING)) + "\n"


def _lines(title: str, introduction: str, routes: tuple[Route, ...]) -> Iterator[str]:
    yield f"# {title}: every documented field"
    yield ""
    yield "Written by `make docs` from the tables in the code; a test sends each example."
    yield "**honoured**: it does what its API says. **ignored**: accepted, without effect. **refused**: a clear error."
    if introduction:
        yield ""
        yield introduction
    for route in routes:
        yield ""
        yield f"## POST {route.path}"
        yield ""
        yield route.summary
        yield ""
        yield "| field | | example | |"
        yield "|---|---|---|---|"
        for name, field in sorted(route.fields.items()):
            yield f"| `{name}` | {field.status} | {_example(field)} | {field.note} |"


def _example(field: Field) -> str:
    text = json.dumps(field.example, ensure_ascii=False).replace("|", "\\|").replace("\n", " ")
    return f"`{text}`" if len(text) <= MAX_EXAMPLE else f"`{text[: MAX_EXAMPLE - 2]} …`"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for package in TITLES:
        (FOLDER / f"{package}.md").write_text(page_of(package), encoding="utf-8")


if __name__ == "__main__":
    main()
