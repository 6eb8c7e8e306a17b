"""What a model is configured to says what requests do not say themselves; and what is shown of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiny_models.script import THINK_TEMPLATE
from unit.scripted_peer import scripted_peer
from unit.service_scene import END, RECORD, Scene, chat, raw

from dmr import client
from dmr.errors import StoreError
from dmr.store.configurations import ConfigurationFile
from dmr.types import (
    ChatInput,
    ConfiguredModel,
    GenerateRequest,
    Mode,
    ModelConfiguration,
    ModelRecord,
    SamplingParams,
)
from dmr.wire import EngineRequest, engine_query_decoder


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(client, "TICK", 0.02)
    with scripted_peer(tmp_path / "engine.sock", engine_query_decoder) as engine:
        made = Scene(engine, tmp_path)
        yield made
        made.manager.assert_all_returned()


def configure(scene: Scene, flags: str = "", mode: Mode = Mode.COMPLETION, **fields: Any) -> None:
    configuration = ModelConfiguration(runtime_flags=tuple(flags.split()), **fields)
    ConfigurationFile(scene.store.root).write([ConfiguredModel(RECORD.tags[0], RECORD.id, mode, configuration)])


def asked(scene: Scene, request: GenerateRequest) -> EngineRequest:
    """What the engine is asked."""
    scene.engine.plays(END)
    scene.events(request)
    sent: EngineRequest = scene.engine.requests[-1]
    return sent


def test_sampling(scene: Scene) -> None:
    configure(scene, "--temp 0.1 --top-k 3 -n 9")
    sent = asked(scene, raw(sampling=SamplingParams(temperature=0.9), given=frozenset({"temperature"})))
    assert (sent.sampling.temperature, sent.sampling.top_k, sent.max_tokens) == (0.9, 3, 9)


def test_the_request_goes_first_then_the_configuration_then_the_models_file(scene: Scene) -> None:
    scene.set_defaults(parameters={"temperature": 0.1, "top_k": 1, "min_p": 0.9})
    configure(scene, "--temp 0.2 --top-k 2")
    sent = asked(scene, raw(sampling=SamplingParams(temperature=0.3), given=frozenset({"temperature"})))
    assert (sent.sampling.temperature, sent.sampling.top_k, sent.sampling.min_p) == (0.3, 2, 0.9)


def test_a_change_counts_for_the_next_request(scene: Scene) -> None:
    for temperature in (0.1, 0.25):
        configure(scene, f"--temp {temperature}")
        assert asked(scene, raw()).sampling.temperature == temperature


def test_other_modes_do_not_count(scene: Scene) -> None:
    configure(scene, "--temp 0.1", mode=Mode.EMBEDDING)
    assert asked(scene, raw()).sampling == SamplingParams()


def test_a_configured_context_goes_before_that_of_the_models_file(scene: Scene) -> None:
    scene.set_defaults(parameters={"context_size": 64})
    assert asked(scene, raw()).context_size == 64
    configure(scene, context_size=128)
    assert asked(scene, raw()).context_size is None  # the engine's own, which has it
    assert asked(scene, raw(context_size=32, given=frozenset({"context_size"}))).context_size == 32
    list(scene.service.preload("ai/x"))
    list(scene.service.preload("ai/x", context_size=256))
    assert [wish[2] for wish in scene.manager.asked] == [64, None, 32, None, 256]


@pytest.mark.parametrize(
    ("budget", "fields", "given", "expected"),
    [
        (7, {}, (), 7),
        (0, {}, (), 0),
        (-1, {}, (), None),
        (7, {"reasoning_budget": 3}, (), 3),
        (7, {"reasoning_effort": "low"}, (), 512),
        (0, {}, ("thinking",), None),  # "think": true, or a budget without a limit
        (7, {"enable_thinking": False}, ("thinking",), None),
    ],
)
def test_the_reasoning_budget(
    scene: Scene, budget: int, fields: dict[str, Any], given: tuple[str, ...], expected: int | None
) -> None:
    scene.set_info(chat_template=THINK_TEMPLATE)
    configure(scene, reasoning_budget=budget)
    request = chat()
    turns = msgspec.structs.replace(request.input, **fields)
    limit = asked(scene, msgspec.structs.replace(request, input=turns, given=frozenset(given))).thought_limit
    assert (limit.budget if limit is not None else None) == expected


def test_a_template_goes_before_that_of_the_model(scene: Scene) -> None:
    scene.set_defaults(template="{{ 'of the file' }}")
    assert asked(scene, chat()).prompts == ("of the file",)
    configure(scene, "--chat-template {{'configured'}}")
    assert asked(scene, chat()).prompts == ("configured",)
    turns = ChatInput(chat().input.messages, template="{{ 'asked' }}")  # type: ignore[union-attr]
    assert asked(scene, chat(tools=()).__class__("ai/x", turns)).prompts == ("asked",)


def test_a_grammar_binds_answers(scene: Scene) -> None:
    configure(scene, "--grammar root::='a'")
    sent = asked(scene, raw())
    assert sent.grammar is not None
    assert sent.grammar.text == "root::='a'"


def test_what_is_shown(scene: Scene) -> None:
    service, file = scene.service, ConfigurationFile(scene.store.root)
    assert service.configurations.shown() == []
    other = ConfiguredModel("docker.io/ai/gone:latest", "sha256:2", Mode.COMPLETION, ModelConfiguration(64))
    mine = ConfiguredModel(RECORD.tags[0], RECORD.id, Mode.COMPLETION, ModelConfiguration(32))
    empty = ConfiguredModel(RECORD.tags[0], RECORD.id, Mode.EMBEDDING, ModelConfiguration())
    file.write([other, mine, empty])
    assert service.configurations.shown("ai/x") == [mine]
    assert service.configurations.shown("ai/gone") == []  # it is not in the store
    assert service.configurations.shown() == []


def test_a_name_that_means_another_model_now_shows_what_is_kept_for_it(scene: Scene) -> None:
    moved = ConfiguredModel(RECORD.tags[0], "sha256:old", Mode.COMPLETION, ModelConfiguration(32, ("--temp", "0.5")))
    ConfigurationFile(scene.store.root).write([moved])
    assert scene.service.configurations.shown("ai/x") == [moved]
    assert asked(scene, raw()).sampling.temperature == 0.5


def test_a_file_of_a_newer_version_is_told(scene: Scene) -> None:
    path = ConfigurationFile(scene.store.root).path
    path.parent.mkdir(parents=True)
    path.write_text('{"version": 99}')
    with pytest.raises(StoreError, match="newer dmr"):
        scene.events(raw())


def test_changes_go_to_the_manager(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(scene.manager, "configure", lambda *call: told.append(call), raising=False)
    monkeypatch.setattr(scene.manager, "reset_configuration", lambda *call: told.append(call) or 2, raising=False)
    change: Any = object()
    scene.service.configurations.change("ai/x", None, change)
    assert scene.service.configurations.reset("ai/x") == 2
    scene.service.configurations.reset(None, Mode.EMBEDDING)
    assert told == [("ai/x", None, change), ("ai/x", None), (None, Mode.EMBEDDING)]


def test_records_that_are_listed_are_shown(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[ModelRecord] = [RECORD]
    monkeypatch.setattr(scene.store, "models", lambda: records)
    configure(scene, context_size=5)
    assert [each.configuration.context_size for each in scene.service.configurations.shown()] == [5]
    records.clear()
    assert scene.service.configurations.shown() == []
