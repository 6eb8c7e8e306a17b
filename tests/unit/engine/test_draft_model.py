"""The second model: it guesses what it would say itself, and its memory follows the answer."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from tiny_models import model_file

from dmr import _core
from dmr.config import DraftSettings
from dmr.engine import draft_model
from dmr.engine.draft_model import DraftModel
from dmr.engine.speculation import MAX_SEQUENCES, Drafts, DraftWish
from dmr.errors import ModelLoadFailed
from dmr.memory.free_memory import Free

PROMPTS = [[i, i + 1, i + 2, 40 + i] for i in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder: Path) -> _core.Model:
    return _core.Model([str(model_file("tiny-random", folder))])


UNSURE = DraftSettings(least_probability=0.0)  # the random model is sure of nothing


def make(folder: Path, model: _core.Model, context_size: int = 512, settings: DraftSettings = UNSURE) -> DraftModel:
    return DraftModel.load(str(model_file("tiny-random", folder)), model, context_size, 1, -1, settings)


def guesses(drafter: DraftModel, *wishes: DraftWish) -> dict[int, list[int]]:
    return drafter.draft(wishes).by_sequence


def answer_of(model: _core.Model, tokens: list[int], count: int) -> list[int]:
    """The likeliest tokens, computed anew."""
    options = _core.ContextOptions()
    options.context_size, options.max_batch = 512, 512
    context, answer = _core.Context(model, options), list[int]()
    for _ in range(count):
        batch = _core.Batch()
        place = batch.add(
            0, tokens + answer if not answer else answer[-1:], len(tokens) + len(answer) - 1 if answer else 0
        )
        context.decode(batch)
        answer.append(int(np.argmax(context.logits(place))))
    return answer


def test_it_guesses_what_it_would_say(folder: Path, model: _core.Model) -> None:
    drafter = make(folder, model)
    wishes = [DraftWish(i, PROMPTS[i], i) for i in range(5)]
    assert guesses(drafter, *wishes) == {i: answer_of(model, PROMPTS[i], i) for i in range(1, 5)}
    assert guesses(drafter) == {}


def test_wrong_guesses_leave_no_trace(folder: Path, model: _core.Model) -> None:
    """Whatever part of the guesses was right, and whoever drafts in between."""
    drafter, dice = make(folder, model), random.Random(3)
    texts = [list(prompt) for prompt in PROMPTS[:3]]
    for _ in range(30):
        wishes = [DraftWish(i, texts[i], dice.randrange(1, 6)) for i in range(3) if dice.random() < 0.8]
        drafts = guesses(drafter, *wishes)
        for wish in wishes:
            draft = drafts[wish.sequence_id]
            assert draft == answer_of(model, wish.token_ids, wish.num_guesses)
            num_right = dice.randrange(len(draft) + 1)
            wish.token_ids.extend([*draft[:num_right], dice.randrange(256)])


def test_more_sequences_than_slots(folder: Path, model: _core.Model) -> None:
    drafter = make(folder, model)
    assert drafter.max_sequences == MAX_SEQUENCES == 8
    for first in (0, 4, 2):
        wishes = [DraftWish(i, PROMPTS[i], 2) for i in range(first, first + MAX_SEQUENCES)]
        assert guesses(drafter, *wishes) == {wish.sequence_id: answer_of(model, wish.token_ids, 2) for wish in wishes}


def test_a_long_text_is_read_over_several_steps(folder: Path, model: _core.Model) -> None:
    drafter = make(folder, model)
    text = [random.Random(1).randrange(256) for _ in range(400)]
    long, short = DraftWish(0, text, 3), DraftWish(1, PROMPTS[0], 2)
    assert guesses(drafter, long, short) == {1: answer_of(model, PROMPTS[0], 2)}
    assert guesses(drafter, long)[0] == answer_of(model, text, 3)


def test_a_sequence_that_begins_like_another_takes_its_memory_over(folder: Path, model: _core.Model) -> None:
    drafter = make(folder, model)
    text = [random.Random(2).randrange(256) for _ in range(60)]
    drafter.draft([DraftWish(0, text, 2)])
    following = [*text, 5, 6, 7]
    expected = Drafts({1: answer_of(model, following, 2)}, num_read=3)
    assert drafter.draft([DraftWish(1, following, 2)]) == expected


def test_another_list_is_another_text(folder: Path, model: _core.Model) -> None:
    """A sequence that has dropped tokens."""
    drafter = make(folder, model)
    drafter.draft([DraftWish(0, [1, 2, 3, 4, 5, 6], 3)])
    assert guesses(drafter, DraftWish(0, [1, 2, 5, 6], 3)) == {0: answer_of(model, [1, 2, 5, 6], 3)}


def test_what_does_not_fit_gets_no_guesses(folder: Path, model: _core.Model) -> None:
    drafter = make(folder, model, context_size=256)
    long = [[(i + k) % 256 for k in range(120)] for i in range(3)]
    for _ in range(3):
        drafts = guesses(drafter, *(DraftWish(i, text, 2) for i, text in enumerate(long)))
    assert drafts == {i: answer_of(model, long[i], 2) for i in range(2)}
    drafts = guesses(drafter, DraftWish(2, long[2], 2))
    assert drafts == {2: answer_of(model, long[2], 2)}
    assert guesses(drafter, DraftWish(4, [1] * 255, 2)) == {}


def test_it_can_be_emptied(folder: Path, model: _core.Model) -> None:
    drafter = make(folder, model)
    drafter.draft([DraftWish(0, PROMPTS[0], 3)])
    drafter.forget_all()
    drafter.set_threads(1)
    assert guesses(drafter, DraftWish(0, PROMPTS[0], 3)) == {0: answer_of(model, PROMPTS[0], 3)}


def test_a_sure_model_guesses_only_what_it_is_sure_of(folder: Path, model: _core.Model) -> None:
    drafter = make(folder, model, settings=DraftSettings(least_probability=1.0))
    assert guesses(drafter, DraftWish(0, PROMPTS[0], 3)) == {}


@pytest.mark.parametrize(
    ("name", "reason"), [("tiny-embed", "its token 0 is"), ("missing", "cannot be loaded"), ("tiny-rerank", "token 0")]
)
def test_models_that_cannot_guess(folder: Path, model: _core.Model, name: str, reason: str) -> None:
    path = folder / "missing.gguf" if name == "missing" else model_file(name, folder)
    with pytest.raises(ModelLoadFailed, match=reason):
        DraftModel.load(str(path), model, 256, 1, -1)


def test_what_memory_has_no_room_for_is_refused(
    folder: Path, model: _core.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft_model, "usable_for", lambda *arguments: Free(1 << 20, "the machine's memory"))
    with pytest.raises(ModelLoadFailed, match=r"cannot be used: A context of 256 tokens needs .*, and 1 MiB"):
        make(folder, model, 256)


def test_another_vocabulary_is_refused(folder: Path, model: _core.Model) -> None:
    from tiny_models.llama import write_script_model
    from tiny_models.script import ToolCall

    path = folder / "other.gguf"
    write_script_model(path, ToolCall("get_wether", "city", "Paris"))
    with pytest.raises(ModelLoadFailed, match=r"its token \d+ is"):
        DraftModel.load(str(path), model, 256, 1, -1)
    for context_size in (0, -5, 1 << 40):
        with pytest.raises(ModelLoadFailed):
            DraftModel.load(str(model_file("tiny-random", folder)), model, context_size, 1, -1)
