"""Pictures of models that treat them in ways of their own, on real contexts: the answer is the one computed alone.

Positions by row and column (M-RoPE), pieces whose places see each other, and memories that cannot go back.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tiny_models import SCRIPT_COLOURS, WINDOW_PLACES, model_file
from unit.engine.media_bench import MediaBench, picture, place
from unit.engine.native_bench import SETTINGS, assert_same_distribution

from dmr.config import AttentionSettings
from dmr.engine.engine import Request
from dmr.errors import ModelLoadFailed, Unsupported
from dmr.types import TokenLogprob
from dmr.wire import EngineMedia, EngineTokenize, WireError

KINDS = ("tiny-mrope", "tiny-window", "tiny-hybrid")
ROOMY = msgspec.structs.replace(SETTINGS, context_size=1024)


@pytest.fixture(scope="module", params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaBench]:
    made = MediaBench(request.param, tmp_path_factory.mktemp("models"), ROOMY)
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def ask_alone(bench: MediaBench, text: str, *media: EngineMedia) -> list[TokenLogprob]:
    bench.forget()
    request = bench.ask(text, *media)
    bench.run()
    return told(bench, request)


def told(bench: MediaBench, request: Request) -> list[TokenLogprob]:
    failed = [message for message in bench.messages[request] if isinstance(message, WireError)]
    assert not failed, failed
    return bench.logprobs(request)


def test_what_a_picture_shows_counts_and_so_does_its_place(bench: MediaBench) -> None:
    both = (picture("RED", 90, 60), picture("GREEN", 60, 90))
    answers = [
        ask_alone(bench, f"aa{place(0)}bb{place(1)}cc", *both),
        ask_alone(bench, f"aa{place(1)}bb{place(0)}cc", *both),
        ask_alone(bench, f"aa{place(0)}bb{place(0)}cc", *both),
    ]
    assert len({each[0].chosen.logprob for each in answers}) == len(answers)


def test_answers_in_a_crowd_are_those_computed_alone(bench: MediaBench) -> None:
    dice = random.Random(7)
    asked: list[tuple[str, list[EngineMedia]]] = []
    for _ in range(12):
        texts = [dice.choice(["a" * dice.randrange(1, 30), "b c d " * dice.randrange(1, 6)]) for _ in range(3)]
        media = [picture(colour, dice.choice([56, 100]), 70) for colour in dice.choices(SCRIPT_COLOURS, k=2)]
        has_media = dice.random() < 0.7
        asked.append((f"{texts[0]}{place(0)}{texts[1]}{place(1)}{texts[2]}", media) if has_media else (texts[0], []))
    alone = [ask_alone(bench, text, *media) for text, media in asked]
    bench.forget()
    crowd = [bench.ask(text, *media) for text, media in asked]
    doomed = [bench.ask(text + "x", *media) for text, media in asked[:4]]
    bench.engine.step()
    for request in doomed:
        bench.engine.abort(request)
        bench.engine.step()
    bench.run()
    pairs = zip(alone, crowd, strict=True)
    num_same = sum(assert_same_distribution(expected, told(bench, request)) for expected, request in pairs)
    assert num_same > 0.6 * sum(map(len, alone))


def test_who_made_way_goes_on_with_the_same_answer(bench: MediaBench) -> None:
    text, media = f"aaaa{place(0)}bbbb{place(1)}cccc", (picture("RED", 100, 60), picture("CYAN"))
    bench.forget()
    expected = bench.ask(text, *media, max_tokens=8)
    bench.run()
    bench.forget()
    request = bench.ask(text, *media, max_tokens=8)
    while len(bench.logprobs(request)) < 3:
        bench.engine.step()
    bench.engine._scheduler.preempt_all()
    bench.engine._runner.forget_all()
    bench.run()
    assert_same_distribution(told(bench, expected), told(bench, request))


def test_a_second_turn_is_as_if_the_first_had_not_been(bench: MediaBench) -> None:
    first = f"what is{place(0)} this? "
    second = f"{first}it is red. and{place(1)} this?"
    media = (picture("RED", 80, 56), picture("BLUE", 56, 80))
    expected = ask_alone(bench, second, *media)
    bench.forget()
    bench.ask(first, media[0])
    bench.run()
    for _ in range(2):  # and after itself
        request = bench.ask(second, *media)
        bench.run()
        assert_same_distribution(expected, told(bench, request))


def test_more_than_the_memory_holds_at_once(bench: MediaBench) -> None:
    num_encoded = bench.encoder.counts().num_encoded
    text = f"{'a' * 60}{place(0)}{'b' * 60}"
    expected = ask_alone(bench, text, picture("RED"))
    requests = [bench.ask(text + " c" * number, picture("RED"), max_tokens=40) for number in range(12)]
    bench.run()
    assert all(len(told(bench, request)) == 40 for request in requests)
    assert_same_distribution(expected, told(bench, requests[0])[: len(expected)])
    assert bench.encoder.counts().num_encoded <= num_encoded + 1


def test_positions_go_on_where_a_wide_picture_ends(folder: Path) -> None:
    bench = MediaBench("tiny-mrope", folder, ROOMY)
    request = bench.ask(f"abc{place(0)}d", picture("RED", 280, 56))
    (sequence,) = request.sequences
    assert sequence.media is not None
    (span,) = sequence.media
    assert (span.num_places, span.num_positions) == (20, 10)
    assert sequence.position_of(span.end) == span.start + 10
    bench.run()
    told(bench, request)
    bench.close()


def test_the_same_picture_is_shared_whatever_its_positions(folder: Path) -> None:
    bench = MediaBench("tiny-mrope", folder, ROOMY)
    text, media = f"{'a' * 40}{place(0)}{'b' * 40}", picture("RED", 280, 56)
    first = bench.ask(text, media)
    bench.run()
    num_tokens = first.sequences[0].num_prompt_tokens
    again, turn = bench.ask(text, media), bench.ask(f"{text}c d{place(1)}?", media, picture("BLUE"))
    bench.run()
    assert bench.num_cached(again) == num_tokens - 1
    assert bench.num_cached(turn) >= num_tokens
    assert_same_distribution(told(bench, first), told(bench, again))
    expected = ask_alone(bench, f"{text}c d{place(1)}?", media, picture("BLUE"))
    assert_same_distribution(expected, told(bench, turn))
    bench.close()


def test_evictions_in_the_middle_of_pictures_leave_right_answers(folder: Path) -> None:
    # 16 bits of a cell, added up in another order, are not the same to a model of noise.
    exact = AttentionSettings(flash_attention="off", key_type="f32", value_type="f32")
    bench = MediaBench("tiny-mrope", folder, msgspec.structs.replace(SETTINGS, context_size=768, attention=exact))
    dice = random.Random(3)
    prompts = []
    for _ in range(6):
        media = [picture(colour, dice.choice([140, 280]), 224) for colour in dice.choices(SCRIPT_COLOURS, k=2)]
        prompts.append((f"{'a' * dice.randrange(9, 30)}{place(0)}bc{place(1)}d", media))
    alone = [ask_alone(bench, text, *media) for text, media in prompts]
    bench.forget()
    num_cached = 0
    for _ in range(60):
        number = dice.randrange(len(prompts))
        text, media = prompts[number]
        request = bench.ask(text, *media)
        if dice.random() < 0.3:
            doomed = bench.ask(f"{text} e", *media)
            for _ in range(dice.randrange(1, 5)):
                bench.engine.step()
            bench.engine.abort(doomed)
        bench.run()
        assert_same_distribution(alone[number], told(bench, request))
        num_cached += bench.num_cached(request)
    assert num_cached > 1000
    bench.close()


def test_places_that_see_each_other_are_computed_in_one_go_or_refused_by_name(folder: Path) -> None:
    small = msgspec.structs.replace(SETTINGS, max_batch_tokens=WINDOW_PLACES - 1)
    bench = MediaBench("tiny-window", folder, small)
    with pytest.raises(Unsupported, match=rf"takes {WINDOW_PLACES} tokens.*at most 15.*DMR_BATCH_TOKENS"):
        bench.ask(f"a{place(0)}b", picture("RED"))
    with pytest.raises(Unsupported, match="DMR_BATCH_TOKENS"):
        bench.machinery.server._tokenize(EngineTokenize(f"a{place(0)}b", media=(picture("RED"),)))
    bench.close()
    bench = MediaBench("tiny-window", folder, msgspec.structs.replace(SETTINGS, max_batch_tokens=WINDOW_PLACES))
    request = bench.ask(f"a{place(0)}b", picture("RED"))
    bench.run()
    assert len(told(bench, request)) == 4
    bench.close()


def test_what_was_found_in_the_middle_of_such_a_piece_is_not_used(folder: Path) -> None:
    bench = MediaBench("tiny-window", folder, ROOMY)
    media = picture("RED")
    request = bench.ask(f"aaaa{place(0)}b", media)
    (span,) = request.sequences[0].media or ()
    while request.sequences[0].num_computed_tokens < span.end:
        bench.engine.step()
    assert request.sequences[0].num_computed_tokens >= span.end
    for num_tokens in (span.start, span.start + 5, span.end):
        expected = span.end if num_tokens == span.end else span.start
        assert request.sequences[0].media is not None
        assert request.sequences[0].media.snapped(num_tokens) == expected
    bench.run()
    bench.close()


@pytest.mark.parametrize("model", ["tiny-script", "tiny-mrope"])
def test_a_projector_of_another_model_is_refused_by_name(folder: Path, model: str) -> None:
    wrong = model_file("tiny-window-mmproj", folder)
    with pytest.raises(ModelLoadFailed, match=r"tiny-window-mmproj\.gguf.*n_embd"):
        MediaBench(model, folder, projector=wrong)
