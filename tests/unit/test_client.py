from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.scripted_peer import ScriptedPeer, scripted_peer

from dmr import client
from dmr.client import EngineClient, EngineUnreachable, ManagerClient, Readiness
from dmr.errors import (
    Conflict,
    ContextLengthExceeded,
    DmrError,
    EngineCrashed,
    InternalError,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    Unavailable,
)
from dmr.types import ModelConfig, ModelRecord, Removal, RunningModel, SamplingParams
from dmr.wire import (
    AcquireLease,
    EngineEmbed,
    EngineInfo,
    EngineRequest,
    EngineStarted,
    EngineTokenize,
    EngineTokens,
    EngineVectors,
    Imported,
    ImportModel,
    LeaseGranted,
    ListRunning,
    LoadProgress,
    Ping,
    Pong,
    Removed,
    RemoveModel,
    Running,
    Tagged,
    TagModel,
    Unloaded,
    UnloadModels,
    WireError,
    engine_query_decoder,
    manager_command_decoder,
)

INFO = EngineInfo("tiny", 512, "", "", "", False)
GRANTED = LeaseGranted("sha256:1", "engine.sock", INFO)
RECORD = ModelRecord("sha256:1", ("docker.io/ai/x:latest",), 5, ModelConfig())
RUNNING = RunningModel("sha256:1", "x", "ready", 1, 1.0, 2.0, -1.0, 99)
REQUEST = EngineRequest(("hi",), SamplingParams())


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TICK", 0.02)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ScriptedPeer]:
    with scripted_peer(tmp_path / "manager.sock", manager_command_decoder) as peer:
        yield peer


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ScriptedPeer]:
    with scripted_peer(tmp_path / "engine.sock", engine_query_decoder) as peer:
        yield peer


def test_each_command_and_its_answer(manager: ScriptedPeer) -> None:
    asks = ManagerClient(Path(manager.path))
    manager.plays(Imported(RECORD))
    assert asks.import_model(Path("file.gguf"), "x") == RECORD
    manager.plays(Tagged(RECORD))
    assert asks.tag_model("x", "y") == RECORD
    manager.plays(Removed(Removal(("a",), ("b",))))
    assert asks.remove_model("x", True) == Removal(("a",), ("b",))
    manager.plays(Unloaded(3))
    assert asks.unload_models(None) == 3
    manager.plays(Running((RUNNING,)))
    assert asks.running_models() == (RUNNING,)
    manager.plays(Running((RUNNING,), ("engine.sock",)))
    assert asks.running_engines() == ((RUNNING, "engine.sock"),)
    manager.plays(Pong())
    asks.ping()
    assert manager.requests == [
        ImportModel("file.gguf", "x"),
        TagModel("x", "y"),
        RemoveModel("x", True),
        UnloadModels(None),
        ListRunning(),
        ListRunning(),
        Ping(),
    ]
    manager.wait_for_closed(7)


def test_a_slow_answer_is_waited_for(manager: ScriptedPeer) -> None:
    manager.plays(0.1, Pong())
    ManagerClient(Path(manager.path)).ping()


def test_a_ping_does_not_wait_for_ever(manager: ScriptedPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PING_TIMEOUT", 0.1)
    manager.plays(0.5, Pong())
    with pytest.raises(Unavailable, match="does not answer"):
        ManagerClient(Path(manager.path)).ping()


def test_a_refusal_comes_as_its_own_error(manager: ScriptedPeer) -> None:
    manager.plays(WireError.of(Conflict("in use")))
    with pytest.raises(Conflict, match="in use"):
        ManagerClient(Path(manager.path)).remove_model("x", False)
    manager.wait_for_closed()


@pytest.mark.parametrize("steps", [(), (b"\0\0",), (LoadProgress(0.5),)])
def test_a_manager_that_dies_is_unavailable(manager: ScriptedPeer, steps: tuple[bytes, ...]) -> None:
    asks = ManagerClient(Path(manager.path))
    manager.plays(*steps, then_dies=True)
    with pytest.raises(Unavailable, match="manager is not running"):
        asks.ping()
    manager.plays(*steps, then_dies=True)
    with pytest.raises(Unavailable, match="manager is not running"):
        list(asks.acquire("x", None))


def test_no_manager_at_all(tmp_path: Path) -> None:
    asks = ManagerClient(tmp_path / "absent.sock")
    with pytest.raises(Unavailable, match="manager is not running"):
        asks.ping()
    with pytest.raises(Unavailable, match="manager is not running"):
        list(asks.acquire("x", None))


def test_a_manager_that_leaves_before_it_has_taken_the_command(
    manager: ScriptedPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, message: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(client.Connection, "send", broken)
    asks = ManagerClient(Path(manager.path))
    with pytest.raises(Unavailable):
        list(asks.acquire("x", None))
    with pytest.raises(Unavailable):
        asks.ping()


def test_nonsense_is_a_clean_error(manager: ScriptedPeer) -> None:
    manager.plays(b"HTTP/1.1 200 OK\r\n\r\n")
    with pytest.raises(InternalError):
        ManagerClient(Path(manager.path)).ping()
    manager.wait_for_closed()


def test_a_name_that_is_no_text_is_refused(manager: ScriptedPeer) -> None:
    with pytest.raises(InvalidRequest):
        list(ManagerClient(Path(manager.path)).acquire("\ud800", None))


# --- leases ----------------------------------------------------------------------------------------------------------


def test_a_lease_comes_after_its_progress_and_lasts_until_it_is_closed(manager: ScriptedPeer) -> None:
    manager.plays(LoadProgress(0.1), LoadProgress(0.9), 0.1, GRANTED)
    *waiting, lease = ManagerClient(Path(manager.path)).acquire("x", 60.0, 4096)
    assert manager.requests == [AcquireLease("x", 60.0, 4096)]
    assert len(waiting) > 3
    assert set(waiting) == {None}
    assert lease is not None
    assert (lease.model_id, lease.socket, lease.info) == ("sha256:1", "engine.sock", INFO)
    assert manager.num_closed_by_client == 0
    lease.close()
    manager.wait_for_closed()


def test_giving_up_while_it_loads_closes_the_connection(manager: ScriptedPeer) -> None:
    manager.plays(LoadProgress(0.1))
    leases = ManagerClient(Path(manager.path)).acquire("x", None)
    assert [next(leases), next(leases)] == [None, None]
    leases.close()
    manager.wait_for_closed()


@pytest.mark.parametrize("error", [ModelNotFound("x"), ModelLoadFailed("damaged")])
def test_a_model_that_cannot_be_had(manager: ScriptedPeer, error: DmrError) -> None:
    manager.plays(LoadProgress(0.1), WireError.of(error))
    with pytest.raises(type(error)):
        list(ManagerClient(Path(manager.path)).acquire("x", None))
    manager.wait_for_closed()


# --- engines ---------------------------------------------------------------------------------------------------------


def test_the_engines_messages_with_ticks_in_silence(engine: ScriptedPeer) -> None:
    engine.plays(EngineStarted(2), 0.1, EngineStarted(3))
    messages = EngineClient(engine.path).generate(REQUEST)
    heard = []
    while EngineStarted(3) not in heard:
        heard.append(next(messages))
    assert heard[0] == EngineStarted(2)
    assert heard.count(None) >= 2
    assert engine.requests == [REQUEST]
    messages.close()
    engine.wait_for_closed()


def test_a_loop_takes_what_is_there(engine: ScriptedPeer) -> None:
    engine.plays(EngineStarted(2), 0.1, EngineStarted(3))
    readiness = Readiness()
    messages = EngineClient(engine.path).generate(REQUEST, readiness)
    assert next(message for message in messages if message is not None) == EngineStarted(2)
    readiness.dont_wait()
    assert readiness.take() == []
    assert select.select([readiness.fileno()], [], [], 5)[0]
    assert readiness.take() == [EngineStarted(3)]
    messages.close()
    engine.wait_for_closed()


def test_nobody_there_may_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(EngineUnreachable):
        next(EngineClient(str(tmp_path / "absent.sock")).generate(REQUEST))
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    with pytest.raises(EngineUnreachable):
        next(EngineClient(str(dead)).generate(REQUEST))


@pytest.mark.parametrize("steps", [(), (EngineStarted(2),)])
def test_a_death_after_the_request_was_sent_may_not(engine: ScriptedPeer, steps: tuple[EngineStarted, ...]) -> None:
    engine.plays(*steps, then_dies=True)
    with pytest.raises(EngineCrashed) as caught:
        list(EngineClient(engine.path).generate(REQUEST))
    assert type(caught.value) is EngineCrashed


def test_a_question_has_one_answer(engine: ScriptedPeer) -> None:
    question = EngineTokenize("hi")
    engine.plays(0.1, EngineTokens((1, 2)))
    *waiting, answer = EngineClient(engine.path).ask(question, EngineTokens)
    assert answer == EngineTokens((1, 2))
    assert set(waiting) == {None}
    assert engine.requests == [question]
    engine.wait_for_closed()


def test_a_question_that_is_refused_or_given_up(engine: ScriptedPeer, tmp_path: Path) -> None:
    engine.plays(WireError.of(ContextLengthExceeded(9, 8)))
    with pytest.raises(ContextLengthExceeded) as caught:
        list(EngineClient(engine.path).ask(EngineEmbed(("hi",)), EngineVectors))
    assert (caught.value.num_prompt_tokens, caught.value.context_size) == (9, 8)
    engine.plays(EngineTokens((1,)))
    with pytest.raises(InternalError):
        list(EngineClient(engine.path).ask(EngineEmbed(("hi",)), EngineVectors))
    engine.plays(0.2)
    replies = EngineClient(engine.path).ask(EngineEmbed(("hi",)), EngineVectors)
    assert next(replies) is None
    replies.close()
    engine.wait_for_closed(3)
    engine.plays(then_dies=True)
    with pytest.raises(EngineCrashed):
        list(EngineClient(engine.path).ask(EngineEmbed(("hi",)), EngineVectors))
    with pytest.raises(EngineUnreachable):
        next(EngineClient(str(tmp_path / "absent.sock")).ask(EngineEmbed(("hi",)), EngineVectors))
