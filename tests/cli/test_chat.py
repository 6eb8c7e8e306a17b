"""The interactive chat, on a pseudo-terminal."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.scripted_server import CHAT, Reply, ScriptedServer, answer, delta

pytest.importorskip("pty")

from cli.terminal import Terminal

PNG = b"\x89PNG\r\n\x1a\nxyz"


@pytest.fixture(autouse=True)
def loading(server: ScriptedServer) -> None:
    server.on(f"PRELOAD {CHAT}", Reply(b""))


@pytest.fixture
def chat(server: ScriptedServer) -> Iterator[Terminal]:
    server.on("GET /models/m", {"id": "sha256:1"})
    with Terminal("--server", server.url, "run", "m") as terminal:
        terminal.expect(r"Send a message \(/\? for help\)\.\n> ")
        yield terminal


def requests(server: ScriptedServer) -> list[Any]:
    """What was asked for; a load in advance is not."""
    return [asked.json for asked in server.asked if asked.method == "POST" and "X-Preload-Only" not in asked.headers]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_two_turns_send_the_history_and_bye_leaves(chat: Terminal, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("Good ", "day."), answer("Fine."))
    chat.type("Hello\n")
    chat.expect(r"Good day\.\n.*> ")
    chat.type("How are you?\n")
    chat.expect(r"Fine\.\n.*> ")
    chat.type("/bye\n")
    assert chat.exit_status() == 0
    first, second = requests(server)
    assert first["messages"] == [user("Hello")]
    assert second["messages"] == [user("Hello"), assistant("Good day."), user("How are you?")]


def test_the_model_is_loaded_while_the_first_message_is_typed(chat: Terminal, server: ScriptedServer) -> None:
    chat.type("Hel")
    deadline = time.monotonic() + 20
    while not any("X-Preload-Only" in asked.headers for asked in server.asked):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    chat.type("\n/bye\n")


def test_ctrl_d_leaves(chat: Terminal) -> None:
    chat.type("\x04")
    assert chat.exit_status() == 0


def test_ctrl_c_at_the_prompt_tells_how_to_leave(chat: Terminal) -> None:
    chat.type("half a li")
    chat.expect("half a li")
    chat.interrupt()
    chat.expect(r"Use Ctrl-D or /bye to exit\.\n> ")
    chat.type("/exit\n")
    assert chat.exit_status() == 0


def test_ctrl_c_stops_the_answer_and_keeps_the_chat(chat: Terminal, server: ScriptedServer) -> None:
    def endless() -> Iterator[bytes]:
        yield delta(content="It goes")
        while not server.client_left.wait(0.01):
            yield b": still here\n\n"

    server.on(f"POST {CHAT}", Reply(content_type="text/event-stream", pieces=endless()), answer("Yes."))
    chat.type("Tell me a story\n")
    chat.expect("It goes")
    chat.interrupt()
    chat.expect(r"\nStopped\.\n> ")
    assert server.client_left.wait(10), "the connection must be closed, so that the server stops computing"
    chat.type("Are you there?\n")
    chat.expect(r"Yes\.\n.*> ")
    assert requests(server)[1]["messages"] == [user("Tell me a story"), assistant("It goes"), user("Are you there?")]


def test_ctrl_c_before_the_answer_begins(chat: Terminal, server: ScriptedServer) -> None:
    asked, enough = threading.Event(), threading.Event()

    def silent() -> Iterator[bytes]:
        asked.set()
        enough.wait(20)
        yield delta(content="too late")

    server.on(f"POST {CHAT}", Reply(content_type="text/event-stream", pieces=silent()), answer("Yes."))
    chat.type("Hello\n")
    assert asked.wait(20)
    chat.interrupt()
    chat.expect(r"Stopped\.\n> ")
    enough.set()
    chat.type("Again\n")
    chat.expect(r"Yes\.\n.*> ")
    assert requests(server)[1]["messages"] == [user("Again")]


def test_an_error_keeps_the_chat_and_forgets_the_question(chat: Terminal, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", Reply(b'{"error":{"message":"Queue is full."}}', 503), answer("Yes."))
    chat.type("One\n")
    chat.expect(r"Error: Queue is full\.\n> ")
    chat.type("Two\n")
    chat.expect(r"Yes\.\n.*> ")
    assert requests(server)[1]["messages"] == [user("Two")]


def test_a_message_of_several_lines(chat: Terminal, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("ok"))
    chat.type('"""first\n')
    chat.expect(r"\. ")
    chat.type("  second\n")
    chat.expect(r"\. ")
    chat.type('third"""\n')
    chat.expect(r"ok\n.*> ")
    chat.type('"""one line"""\n')
    chat.expect(r"ok\n.*> ")
    assert requests(server)[0]["messages"] == [user("first\n  second\nthird")]
    assert requests(server)[1]["messages"][-1] == user("one line")


def test_settings_change_the_next_request(chat: Terminal, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("ok"))
    for line in ("/system Be brief.", "/set temperature 0.2", "/set max_tokens 50", "/set seed 1", "/set seed"):
        chat.type(line + "\n")
        chat.expect("> ")
    chat.type("/set\n")
    chat.expect(r"system: Be brief\.\n  temperature: 0\.2\n  top_p: default\n.*  max_tokens: 50\n  seed: default\n")
    chat.expect(r"  think: default\n  verbose: off\n> ")
    chat.type("Hello\n")
    chat.expect(r"ok\n.*> ")
    chat.type("/clear\n")
    chat.expect(r"forgotten\.\n> ")
    chat.type("/set system\n")
    chat.expect(r"removed\.\n> ")
    chat.type("Hello\n")
    chat.expect(r"ok\n.*> ")
    first, second = requests(server)
    assert first["messages"] == [{"role": "system", "content": "Be brief."}, user("Hello")]
    assert (first["temperature"], first["max_tokens"], "seed" in first) == (0.2, 50, False)
    assert second["messages"] == [user("Hello")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/set temperature hot", r"Error: temperature: 'hot' is not a valid float"),
        ("/set top_p 2", r"Error: top_p: 2.* is not in the range"),
        ("/set parameter top_p 2", r"Error: top_p: 2.* is not in the range"),
        ("/set think hard", r"Error: think: 'hard' is not one of"),
        ("/set num_ctx many", r"Error: num_ctx: give a number of tokens"),
        ("/set colour red", r"There is no setting colour"),
        ("/save", r"Give the name of a file, as in /save talk\.json"),
        ("/load nosuch.json", r"Error: nosuch\.json cannot be read: No such file"),
        ("/? files", r"@photo\.png"),
        ("/? set", r"/set num_ctx N"),
        ("/? shortcuts", r"Ctrl-R"),
        ("/dance", r"There is no command /dance"),
        ("/", r"There is no command /\."),
        ("/?", r"/clear"),
        ("/help", r"/clear"),
        ("", r""),
    ],
)
def test_commands_that_ask_nothing(chat: Terminal, server: ScriptedServer, line: str, said: str) -> None:
    chat.type(line + "\n")
    chat.expect(said + r".*> ")
    chat.type("/bye\n")
    assert chat.exit_status() == 0
    assert requests(server) == []


def test_the_next_chat_remembers_what_was_typed(server: ScriptedServer, tmp_path: Path) -> None:
    pytest.importorskip("readline")
    server.on("GET /models/m", {"id": "sha256:1"})
    server.on(f"POST {CHAT}", answer("ok"))
    arguments = ("--server", server.url, "run", "m")
    with Terminal(*arguments) as first:
        first.expect("> ")
        first.type("Remember me\n")
        first.expect(r"ok\n.*> ")
        first.type("\x04")
        assert first.exit_status() == 0
    [history] = (tmp_path / "home").rglob("history")
    assert history.stat().st_mode & 0o077 == 0
    with Terminal(*arguments) as second:
        second.expect("> ")
        second.type("\x10\n")  # Ctrl-P: the line before
        second.expect(r"ok\n.*> ")
    assert requests(server)[1]["messages"] == [user("Remember me")]


def test_no_history_leaves_no_file(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET /models/m", {"id": "sha256:1"})
    with Terminal("--server", server.url, "run", "--no-history", "m") as terminal:
        terminal.expect("> ")
        terminal.type("/bye\n")
        assert terminal.exit_status() == 0
    assert list(tmp_path.rglob("history")) == []


def test_a_chat_without_a_server_does_not_begin(nowhere: str) -> None:
    with Terminal("--server", nowhere, "run", "m") as terminal:
        assert terminal.exit_status() == 1
        assert terminal.screen.startswith("Error: No server answers")


def test_a_model_that_is_missing_is_pulled_before_the_chat(server: ScriptedServer) -> None:
    server.on("POST /models/create", Reply(b'{"type":"success","message":"Model pulled successfully"}\n'))
    with Terminal("--server", server.url, "run", "m") as terminal:
        terminal.expect("Unable to find model 'm' locally. Pulling from the server.\nModel pulled successfully\n")
        terminal.expect("> ")
        terminal.type("/bye\n")
        assert terminal.exit_status() == 0


def test_a_model_that_cannot_be_pulled_is_told_before_the_chat(server: ScriptedServer) -> None:
    server.on("POST /models/create", Reply(b"Model not found\n", 404))
    with Terminal("--server", server.url, "run", "m") as terminal:
        assert terminal.exit_status() == 1
        assert "Error: There is no model m" in terminal.screen


def test_a_name_that_only_the_server_understands_is_not_pulled(server: ScriptedServer) -> None:
    server.on("GET /engines/v1/models/gpt-5", {"id": "gpt-5"})
    with Terminal("--server", server.url, "run", "gpt-5") as terminal:
        terminal.expect("> ")
        terminal.type("\x04")
        assert terminal.exit_status() == 0
    assert requests(server) == []


def test_files_go_along_with_a_message(chat: Terminal, server: ScriptedServer, tmp_path: Path) -> None:
    server.on(f"POST {CHAT}", answer("ok"))
    (tmp_path / "notes.txt").write_text("buy milk\n")
    (tmp_path / "my pic").write_bytes(PNG)
    chat.type(f"What is in @{tmp_path}/notes.txt? Not @me.\n")
    chat.expect(r"ok\n.*> ")
    chat.type(f'And @"{tmp_path}/my pic"\n')
    chat.expect(r"ok\n.*> ")
    first, second = requests(server)
    quoted = f"What is in @{tmp_path}/notes.txt? Not @me.\n\n{tmp_path}/notes.txt:\n```\nbuy milk\n```"
    assert first["messages"] == [user(quoted)]
    text, image = second["messages"][-1]["content"]
    assert text == {"type": "text", "text": "And "}
    assert image["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def test_tab_completes_commands_and_files(chat: Terminal, server: ScriptedServer, tmp_path: Path) -> None:
    pytest.importorskip("readline")
    server.on(f"POST {CHAT}", answer("ok"))
    (tmp_path / "notes.txt").write_text("buy milk")
    chat.type("/sho\t\n")
    chat.expect(r"Model:       sha256:1\n.*> ")
    chat.type(f"See @{tmp_path}/no\t\n")
    chat.expect(r"ok\n.*> ")
    assert "buy milk" in requests(server)[0]["messages"][0]["content"]


def test_a_conversation_is_saved_and_goes_on(chat: Terminal, server: ScriptedServer, tmp_path: Path) -> None:
    server.on(f"POST {CHAT}", answer("ok"))
    path = tmp_path / "talk.json"
    for line, said in [
        ("/system Be brief.", "set"),
        ("Hello", "ok"),
        (f"/save {path}", "saved"),
        (f"/save {path}", "File exists"),
        ("/clear", "forgotten"),
        ("/system", "removed"),
        (f"/load {path}", "goes on after 2 messages"),
        ("Again", "ok"),
    ]:
        chat.type(line + "\n")
        chat.expect(f"{said}.*> ")
    assert path.stat().st_mode & 0o077 == 0
    system = {"role": "system", "content": "Be brief."}
    assert requests(server)[-1]["messages"] == [system, user("Hello"), assistant("ok"), user("Again")]


def test_the_model_is_shown(chat: Terminal) -> None:
    chat.type("/show\n")
    chat.expect(r"Model:       sha256:1\n.*> ")


def test_the_context_is_set_for_the_next_load(chat: Terminal, server: ScriptedServer) -> None:
    server.on("POST /engines/_configure", Reply(b"", 202))
    chat.type("/set num_ctx 8192\n")
    chat.expect("context of 8192 tokens.*> ")
    assert requests(server) == [{"model": "m", "context-size": 8192}]


def test_thinking_and_statistics_can_be_switched(chat: Terminal, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("ok"))
    for line in ("/set think off", "/set verbose on"):
        chat.type(line + "\n")
        chat.expect("> ")
    chat.type("Hello\n")
    chat.expect(r"prompt tokens: +7\n.*> ")
    chat.type("/set think high\n")
    chat.expect("> ")
    chat.type("Hello\n")
    chat.expect(r"prompt tokens: +7\n.*> ")
    first, second = requests(server)
    assert (first["enable_thinking"], "reasoning_effort" in first) == (False, False)
    assert (second["reasoning_effort"], "enable_thinking" in second) == ("high", False)


@pytest.mark.parametrize("variable", ["DMR_NO_HISTORY", "DOCKER_MODEL_NOHISTORY"])
def test_a_variable_keeps_history_away(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    server.on("GET /models/m", {"id": "sha256:1"})
    with Terminal("--server", server.url, "run", "m") as terminal:
        terminal.expect("> ")
        terminal.type("/bye\n")
        assert terminal.exit_status() == 0
    assert list(tmp_path.rglob("history")) == []
