from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from unit.scripted_peer import scripted_peer
from unit.service_scene import END, LOGPROB, RECORD, STOP, WEATHER, Scene, answer, chat, raw, unhurried

from dmr import client
from dmr.config import Settings
from dmr.errors import (
    DmrError,
    EngineCrashed,
    InternalError,
    InvalidModelFile,
    InvalidReference,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    Overloaded,
    StoreError,
    Unavailable,
)
from dmr.service import Service, leasing
from dmr.service.uploads import uploaded_file
from dmr.types import (
    ChatInput,
    Completed,
    Finished,
    FinishReason,
    GenerateRequest,
    ResponseFormat,
    SamplingParams,
    Started,
    TextDelta,
    Tick,
    Tool,
    ToolCallDelta,
    ToolCallStart,
    ToolChoice,
    collect,
)
from dmr.wire import (
    EngineInfo,
    EngineOutput,
    EngineStarted,
    WireError,
    engine_query_decoder,
)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(client, "TICK", 0.02)
    monkeypatch.setattr(leasing, "RETRY_DELAY", 0.01)
    with scripted_peer(tmp_path / "engine.sock", engine_query_decoder) as engine:
        made = Scene(engine, tmp_path)
        yield made
        made.manager.assert_all_returned()


# --- completions -----------------------------------------------------------------------------------------------------


def test_a_completion_passes_through(scene: Scene) -> None:
    scene.engine.plays(
        EngineStarted(2),
        EngineOutput(0, "", (LOGPROB,)),
        EngineOutput(0, "Hello", (LOGPROB,)),
        EngineOutput(0, "", finish_reason=STOP, stop_sequence="END"),
        END,
    )
    assert scene.events(raw(keep_alive=5.0, stop=("END",))) == [
        Started(2),
        TextDelta(0, "", (LOGPROB,)),
        TextDelta(0, "Hello", (LOGPROB,)),
        Finished(0, STOP, "END"),
        Completed(END.usage, END.timings),
    ]
    assert scene.manager.asked == [("ai/x", 5.0, None)]


def test_the_engine_gets_what_was_asked(scene: Scene) -> None:
    scene.engine.plays(END)
    sampling = SamplingParams(seed=3)
    scene.events(
        raw("a", "b", sampling=sampling, num_choices=2, max_tokens=7, stop=("X",), num_logprobs=4, client="me")
    )
    (request,) = scene.engine.requests
    assert request.prompts == ("a", "b")
    assert (request.sampling, request.num_choices, request.max_tokens) == (sampling, 2, 7)
    assert (request.stop, request.num_logprobs, request.client, request.grammar) == (("X",), 4, "me", None)


def test_a_completion_can_have_a_form(scene: Scene) -> None:
    scene.engine.plays(END)
    scene.events(raw(response_format=ResponseFormat(grammar='root ::= "x"')))
    scene.engine.plays(END)
    scene.events(raw(response_format=ResponseFormat(json_schema='{"type":"integer"}')))
    first, second = scene.engine.requests
    assert first.grammar.text == 'root ::= "x"'
    assert "root ::=" in second.grammar.text
    for wrong in ("no json", '{"type": "wishful"}'):
        with pytest.raises(InvalidRequest):
            scene.events(raw(response_format=ResponseFormat(json_schema=wrong)))


def test_silence_brings_ticks(scene: Scene) -> None:
    scene.manager.steps = [None, None]
    scene.engine.plays(0.1, EngineStarted(2), 0.1, END)
    events = list(scene.service.generate(raw()))
    assert events[:2] == [Tick(), Tick()]
    assert events.count(Tick()) >= 5
    assert [unhurried(event) for event in events if event != Tick()] == [Started(2), Completed(END.usage, END.timings)]


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("started", [(), (EngineStarted(2), EngineOutput(0, "Hel"))])
def test_an_error_of_the_engine_is_raised_as_itself(scene: Scene, started: tuple[Any, ...]) -> None:
    scene.engine.plays(*started, WireError.of(Overloaded("full", retry_after=3.0)))
    events = scene.service.generate(raw())
    heard = [next(events) for _ in started]
    assert heard == [Started(2), TextDelta(0, "Hel")][: len(started)]
    with pytest.raises(Overloaded) as caught:
        next(events)
    assert caught.value.retry_after == 3.0
    scene.engine.wait_for_closed()
    assert len(scene.engine.requests) == 1


@pytest.mark.parametrize("started", [(), (EngineStarted(2),)])
def test_an_engine_that_dies_over_a_request_is_not_asked_again(scene: Scene, started: tuple[Any, ...]) -> None:
    scene.engine.plays(*started, then_dies=True)
    with pytest.raises(EngineCrashed):
        scene.events(raw())
    assert len(scene.engine.requests) == len(scene.manager.leases) == 1


def test_the_last_words_of_an_engine_that_died_are_the_error(scene: Scene) -> None:
    scene.manager.parting = EngineCrashed("The engine of 'ai/x' crashed: (signal SIGABRT): GGML_ASSERT(x) failed")
    scene.engine.plays(EngineStarted(2), then_dies=True)
    with pytest.raises(EngineCrashed, match="GGML_ASSERT"):
        scene.events(raw())
    assert [lease.num_closed for lease in scene.manager.leases] == [1]


def test_an_engine_that_was_dead_before_is_replaced(scene: Scene, tmp_path: Path) -> None:
    sockets = iter([str(tmp_path / "gone.sock")] * 2 + [scene.engine.path])
    scene.manager.before_grant = lambda: setattr(scene.manager, "socket", next(sockets))
    scene.engine.plays(EngineStarted(2), END)
    assert scene.events(raw()) == [Started(2), Completed(END.usage, END.timings)]
    assert len(scene.manager.leases) == 3


def test_an_engine_that_stays_away_is_an_error_in_the_end(scene: Scene, tmp_path: Path) -> None:
    scene.manager.socket = str(tmp_path / "gone.sock")
    with pytest.raises(EngineCrashed) as caught:
        scene.events(raw())
    assert caught.value.code == "engine_crashed"
    assert len(scene.manager.leases) == leasing.MAX_ATTEMPTS


@pytest.mark.parametrize("error", [ModelNotFound("ai/x"), ModelLoadFailed("damaged"), Unavailable("no manager")])
def test_a_model_that_cannot_be_had(scene: Scene, error: DmrError) -> None:
    scene.manager.steps = [None, error]
    with pytest.raises(type(error)):
        scene.events(raw())
    assert scene.engine.requests == []


def test_what_a_message_tells_after_its_first_event_can_be_taken(scene: Scene) -> None:
    scene.engine.plays(EngineStarted(2), EngineOutput(0, "Hel", finish_reason=STOP), END)
    answer = scene.service.generate(raw())
    assert (next(answer), next(answer)) == (Started(2), TextDelta(0, "Hel"))
    assert answer.can_be_taken
    answer.dont_wait()
    taken: list[Any] = []
    while len(taken) < 2:
        taken += answer.take()
    assert taken[0] == Finished(0, STOP)
    assert isinstance(taken[1], Completed)
    answer.close()


@pytest.mark.parametrize("in_pieces", [True, False])
def test_what_is_not_wanted_in_pieces_may_come_at_once(scene: Scene, in_pieces: bool) -> None:
    scene.engine.plays(EngineStarted(2), EngineOutput(0, "Hel"), END)
    assert TextDelta(0, "Hel") in list(scene.service.generate(raw(), in_pieces=in_pieces))
    assert scene.engine.requests[0].is_whole is not in_pieces


# --- while the manager is asked --------------------------------------------------------------------------------------


@pytest.fixture
def used(scene: Scene) -> Scene:
    """An engine that has been granted before."""
    scene.engine.plays(END)
    scene.events(raw())
    return scene


def test_the_engine_of_last_time_works_while_the_manager_is_asked(used: Scene) -> None:
    known: list[int] = []
    used.manager.before_grant = lambda: known.append(len(used.engine.requests))
    used.engine.plays(EngineStarted(2), EngineOutput(0, "Hel"), END)
    assert used.events(raw()) == [Started(2), TextDelta(0, "Hel"), Completed(END.usage, END.timings)]
    assert known == [2]
    assert len(used.engine.requests) == len(used.manager.leases) == 2


@pytest.mark.parametrize("change", ["socket", "info"])
def test_what_another_engine_said_meanwhile_is_not_passed_on(used: Scene, tmp_path: Path, change: str) -> None:
    used.engine.plays(EngineStarted(666), EngineOutput(0, "stale"))
    with scripted_peer(tmp_path / "other.sock", engine_query_decoder) as other:
        if change == "socket":
            used.manager.socket = other.path
            other.plays(EngineStarted(2), END)
        else:
            used.set_info(context_size=77)
            used.engine.plays(EngineStarted(2), END)
        assert used.events(raw()) == [Started(2), Completed(END.usage, END.timings)]
        used.engine.wait_for_closed(2)
        assert len(other.requests) == (change == "socket")


def test_what_went_wrong_with_an_engine_that_is_not_granted_again_is_nobodys(used: Scene, tmp_path: Path) -> None:
    used.engine.plays(WireError.of(Overloaded("full")))
    with scripted_peer(tmp_path / "other.sock", engine_query_decoder) as other:
        used.manager.socket = other.path
        other.plays(EngineStarted(2), END)
        assert used.events(raw()) == [Started(2), Completed(END.usage, END.timings)]


def test_an_engine_that_has_gone_meanwhile_is_asked_for_again(used: Scene, tmp_path: Path) -> None:
    used.engine.close()
    with scripted_peer(tmp_path / "other.sock", engine_query_decoder) as other:
        used.manager.socket = other.path
        other.plays(EngineStarted(2), END)
        assert used.events(raw()) == [Started(2), Completed(END.usage, END.timings)]
    assert len(used.manager.leases) == 2


def test_a_refusal_of_the_manager_ends_what_was_begun(used: Scene) -> None:
    used.engine.plays(EngineStarted(2), EngineOutput(0, "Hel"))
    used.manager.steps = [ModelNotFound("ai/x")]
    with pytest.raises(ModelNotFound):
        used.events(raw())
    used.engine.wait_for_closed(2)


def test_giving_up_while_the_manager_is_asked_ends_what_was_begun(used: Scene) -> None:
    used.engine.plays(EngineStarted(2), EngineOutput(0, "Hel"))
    used.manager.steps = [None, None]
    events = used.service.generate(raw())
    assert next(events) == Tick()
    events.close()
    used.engine.wait_for_closed(2)
    assert used.manager.num_given_up == 1


def test_what_is_begun_early_is_given_up_when_the_lease_does_not_come(used: Scene) -> None:
    """The engine may be one that others wait for."""
    used.engine.plays(EngineStarted(2), EngineOutput(0, "stale"))
    used.engine.plays(EngineStarted(2), EngineOutput(0, "Hel"), END)
    used.manager.steps = [None]
    used.manager.before_grant = lambda: used.engine.wait_for_closed(2)
    assert used.events(raw()) == [Started(2), TextDelta(0, "Hel"), Completed(END.usage, END.timings)]
    assert len(used.engine.requests) == 3


def test_the_time_of_an_early_beginning_is_no_time_of_loading(used: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TICK", 5.0)
    used.engine.plays(0.5, EngineStarted(2), EngineOutput(0, "Hel", finish_reason=STOP), END)
    completed = collect(used.service.generate(raw()))
    assert 0 < completed.timings.load < 0.4


def test_another_context_is_another_engine(used: Scene) -> None:
    used.engine.plays(END)
    known: list[int] = []
    used.manager.before_grant = lambda: known.append(len(used.engine.requests))
    used.events(raw(context_size=512))
    assert known == [1]


def test_closing_the_events_is_the_abort(scene: Scene) -> None:
    for request in (raw(), chat()):
        scene.engine.plays(EngineStarted(2), EngineOutput(0, "Hel"))
        events = scene.service.generate(request)
        while not isinstance(next(events), TextDelta):
            pass
        events.close()  # type: ignore[attr-defined]
    scene.engine.wait_for_closed(2)
    scene.manager.assert_all_returned()


def test_closing_while_the_model_loads_gives_the_lease_up(scene: Scene) -> None:
    scene.manager.steps = [None, None, None]
    for events in (scene.service.generate(raw()), scene.service.preload("ai/x")):
        assert next(events) == Tick()
        kept = events  # no garbage collector is to do the work
        kept.close()  # type: ignore[attr-defined]
    assert scene.manager.num_given_up == 2
    assert scene.manager.leases == []


def test_preload_takes_a_lease_and_gives_it_back(scene: Scene) -> None:
    scene.manager.steps = [None]
    assert list(scene.service.preload("ai/x", 7.0, 100)) == [Tick()]
    assert scene.manager.asked == [("ai/x", 7.0, 100)]
    assert len(scene.manager.leases) == 1


# --- chats -----------------------------------------------------------------------------------------------------------


def test_a_chat_is_rendered_and_its_text_comes_back(scene: Scene) -> None:
    scene.engine.plays(EngineStarted(2), *answer("Hello there"), END)
    whole = collect(scene.events(chat("How are you?")))
    assert whole.choices[0].text == "Hello there"
    assert (whole.choices[0].finish_reason, whole.usage) == (STOP, END.usage)
    (request,) = scene.engine.requests
    assert "<|im_start|>user\nHow are you?<|im_end|>" in request.prompts[0]
    assert request.prompts[0].endswith("<|im_start|>assistant\n")


def test_choices_do_not_mix(scene: Scene) -> None:
    one, two, three = (answer(text, i) for i, text in enumerate(("first answer", "second", "third one")))
    mixed = [output for row in zip(one, two, three, strict=False) for output in row]
    mixed += [output for choice in (one, two, three) for output in choice if output not in mixed]
    scene.engine.plays(EngineStarted(2), *mixed, END)
    choices = collect(scene.events(chat(num_choices=3))).choices
    assert [choice.text for choice in choices] == ["first answer", "second", "third one"]


CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def test_a_tool_call_changes_the_reason(scene: Scene) -> None:
    scene.engine.plays(EngineStarted(2), *answer(CALL), END)
    events = scene.events(chat(tools=(WEATHER,)))
    (start,) = [event for event in events if isinstance(event, ToolCallStart)]
    arguments = "".join(event.arguments for event in events if isinstance(event, ToolCallDelta))
    assert (start.index, start.call_index, start.name, arguments.replace(" ", "")) == (
        0,
        0,
        "get_weather",
        '{"city":"Paris"}',
    )
    assert start.id
    assert events[-2:] == [Finished(0, FinishReason.TOOL_CALLS), Completed(END.usage, END.timings)]
    assert not [event for event in events if isinstance(event, TextDelta) and "tool_call" in event.text]


def test_a_tool_call_that_is_cut_off_is_not_one(scene: Scene) -> None:
    scene.engine.plays(EngineStarted(2), *answer(CALL[:50], reason=FinishReason.LENGTH), END)
    events = scene.events(chat(tools=(WEATHER,)))
    assert events[-2] == Finished(0, FinishReason.LENGTH)


def test_a_forced_call_reaches_the_engine_as_a_grammar(scene: Scene) -> None:
    scene.engine.plays(EngineStarted(2), *answer(CALL), END)
    scene.events(chat(tools=(WEATHER,), tool_choice=ToolChoice.REQUIRED))
    assert "get_weather" in scene.engine.requests[0].grammar.text
    assert "get_weather" in scene.engine.requests[0].prompts[0]


def test_tools_that_must_not_be_called_are_not_offered(scene: Scene) -> None:
    scene.engine.plays(EngineStarted(2), *answer("No."), END)
    scene.events(chat(tools=(WEATHER,), tool_choice=ToolChoice.NONE))
    assert "get_weather" not in scene.engine.requests[0].prompts[0]


def test_only_a_stop_string_that_was_asked_for_is_named(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for stop, named in (("ASKED", "ASKED"), ("<|of the template|>", None)):
        scene.engine.plays(EngineStarted(2), *answer("Hi", stop=stop), END)
        events = scene.events(chat(stop=("ASKED",)))
        assert events[-2] == Finished(0, STOP, named)


def test_a_model_whose_template_is_broken_cannot_chat_but_complete(scene: Scene) -> None:
    scene.manager.info = EngineInfo("tiny", 512, "{% if %}", "", "", False)
    with pytest.raises(InvalidRequest, match="cannot chat"):
        scene.events(chat())
    scene.engine.plays(EngineStarted(2), END)
    assert len(scene.events(raw())) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        chat("half a \ud83d character"),
        chat(response_format=ResponseFormat(json_schema="no json")),
        chat(tools=(Tool("x", "", "no json"),)),
        GenerateRequest("ai/x", ChatInput((), template_kwargs={"a": "\ud83d"})),
        raw("half a \ud83d character"),
        raw(sampling=SamplingParams(seed=10**30)),
    ],
)
def test_what_cannot_be_rendered_or_sent_is_refused(scene: Scene, wrong: GenerateRequest) -> None:
    with pytest.raises(InvalidRequest):
        scene.events(wrong)
    assert scene.engine.requests == []


def test_any_number_of_choices_costs_nothing_before_the_engine_has_seen_it(scene: Scene) -> None:
    scene.engine.plays(WireError.of(InvalidRequest("too many", param="n")))
    with pytest.raises(InvalidRequest, match="too many"):
        scene.events(chat(num_choices=10**12))


def test_many_threads_at_once(scene: Scene) -> None:
    texts: list[str] = []
    for _ in range(8):
        scene.engine.plays(EngineStarted(2), *answer("Hello"), END)
    threads = [
        threading.Thread(target=lambda: texts.append(collect(scene.events(chat())).choices[0].text)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert texts == ["Hello"] * 8


# --- models ----------------------------------------------------------------------------------------------------------


def leftovers(scene: Scene) -> list[Path]:
    return [path for path in scene.service._store.root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [None, 3_000_000])
def test_an_upload_is_handed_to_the_manager_and_leaves_nothing(scene: Scene, size: int | None) -> None:
    data = bytes(range(256)) * 11719
    data = data[:3_000_000]
    assert scene.service.import_gguf(io.BytesIO(data), size, "ai/x") == RECORD
    assert scene.manager.asked == [(data, "ai/x")]
    assert leftovers(scene) == []


def test_a_short_upload_is_refused_and_leaves_nothing(scene: Scene) -> None:
    with pytest.raises(InvalidRequest, match="5 of 9 bytes"):
        scene.service.import_gguf(io.BytesIO(b"short"), 9, "ai/x")
    assert scene.manager.asked == []
    assert leftovers(scene) == []


def test_an_upload_that_is_no_model_is_not_called_by_the_name_it_has_here(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFile) as caught, uploaded_file(io.BytesIO(b"GGUF"), 4, tmp_path) as path:
        raise InvalidModelFile(f"{path} is not a usable GGUF file: it is too short.")
    assert caught.value.message == "What was sent is not a usable GGUF file: it is too short."
    assert not path.exists()


def test_an_upload_that_breaks_off_leaves_nothing(scene: Scene) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ConnectionResetError("gone")

    source: BinaryIO = Broken()
    with pytest.raises((DmrError, OSError)):
        scene.service.import_gguf(source, 9, "ai/x")
    assert leftovers(scene) == []


def test_a_bad_name_is_refused_before_the_upload_is_read(scene: Scene) -> None:
    source = io.BytesIO(b"data")
    with pytest.raises(InvalidReference):
        scene.service.import_gguf(source, 4, "a//b")
    assert source.tell() == 0


def test_a_store_that_cannot_be_written_says_so(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file, not a folder")
    with pytest.raises(StoreError):
        scene.service.import_gguf(io.BytesIO(b"data"), 4, "ai/x")


def test_the_rest_is_handed_on(scene: Scene, tmp_path: Path) -> None:
    assert scene.service.list_models() == []
    with pytest.raises(ModelNotFound):
        scene.service.get_model("ai/absent")
    assert scene.service.copy_model("ai/x", "y") == RECORD
    assert scene.service.storekeeping.usage().total == 0
    assert scene.service.unload_models(["a", "b"]) == 1
    assert scene.service.unload_models(None) == 1
    assert scene.manager.asked == [("ai/x", "y"), ("a", "b"), None]
    assert not scene.service.is_ready()
    assert scene.service.versions()["version"]
    with pytest.raises(InternalError):
        Service.connect(Settings())
    assert not Service.connect(Settings(runtime_dir=tmp_path)).is_ready()
