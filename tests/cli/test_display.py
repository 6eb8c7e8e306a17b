"""What a terminal shows of an answer."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cli.scripted_server import CHAT, Reply, ScriptedServer, answer, delta
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from dmr.cli.markdown import MarkdownStream, blocks_of

pytest.importorskip("pty")

from cli.terminal import Terminal

USAGE = "Token usage: 7 prompt + 1 completion = 8 total\n"


def once(server: ScriptedServer, *flags: str, **settings: Any) -> str:
    with Terminal("--server", server.url, "run", *flags, "m", "Hello", **settings) as terminal:
        assert terminal.exit_status() == 0
        return terminal.screen


def test_a_terminal_shows_the_reasoning_dim_before_the_answer(server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("42", reasoning="Hm"))
    dim, end = "\x1b[2m", "\x1b[0m"
    assert once(server).replace(end, "").replace(dim, "") == f"Thinking:\nHm\n--\n42\n{USAGE}"
    assert f"{dim}Hm{end}" in once(server)
    assert once(server, "--color", "no") == f"Thinking:\nHm\n--\n42\n{USAGE}"


def test_no_color_is_honoured(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    server.on(f"POST {CHAT}", answer("**42**", reasoning="Hm"))
    assert once(server, term="xterm") == f"Thinking:\nHm\n--\n**42**\n{USAGE}"


def test_an_answer_cannot_drive_the_terminal(server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("\x1b]0;owned\x07\x1b[2Jsafe\n"))
    assert once(server, "--color", "no") == f"]0;owned[2Jsafe\n{USAGE}"
    rendered = once(server, term="xterm")
    assert "\x1b]" not in rendered
    assert "\x1b[2J" not in rendered


def test_markdown_is_rendered_on_a_terminal(server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("Some **bold", "** text.\n\n- one\n", "- two\n"))
    screen = once(server, term="xterm")
    assert "\x1b[1mbold\x1b[0m" in screen
    assert "**" not in screen.split("\x1b[1mbold\x1b[0m")[-1]
    assert " • " in screen


def test_a_finished_block_stays_while_the_next_one_comes(server: ScriptedServer) -> None:
    go_on = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield delta(content="**First** block.\n\nSecond *bl")
        go_on.wait(20)
        yield delta(content="ock*.")
        yield b"data: [DONE]\n\n"

    server.on(f"POST {CHAT}", Reply(content_type="text/event-stream", pieces=pieces()))
    with Terminal("--server", server.url, "run", "m", "Hello", term="xterm") as terminal:
        terminal.expect("First.* block\\.")
        terminal.expect(r"Second \*bl")
        go_on.set()
        terminal.expect("Second .*block.*\\.")
        assert terminal.exit_status() == 0


def rendered(*pieces: str, width: int = 40) -> str:
    out = io.StringIO()
    stream = MarkdownStream(Console(file=out, width=width, color_system=None), is_live=False)
    for piece in pieces:
        stream.feed(piece)
    stream.end()
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_blocks_are_apart_and_lines_stay_lines() -> None:
    assert rendered("Roses are red,\nviolets are blue.\n\nEnd.") == "Roses are red,\nviolets are blue.\n\nEnd."


def test_what_looks_like_html_is_text() -> None:
    assert rendered("Use <div> and\n\n<b>this</b>\n") == "Use <div> and\n\n<b>this</b>"


def test_an_address_is_seen() -> None:
    assert rendered("[here](https://example.test/x)", width=80) == "here (https://example.test/x)"


def test_nothing_is_printed_for_nothing() -> None:
    assert rendered() == rendered("") == rendered("\n\n") == ""


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("", ""),
        ("\n", "\n"),
        ("one", "one"),
        ("one\n\ntwo", "two"),
        ("# head\ntext\n", "text\n"),
        ("```\na\n\nb\n", "```\na\n\nb\n"),
        ("x\n\n```\na\n\nb\n```\ny", "y"),
        ("- a\n\n- b\n\n  more\n", "- a\n\n- b\n\n  more\n"),
        ("x\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", "| a | b |\n|---|---|\n| 1 | 2 |\n"),
        ("> a\n> b\n\nc\n", "c\n"),
    ],
)
def test_the_last_block_is_the_one_that_can_still_change(text: str, last: str) -> None:
    assert blocks_of(text)[-1] == last


TEXT = "# Head\n\nSome *text* here\nand `code`.\n\n1. one\n2. two\n\n   more\n\n```python\nx = 1\n\ny = 2\n```\n\nEnd."


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(TEXT)), max_size=8))
def test_the_same_is_shown_however_the_text_is_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(TEXT)]
    pieces = [TEXT[start:end] for start, end in itertools.pairwise(places)]
    assert rendered(*pieces) == rendered(TEXT)
