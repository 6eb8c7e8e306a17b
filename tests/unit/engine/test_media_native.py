"""Pictures on real contexts: named rightly, shared by what they show, and in nobody's way."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from tiny_models import SCRIPT_COLOURS
from unit.engine.media_bench import MediaBench, picture, place
from unit.engine.native_bench import assert_same_distribution

from dmr.errors import ContextLengthExceeded, InvalidRequest, Unsupported
from dmr.types import SamplingParams
from dmr.wire import MEDIA_OPEN, EngineMedia, EngineTokenize, WireError


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaBench]:
    bench = MediaBench("tiny-script", tmp_path_factory.mktemp("models"))
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaBench]:
    bench = MediaBench("tiny-random", tmp_path_factory.mktemp("models"))
    yield bench
    bench.close()


@pytest.mark.parametrize("colour", SCRIPT_COLOURS)
def test_every_colour_is_named(scripted: MediaBench, colour: str) -> None:
    plain = SamplingParams(temperature=0.0)
    asked = f"<|im_start|>user\n{place(0)} what is this?<|im_end|>\n<|im_start|>assistant\n"
    request = scripted.ask(asked, picture(colour), sampling=plain)
    scripted.run()
    assert scripted.text(request) == colour


def test_a_model_with_a_projector_says_that_it_sees(scripted: MediaBench) -> None:
    assert "vision" in scripted.machinery.info.capabilities
    assert "audio" not in scripted.machinery.info.capabilities


def test_the_same_picture_shares_its_cells_and_another_does_not(noisy: MediaBench) -> None:
    noisy.forget()
    text = f"{'a' * 40}{place(0)}{'b' * 40}"
    requests = []
    for colour in ("RED", "RED", "BLUE"):
        requests.append(noisy.ask(text, picture(colour)))
        noisy.run()
    assert [noisy.num_cached(request) for request in requests] == [0, 95, 40]
    noisy.forget()
    alone = noisy.ask(text, picture("BLUE"))
    noisy.run()
    assert noisy.num_cached(alone) == 0
    assert_same_distribution(noisy.logprobs(alone), noisy.logprobs(requests[2]))
    assert noisy.logprobs(requests[0])[0].chosen != noisy.logprobs(requests[2])[0].chosen


def test_order_counts(noisy: MediaBench) -> None:
    both = (picture("RED"), picture("GREEN"))
    one = noisy.ask(f"aa{place(0)}bb{place(1)}cc", *both)
    other = noisy.ask(f"aa{place(1)}bb{place(0)}cc", *both)
    noisy.run()
    assert noisy.logprobs(one)[0] != noisy.logprobs(other)[0]


def test_beside_many_others_the_answer_is_the_one_computed_alone(noisy: MediaBench) -> None:
    dice = random.Random(5)
    asked = []
    for _ in range(16):
        parts = [dice.choice(["a" * dice.randrange(1, 40), "b c d " * dice.randrange(1, 9)]) for _ in range(3)]
        colours = dice.choices(SCRIPT_COLOURS, k=2)
        text = f"{parts[0]}{place(0)}{parts[1]}{place(1)}{parts[2]}"
        asked.append((text, [picture(colour) for colour in colours]) if dice.random() < 0.7 else (parts[0], []))
    alone = []
    for text, media in asked:
        noisy.forget()
        request = noisy.ask(text, *media)
        noisy.run()
        alone.append(noisy.logprobs(request))
    noisy.forget()
    crowd = [noisy.ask(text, *media) for text, media in asked]
    doomed = [noisy.ask(text + "x", *media) for text, media in asked[:6]]
    noisy.engine.step()
    for request in doomed:
        noisy.engine.abort(request)
        noisy.engine.step()
    noisy.run()
    num_same = sum(
        assert_same_distribution(expected, noisy.logprobs(request))
        for expected, request in zip(alone, crowd, strict=True)
    )
    assert num_same > 0.6 * sum(map(len, alone))


def test_what_is_wrong_with_a_prompt_is_told(noisy: MediaBench) -> None:
    with pytest.raises(InvalidRequest, match="has to follow"):
        noisy.ask(f"a{place(0)}", picture("RED"))
    with pytest.raises(InvalidRequest, match="names medium 1 of 1"):
        noisy.ask(f"a{place(1)}b", picture("RED"))
    with pytest.raises(InvalidRequest, match="no characters"):
        noisy.ask(f"a{place(0)}b{MEDIA_OPEN}c", picture("RED"))
    with pytest.raises(ContextLengthExceeded):
        noisy.ask(f"a{place(0)}b" * 200, picture("RED"))
    with pytest.raises(InvalidRequest, match=r"cannot be read|no known format"):
        noisy.ask(f"a{place(0)}b", EngineMedia("image", b"nonsense"))
    with pytest.raises(Unsupported, match="hears no sounds"):
        noisy.ask(f"a{place(0)}b", EngineMedia("audio", b"RIFF"))


def test_tokens_are_counted_without_encoding(noisy: MediaBench) -> None:
    before = noisy.encoder.counts().num_encoded
    message = EngineTokenize(f"ab{place(0)}c", media=(picture("CYAN", side=57),))
    assert noisy.machinery.server._tokenize(message).ids.count(-1) == 16
    assert noisy.encoder.counts().num_encoded == before


def test_no_guess_is_a_place_of_a_picture(noisy: MediaBench) -> None:
    request = noisy.ask(f"abc{place(0)}abcabcabcab", picture("RED"), max_tokens=20)
    noisy.run()
    assert not any(isinstance(message, WireError) for message in noisy.messages[request])
