"""Aliases where requests meet the store: the store's own names go first, and what changes the store knows no alias."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from unit.scripted_peer import scripted_peer
from unit.service_scene import END, RECORD, STOP, Scene, raw

from dmr import client
from dmr.config import Alias, Settings
from dmr.errors import InvalidReference, ModelNotFound, Unavailable
from dmr.service import Service
from dmr.service.names import Names
from dmr.store.record_cache import RecordCache
from dmr.types import DetokenizeRequest, EmbedRequest, RerankRequest, TokenizeRequest
from dmr.wire import EngineOutput, EngineStarted, engine_query_decoder


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(client, "TICK", 0.02)
    with scripted_peer(tmp_path / "engine.sock", engine_query_decoder) as engine:
        yield Scene(engine, tmp_path)


def allow(scene: Scene, *aliases: tuple[str, str]) -> Names:
    """The scene's store has the model "ai/x" only."""
    scene.service.names = Names(RecordCache(scene.store), [Alias(*each) for each in aliases])
    return scene.service.names


def test_a_request_for_an_alias_is_one_for_its_model(scene: Scene) -> None:
    allow(scene, ("claude-*", "ai/x"))
    scene.engine.plays(EngineStarted(2), EngineOutput(0, "Hello", finish_reason=STOP), END)
    assert scene.events(msgspec.structs.replace(raw(), model="claude-sonnet-4-5-20250929"))
    assert [asked[0] for asked in scene.manager.asked] == ["ai/x"]


def test_the_defaults_are_those_of_its_model(scene: Scene) -> None:
    scene.set_defaults(parameters={"temperature": 0.25})
    allow(scene, ("gpt-4", "ai/x"))
    scene.engine.plays(EngineStarted(2), EngineOutput(0, "Hello", finish_reason=STOP), END)
    scene.events(msgspec.structs.replace(raw(), model="gpt-4"))
    assert scene.engine.requests[0].sampling.temperature == 0.25


def test_every_call_that_needs_a_model_follows_aliases(scene: Scene) -> None:
    allow(scene, ("*", "ai/x"))
    service, request = scene.service, msgspec.structs.replace(raw(), model="gpt-4")
    scene.manager.steps = [Unavailable("enough is known")]
    for call in (
        service.preload("gpt-4"),
        service.generate(request),
        service.embed(EmbedRequest("gpt-4", ("a",))),
        service.rerank(RerankRequest("gpt-4", (("a", "b"),))),
        service.tokenize(TokenizeRequest("gpt-4", "a")),
        service.detokenize(DetokenizeRequest("gpt-4", (1,))),
        service.count_tokens(request),
        service.render(request),
    ):
        with pytest.raises(Unavailable):
            next(iter(call))
    assert [asked[0] for asked in scene.manager.asked] == ["ai/x"] * 8


def test_a_stored_name_hides_the_alias(scene: Scene) -> None:
    names = allow(scene, ("ai/*", "ai/missing"), ("ai/x", "ai/missing"))
    assert names.resolve("ai/x") == "ai/x"


def test_the_nearest_model_that_is_there(scene: Scene) -> None:
    names = allow(scene, ("best", "gpt-9"), ("gpt-*", "ai/x"), ("ai/x", "ai/missing"))
    assert names.resolve("best") == "ai/x"
    assert names.record("best") == RECORD


def test_no_name_of_the_store_has_to_be_one_for_an_alias(scene: Scene) -> None:
    names = allow(scene, ("my model!", "ai/x"))
    assert names.resolve("My Model!") == "ai/x"
    with pytest.raises(InvalidReference):
        names.resolve("your model!")


def test_an_alias_of_nothing_says_what_is_missing(scene: Scene) -> None:
    names = allow(scene, ("best", "gpt-9"), ("gpt-*", "ai/missing"))
    with pytest.raises(ModelNotFound, match="The model 'ai/missing', which 'best' stands for, does not exist"):
        names.resolve("best")
    with pytest.raises(ModelNotFound, match="The model 'other' does not exist"):
        names.resolve("other")


def test_a_model_can_be_looked_at_by_its_alias_but_not_changed(scene: Scene) -> None:
    allow(scene, ("gpt-4", "ai/x"))
    assert scene.service.get_model("gpt-4") == RECORD
    with pytest.raises(ModelNotFound):
        scene.service.get_stored_model("gpt-4")


def test_unloading_follows_aliases_and_takes_names_that_are_gone(scene: Scene) -> None:
    allow(scene, ("gpt-4", "ai/x"))
    scene.service.unload_models(["gpt-4", "ai/removed", "no name!"])
    assert scene.manager.asked == [("ai/x", "ai/removed", "no name!")]


def test_lists_have_names_without_wildcards_whose_model_is_there(scene: Scene) -> None:
    allow(scene, ("gpt-4", "ai/x"), ("best", "gpt-4"), ("claude-*", "ai/x"), ("lost", "ai/missing"), ("ai/x", "ai/y"))
    assert scene.service.served_models() == [
        msgspec.structs.replace(RECORD, tags=("best",)),
        msgspec.structs.replace(RECORD, tags=("gpt-4",)),
    ]


def test_the_service_of_a_server_has_the_settings_aliases(tmp_path: Path) -> None:
    settings = Settings(runtime_dir=tmp_path, models_path=tmp_path, aliases=(Alias("gpt-*", "ai/x"),))
    assert Service.connect(settings).names.others("gpt-4") == ("ai/x",)
