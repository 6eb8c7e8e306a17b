"""Templates that would take a server down: they end the process that renders them, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from unit.service_scene import INFO

from dmr import _core
from dmr.chat import template_processes
from dmr.chat.sandboxed_template import SandboxedTemplate
from dmr.chat.template import PromptTemplate
from dmr.chat.template_processes import TemplateProcesses
from dmr.errors import InvalidRequest, Unavailable
from dmr.types import ChatInput, Message, Role, TextPart
from dmr.wire import EngineInfo

GOOD = "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
TOO_LONG = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
TOO_DEEP = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"
HOSTILE = {
    "endless loops": TOO_LONG,
    "a macro that calls itself": TOO_DEEP,
    "text that doubles": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a long range": "{% for i in range(1000000000000) %}{% endfor %}",
    "a long text": "{{ 'abc' * 1000000000000 }}",
    "a deep nest": "{% set n = namespace(x=[]) %}{% for i in range(300000) %}{% set n.x = [n.x] %}{% endfor %}",
    "a slow search": "{% set a = 'a' * 300000 %}{% set b = 'a' * 150000 ~ 'b' %}{% for i in range(9999) %}"
    "{{ b in a }}{% endfor %}",
    "a long separator": "{{ range(1000) | join('x' * 10000000) }}",
}
WORDS = ("takes more than", "makes the process crash")


@pytest.fixture
def strict() -> Iterator[TemplateProcesses]:
    """Processes that are allowed little."""
    made = TemplateProcesses(cpu_seconds=0.3, memory_bytes=128 << 20)
    yield made
    made.close()


def template(source: str, processes: TemplateProcesses) -> SandboxedTemplate:
    return SandboxedTemplate(source, "", "", False, processes)


def request(text: str = "hi") -> _core.ChatRequest:
    made = _core.ChatRequest()
    made.messages = json.dumps([{"role": "user", "content": text}])
    return made


def when_asked(hostile: str) -> str:
    return "{% if messages[0].content == 'now' %}" + hostile + "{% endif %}" + GOOD


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_template_that_never_ends_well_is_refused_for_good(source: str, strict: TemplateProcesses) -> None:
    messages = []
    for _ in range(2):
        with pytest.raises(InvalidRequest) as caught:
            template(source, strict).render(request())
        messages.append(caught.value.message)
    assert caught.value.param == "model"
    assert any(words in messages[0] for words in WORDS)
    assert template(GOOD, strict).render(request()).text == "user: hi\n"


@pytest.mark.parametrize("source", [TOO_LONG, TOO_DEEP, HOSTILE["a long text"]], ids=["time", "stack", "memory"])
def test_a_conversation_that_makes_it_hostile_harms_no_other(source: str, strict: TemplateProcesses) -> None:
    trap = template(when_asked(source), strict)
    with pytest.raises(InvalidRequest, match="for this conversation") as caught:
        trap.render(request("now"))
    assert any(words in caught.value.message for words in WORDS)
    assert trap.render(request("later")).text == "user: later\n"


def test_what_breaks_at_once_is_not_tried_again(strict: TemplateProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="it cannot be used"):
        template(TOO_DEEP, strict)

    def refuse(*_: object) -> None:
        raise AssertionError("another process was asked")

    monkeypatch.setattr(template_processes, "_Process", refuse)
    with pytest.raises(InvalidRequest, match="it cannot be used"):
        template(TOO_DEEP, strict)


def test_the_prompt_is_that_of_the_native_template(strict: TemplateProcesses) -> None:
    made = request("hé \U0001f600")
    made.tools = '[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]'
    native = _core.ChatTemplate(INFO.chat_template)
    sandboxed = template(INFO.chat_template, strict)
    assert sandboxed.render(made).state == native.render(made).state
    assert sandboxed.capabilities == native.capabilities


@pytest.mark.parametrize(
    ("source", "messages", "error"),
    [
        (GOOD, "[", ValueError),
        (GOOD, '[{"role": 1}]', ValueError),
        ("{{ raise_exception('no!') }}", '[{"role":"user","content":"x"}]', _core.TemplateError),
    ],
)
def test_refusals_are_those_of_the_native_template(
    source: str, messages: str, error: type[Exception], strict: TemplateProcesses
) -> None:
    made = _core.ChatRequest()
    made.messages = messages
    sandboxed = template(source, strict)
    with pytest.raises(error):
        sandboxed.render(made)
    assert template(GOOD, strict).render(request()).text == "user: hi\n"


def test_what_cannot_be_parsed_is_told(strict: TemplateProcesses) -> None:
    with pytest.raises(_core.TemplateError, match="cannot be parsed"):
        template("{% for %}", strict)


def test_what_is_no_text_is_told(strict: TemplateProcesses) -> None:
    with pytest.raises(UnicodeEncodeError):
        template("\ud800", strict)
    assert len(strict._idle) == 1, "the process has heard nothing of it"


def test_a_process_that_died_idle_is_nobody_s_fault(strict: TemplateProcesses) -> None:
    made = template(GOOD, strict)
    (idle,) = strict._idle
    os.kill(idle._process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, idle._process.pid, os.WEXITED | os.WNOWAIT)
    assert made.render(request()).text == "user: hi\n"


def test_a_process_that_was_ended_at_work_is_not_the_template_s_fault() -> None:
    with contextlib.closing(TemplateProcesses(cpu_seconds=60.0, memory_bytes=128 << 20)) as patient:
        trap = template(when_asked(TOO_LONG), patient)
        (only,) = patient._idle
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(trap.render, request("now"))
            while not patient._busy:
                time.sleep(0.001)
            only._process.kill()
            assert isinstance(asked.exception(), Unavailable)
        assert trap.render(request("later")).text == "user: later\n"


def test_one_template_leaves_a_process_for_the_others(strict: TemplateProcesses) -> None:
    trap = template(when_asked(TOO_LONG), strict)
    other = template(GOOD, strict)
    with ThreadPoolExecutor(8) as threads:
        bad = [threads.submit(trap.render, request("now")) for _ in range(6)]
        while strict._busy.total() < template_processes.MAX_PROCESSES - 1:
            time.sleep(0.001)
        assert other.render(request()).text == "user: hi\n"
        assert not all(each.done() for each in bad), "the others had ended already"
        assert all(isinstance(each.exception(), InvalidRequest) for each in bad)


def test_more_requests_than_processes_take_turns(strict: TemplateProcesses) -> None:
    first, second = template(GOOD, strict), template("second " + GOOD, strict)
    with ThreadPoolExecutor(16) as threads:
        texts = list(
            threads.map(lambda number: (first, second)[number % 2].render(request(str(number))).text, range(64))
        )
    assert texts == [f"{'second ' * (number % 2)}user: {number}\n" for number in range(64)]
    assert not strict._busy
    assert not strict._waiting
    assert len(strict._idle) <= template_processes.MAX_PROCESSES


def test_a_request_does_not_wait_for_ever(strict: TemplateProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    made = template(GOOD, strict)
    monkeypatch.setattr(template_processes, "PATIENCE", 0.01)
    monkeypatch.setattr(template_processes, "MAX_PROCESSES", 0)
    with pytest.raises(Unavailable) as caught:
        made.render(request())
    assert caught.value.retry_after


def test_processes_too_many_end_when_they_are_not_needed(
    strict: TemplateProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap, good = template(when_asked("{% for i in range(500) %}{% endfor %}"), strict), template(GOOD, strict)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(trap.render, [request("now")] * 6))
    monkeypatch.setattr(template_processes, "IDLE_SECONDS", -1.0)
    for _ in range(4):
        good.render(request())
    assert len(strict._idle) == 1


def test_they_end_with_the_process_that_they_work_for() -> None:
    program = """
        import os, sys
        from dmr.chat.sandboxed_template import SandboxedTemplate
        from dmr.chat.template_processes import processes
        SandboxedTemplate("{{ messages }}", "", "", False)
        print(processes._idle[0]._process.pid, flush=True)
        os._exit(0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=True
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if "Z" in _state(pid):  # ended, and nobody has asked for its status
            return
        time.sleep(0.02)
    raise AssertionError("it is still there")


def _state(pid: int) -> str:
    return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout


def of_model(source: str) -> EngineInfo:
    return msgspec.structs.replace(INFO, chat_template=source)


def chat(text: str, **fields: Any) -> ChatInput:
    return ChatInput((Message(Role.USER, (TextPart(text),)),), **fields)


def test_a_model_s_template_and_a_request_s_are_rendered_elsewhere() -> None:
    with pytest.raises(InvalidRequest, match="makes the process crash"):
        PromptTemplate(of_model(TOO_DEEP))
    model = PromptTemplate(of_model(when_asked(TOO_DEEP)))
    with pytest.raises(InvalidRequest, match="makes the process crash"):
        model.render(chat("now"), None)
    with pytest.raises(InvalidRequest, match="makes the process crash"):
        model.render(chat("now", template=TOO_DEEP), None)
    assert "user: hi" in model.render(chat("hi"), None).text
