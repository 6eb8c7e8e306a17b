from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import Run
from cli.scripted_server import CHAT, Reply, ScriptedServer, answer, delta, event

ROOT = Path(__file__).parents[2]


def stream(pieces: Any, drop: bool = False) -> Reply:
    return Reply(content_type="text/event-stream", pieces=pieces, drop=drop)


def test_a_prompt_gets_its_answer_on_stdout_and_nothing_on_stderr(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("Ray", "leigh ", "ä😀"))
    result = dmr("run", "smollm2", "Why", "is the sky blue?", input="")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Rayleigh ä😀\n", "")
    assert server.asked[0].json == {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("prompt", "piped", "content"),
    [
        (["Summarize:"], "line 1\nline 2\n", "Summarize:\n\nline 1\nline 2"),
        ([], "only stdin ä\n", "only stdin ä"),
        (["--", "-x"], "", "-x"),
        (["Hello"], " \n", "Hello"),
    ],
)
def test_stdin_is_put_after_the_prompt(
    dmr: Run, server: ScriptedServer, prompt: list[str], piped: str, content: str
) -> None:
    server.on(f"POST {CHAT}", answer("ok"))
    assert dmr("run", "m", *prompt, input=piped).exit_code == 0
    assert server.asked[0].json["messages"] == [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("piped", "message"),
    [("", "There is nothing to ask"), (b"\xff\xfe\x00", "is not UTF-8 text")],
)
def test_stdin_that_is_no_prompt(dmr: Run, server: ScriptedServer, piped: Any, message: str) -> None:
    result = dmr("run", "m", input=piped)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert server.asked == []


def test_options_reach_the_request(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("ok"))
    flags = "--system Brief. --temperature 0 --top-p 0.5 --max-tokens 9 --seed -3"
    dmr("run", *flags.split(), "m", "Hello")
    asked = server.asked[0].json
    assert asked["messages"][0] == {"role": "system", "content": "Brief."}
    assert [asked[k] for k in ("temperature", "top_p", "max_tokens", "seed")] == [0, 0.5, 9, -3]


@pytest.mark.parametrize(
    "flags", [["--temperature", "-1"], ["--top-p", "1.1"], ["--max-tokens", "0"], ["--seed", "x"], ["--color", "red"]]
)
def test_options_out_of_range_are_wrong_usage(dmr: Run, server: ScriptedServer, flags: list[str]) -> None:
    assert dmr("run", *flags, "m", "Hello").exit_code == 2
    assert server.asked == []


def test_reasoning_is_not_in_the_answer_that_is_piped(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("42", reasoning="Let me think."))
    result = dmr("run", "m", "Hello")
    assert (result.stdout, result.stderr) == ("42\n", "")


def test_what_is_piped_is_the_exact_text(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("\x1b[1mbold\x1b[0m\r\n\n"))
    assert dmr("run", "m", "Hello").stdout_bytes == b"\x1b[1mbold\x1b[0m\r\n\n"


def test_an_empty_answer_is_no_error(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer())
    result = dmr("run", "m", "Hello")
    assert (result.exit_code, result.stdout) == (0, "")


def test_verbose_puts_statistics_on_stderr(dmr: Run, server: ScriptedServer) -> None:
    usage = {"prompt_tokens": 70, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 64}}
    server.on(f"POST {CHAT}", answer("a", "b", "c", usage=usage))
    result = dmr("run", "--verbose", "m", "Hello")
    assert result.stdout == "abc\n"
    told = dict(line.split(":") for line in result.stderr.splitlines())
    assert told["prompt tokens"].strip() == "70 (64 cached)"
    assert told["completion tokens"].strip() == "3"
    assert told["time to first token"].endswith(" s")
    assert float(told["speed"].split()[0]) > 0


def test_an_answer_that_was_cut_is_noted(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("a", finish_reason="length"))
    result = dmr("run", "m", "Hello")
    assert (result.exit_code, result.stdout) == (0, "a\n")
    assert "limit of tokens" in result.stderr


@pytest.mark.parametrize("drop", [True, False], ids=["cut", "ended without [DONE]"])
def test_a_dropped_connection_is_told_and_what_came_stays(dmr: Run, server: ScriptedServer, drop: bool) -> None:
    server.on(f"POST {CHAT}", stream([delta(content="Half an ans")], drop=drop))
    result = dmr("run", "m", "Hello")
    assert (result.exit_code, result.stdout) == (1, "Half an ans\n")
    assert result.stderr == "Error: The server closed the connection before the answer was complete.\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"message": "The engine process died.", "code": "engine_crashed"}, "The engine process died."),
        ("as text", "as text"),
        ({}, "The answer failed."),
    ],
)
def test_an_error_in_the_stream(dmr: Run, server: ScriptedServer, error: Any, message: str) -> None:
    server.on(f"POST {CHAT}", stream([delta(content="Half"), event(error=error)]))
    result = dmr("run", "m", "Hello")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "Half\n", f"Error: {message}\n")


@pytest.mark.parametrize("data", [b"data: {broken\n\n", b'data: {"choices": 7}\n\n', b"data: \xff\n\n"])
def test_a_stream_that_cannot_be_read(dmr: Run, server: ScriptedServer, data: bytes) -> None:
    server.on(f"POST {CHAT}", stream([delta(content="Half"), data]))
    result = dmr("run", "m", "Hello")
    assert (result.exit_code, result.stdout) == (1, "Half\n")
    assert "is not a model runner's" in result.stderr


def test_a_body_that_is_not_chunked_is_streamed_too(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", Reply(b"".join(answer("a", "b").pieces or ()), content_type="text/event-stream"))
    assert dmr("run", "m", "Hello").stdout == "ab\n"


@pytest.mark.parametrize("reply", [Reply(b""), Reply(b'{"choices":[]}')])
def test_detach_loads_the_model(dmr: Run, server: ScriptedServer, reply: Reply) -> None:
    server.on(f"POST {CHAT}", reply)
    result = dmr("run", "-d", "m")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "m is loaded.\n")
    assert server.asked[0].headers["X-Preload-Only"] == "true"
    assert server.asked[0].json["model"] == "m"


def test_detach_takes_no_prompt(dmr: Run, server: ScriptedServer) -> None:
    assert dmr("run", "-d", "m", "Hello").exit_code == 2
    assert server.asked == []


def process(server: ScriptedServer, *arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "from dmr.cli.main import main; main()", "--server", server.url, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings.pop("env", {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **settings,
    )


def test_each_piece_is_shown_when_it_comes(server: ScriptedServer) -> None:
    go_on = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield delta(content="first")
        assert go_on.wait(20)
        yield delta(content=" second")
        yield b"data: [DONE]\n\n"

    server.on(f"POST {CHAT}", stream(pieces()))
    with process(server, "run", "m", "Hello") as running:
        assert running.stdout is not None
        assert running.stdout.read(5) == b"first"
        go_on.set()
        assert running.communicate(timeout=20) == (b" second\n", b"")


def endless(server: ScriptedServer) -> Iterator[bytes]:
    while not server.client_left.wait(0.01):
        yield delta(content="word ")


def test_a_reader_that_has_enough_ends_it_quietly(server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", stream(endless(server)))
    with process(server, "run", "m", "Hello") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.read(5) == b"word "
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(20) != 0
    assert server.client_left.wait(10)


def test_ctrl_c_ends_an_answer_quietly_with_130(server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", stream(endless(server)))
    with process(server, "run", "m", "Hello") as running:
        assert running.stdout is not None
        assert running.stdout.read(5) == b"word "
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, err) == (130, b"")
    assert out.endswith(b"\n")
    assert server.client_left.wait(10)


def test_an_output_without_unicode_still_gets_the_answer(server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("ä is 😀"))
    with process(server, "run", "m", "Hello", env={"PYTHONIOENCODING": "iso-8859-1"}) as running:
        assert running.communicate(timeout=20) == (b"\xe4 is ?\n", b"")


def test_requests_are_valid_json_whatever_the_prompt(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("ok"))
    prompt = 'quotes " \\ \t\x00 \u2028 😀'
    dmr("run", "m", prompt)
    assert json.loads(server.asked[0].body)["messages"][0]["content"] == prompt


MISSING = Reply(b'{"error":{"message":"The model does not exist.","code":"model_not_found"}}', 404)
PULLED = Reply(b'{"type":"success","message":"Model pulled successfully"}\n')


def test_a_missing_model_is_pulled_and_then_asked(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", MISSING, answer("Hi"))
    server.on("POST /models/create", PULLED)
    result = dmr("run", "m", "Hello")
    assert (result.exit_code, result.stdout) == (0, "Hi\n")
    assert result.stderr == ("Unable to find model 'm' locally. Pulling from the server.\nModel pulled successfully\n")


def test_detach_pulls_too(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", MISSING, Reply(b""))
    server.on("POST /models/create", PULLED)
    assert dmr("run", "-d", "m").exit_code == 0


def test_a_model_that_is_nowhere(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", MISSING)
    server.on("POST /models/create", Reply(b"Model not found\n", 404))
    result = dmr("run", "m", "Hello")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "There is no model m" in result.stderr


def test_json_is_one_object(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("4", "2", reasoning="Hm"))
    told = json.loads(dmr("run", "--json", "m", "Hello").stdout)
    assert told == {
        "model": "m",
        "content": "42",
        "reasoning": "Hm",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }


def test_an_image_goes_along_and_the_servers_refusal_is_shown(dmr: Run, server: ScriptedServer, tmp_path: Path) -> None:
    image = tmp_path / "x.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n")
    server.on(f"POST {CHAT}", Reply(b'{"error":{"message":"This model takes no images."}}', 400))
    result = dmr("run", "--image", str(image), "m", "What is this?")
    assert result.stderr == "Error: This model takes no images.\n"
    assert [part["type"] for part in server.asked[0].json["messages"][0]["content"]] == ["image_url", "text"]


def test_a_file_is_put_into_the_prompt_but_not_into_what_is_piped(
    dmr: Run, server: ScriptedServer, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("A")
    server.on(f"POST {CHAT}", answer("ok"))
    dmr("run", "m", f"See @{tmp_path}/a.txt", input=f"@{tmp_path}/a.txt")
    assert server.asked[0].json["messages"][0]["content"] == (
        f"See @{tmp_path}/a.txt\n\n{tmp_path}/a.txt:\n```\nA\n```\n\n@{tmp_path}/a.txt"
    )


def test_thinking_is_asked_for(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("ok"))
    dmr("run", "--think", "off", "--top-k", "5", "m", "Hello")
    assert (server.asked[0].json["enable_thinking"], server.asked[0].json["top_k"]) == (False, 5)


def test_markdown_is_rendered_into_a_pipe_when_asked_for(dmr: Run, server: ScriptedServer) -> None:
    server.on(f"POST {CHAT}", answer("**bold**"))
    assert "\x1b[1mbold" in dmr("run", "--color", "yes", "m", "Hello").stdout
    assert dmr("run", "m", "Hello").stdout == "**bold**\n"


def test_another_server_is_asked_and_nothing_is_pulled(lonely_dmr: Run, server: ScriptedServer) -> None:
    server.on("POST /v1/chat/completions", answer("Hi"), MISSING)
    asked = ("run", "--openaiurl", f"{server.url}/v1", "gpt-5", "Hello")
    assert lonely_dmr(*asked).stdout == "Hi\n"
    result = lonely_dmr(*asked)
    assert (result.exit_code, result.stderr) == (1, "Error: The model does not exist.\n")
    assert [one.path for one in server.asked] == ["/v1/chat/completions"] * 2
