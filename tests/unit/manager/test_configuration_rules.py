"""What a change makes of a configuration, and which configurations can be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dmr.config import AttentionSettings, EngineSettings, WeightSettings
from dmr.errors import Conflict, InvalidRequest, Unsupported
from dmr.manager.configuration_rules import changed, check_together, mode_of
from dmr.manager.engine_plan import EnginePlan, longest_keep_alive, plan_engine
from dmr.types import ConfigurationChange, Mode, ModelConfiguration

NOTHING = ModelConfiguration()


def change(old: ModelConfiguration = NOTHING, mode: Mode = Mode.COMPLETION, **fields: Any) -> ModelConfiguration:
    return changed(old, ConfigurationChange(**fields), mode)


def flags(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def test_only_what_is_named_changes() -> None:
    first = change(context_size=4096, runtime_flags=flags("--temp 0.5"))
    second = change(first, keep_alive=60.0)
    third = change(second, runtime_flags=flags("--top-k 3"))
    assert third == ModelConfiguration(4096, flags("--temp 0.5 --top-k 3"), keep_alive=60.0)


def test_a_flag_takes_the_place_of_the_same_flag() -> None:
    old = change(runtime_flags=flags("--temp 0.5 --no-mmap"))
    assert change(old, runtime_flags=flags("--temperature 1 --mmap")).runtime_flags == flags("--temperature 1 --mmap")


def test_none_goes_back_to_the_default() -> None:
    old = change(context_size=4096, runtime_flags=flags("--temp 0.5"), keep_alive=1.0)
    assert change(old, context_size=None) == msgspec.structs.replace(old, context_size=None)
    assert change(old, runtime_flags=None) == msgspec.structs.replace(old, runtime_flags=())
    assert change(old, runtime_flags=flags("--jinja"), drops_flags=True).runtime_flags == ("--jinja",)
    assert change(old, drops_flags=True) == old  # nothing was said of flags


def test_flags_that_say_a_field_are_kept_as_it() -> None:
    text = "-c 4096 --reasoning-budget 0 --sleep-idle-seconds 9 --draft-max 4 --draft-p-min 0.5 --temp 1"
    expected = ModelConfiguration(4096, flags("--temp 1"), None, 4, 0.5, 9, 0)
    assert change(runtime_flags=flags(text)) == expected
    assert change(runtime_flags=flags("-c 0")).context_size == -1
    assert change(expected, context_size=5).context_size == 5  # the later one counts, whatever its form


def test_a_change_that_contradicts_itself_is_refused() -> None:
    assert change(context_size=5, runtime_flags=flags("-c 5")).context_size == 5
    with pytest.raises(InvalidRequest, match="context-size and the runtime flags contradict"):
        change(context_size=6, runtime_flags=flags("-c 5"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context_size": 0}, "context-size is from 1 to 16777216, or -1, not 0"),
        ({"context_size": -2}, "context-size"),
        ({"context_size": 1 << 25}, "context-size"),
        ({"max_draft_tokens": 65}, "speculative.num_tokens is from 1 to 64, not 65"),
        ({"least_draft_probability": 1.5}, "speculative.min_acceptance_rate is from 0 to 1"),
        ({"reasoning_budget": -2}, "llamacpp.reasoning-budget"),
        ({"runtime_flags": ("--log-file", "x")}, 'runtime flag "--log-file" is not allowed'),
        ({"runtime_flags": flags("--pooling mean")}, '"--pooling" has no effect in mode "completion"'),
        ({"runtime_flags": flags("--spec-type none,draft-simple")}, "do not go together"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        change(**fields)


def test_flags_are_checked_with_those_that_were_there() -> None:
    old = change(runtime_flags=flags("-fa off"))
    with pytest.raises(InvalidRequest, match="flash attention"):
        change(old, runtime_flags=flags("-ctk q8_0"))


@pytest.mark.parametrize("mode", [Mode.EMBEDDING, Mode.RERANKING])
def test_vectors_take_what_has_a_meaning_for_them(mode: Mode) -> None:
    text = "--pooling mean -ub 256 -b 512 -t 2 --mlock -ctk q8_0 --rope-scale 2 -ngl 3 --jinja -v"
    assert change(mode=mode, context_size=99, keep_alive=5.0, runtime_flags=flags(text)).runtime_flags == flags(text)
    for refused in ("--temp 1", "--parallel 4", "--spec-type none", "-n 5", "-td 2", "--timeout 5"):
        with pytest.raises(Unsupported, match=f'no effect in mode "{mode.value}"'):
            change(mode=mode, runtime_flags=flags(refused))
    for fields in ({"reasoning_budget": 0}, {"draft_model": "m"}, {"max_draft_tokens": 4}):
        with pytest.raises(Unsupported, match=f'no effect in mode "{mode.value}"'):
            change(mode=mode, **fields)


@pytest.mark.parametrize(
    ("text", "wished", "expected"),
    [
        ("", None, Mode.COMPLETION),
        ("--embeddings", None, Mode.EMBEDDING),
        ("--embedding --rerank", None, Mode.RERANKING),
        ("", Mode.EMBEDDING, Mode.EMBEDDING),
        ("--embeddings", Mode.RERANKING, Mode.RERANKING),
    ],
)
def test_the_mode_is_said_or_found_in_the_flags(text: str, wished: Mode | None, expected: Mode) -> None:
    said = ConfigurationChange(runtime_flags=flags(text))
    assert mode_of(said, wished) is expected
    assert changed(NOTHING, said, expected).runtime_flags == ()


def test_a_mode_that_the_flags_contradict_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="the mode is completion, but the runtime flags say embedding"):
        mode_of(ConfigurationChange(runtime_flags=("--embeddings",)), Mode.COMPLETION)


def test_modes_may_not_contradict_each_other_in_what_they_share() -> None:
    both = {
        Mode.COMPLETION: change(runtime_flags=flags("--mlock -t 2")),
        Mode.EMBEDDING: change(runtime_flags=("--mlock",)),
    }
    check_together(both)
    with pytest.raises(Conflict, match=r'share one engine, and num_threads is another for mode "completion"'):
        check_together({**both, Mode.EMBEDDING: change(runtime_flags=flags("-t 3"))})


def plan(configurations: dict[Mode, ModelConfiguration], trained: int | None = 4096) -> EnginePlan:
    return plan_engine(EngineSettings(), configurations, trained, lambda reference: f"{reference}.gguf")


def test_nothing_configured_is_the_servers_settings() -> None:
    assert plan({}) == EnginePlan(EngineSettings())


def test_an_engine_is_planned_for_all_modes() -> None:
    found = plan(
        {
            Mode.COMPLETION: change(context_size=-1, runtime_flags=flags("-ctk q8_0 -t 2 -v")),
            Mode.EMBEDDING: change(mode=Mode.EMBEDDING, context_size=64, runtime_flags=flags("--mlock --pooling cls")),
        }
    )
    weights = WeightSettings(use_mlock=True)  # loaded once, so that either mode may say it
    cells = AttentionSettings(key_type="q8_0")
    assert found.settings == EngineSettings(4096, num_threads=2, weights=weights, attention=cells)
    assert found.embedding == EngineSettings(64, num_threads=2, weights=weights, pooling="cls")
    assert (found.reranking, found.log_level) == (None, "debug")


def test_a_draft_model_that_is_named_is_wanted() -> None:
    found = plan(
        {Mode.COMPLETION: change(draft_model="small", max_draft_tokens=4, least_draft_probability=0.0)}
    ).settings
    assert (found.draft_model, found.speculation, found.max_draft_tokens) == ("small.gguf", "draft", 4)
    assert found.draft.least_probability == 0.0
    both = change(draft_model="small", runtime_flags=flags("--spec-type draft-simple,ngram-simple"))
    assert plan({Mode.COMPLETION: both}).settings.speculation == "auto"


def test_the_longest_keep_alive_counts() -> None:
    def kept(*seconds: float | None) -> float | None:
        return longest_keep_alive(
            {mode: ModelConfiguration(keep_alive=s) for mode, s in zip(Mode, seconds, strict=False)}
        )

    assert [kept(), kept(None), kept(5.0, None, 9.0), kept(5.0, -1.0), kept(0.0)] == [None, None, 9.0, -1.0, 0.0]
