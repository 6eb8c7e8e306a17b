"""Embeddings and reranking on real contexts: from a message to its reply."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tiny_models import EMBED_CONTEXT, EMBED_SIZE, model_file
from tiny_models.bert import write_rerank_model
from unit.engine.native_bench import make_spec

from dmr.config import EngineSettings
from dmr.engine.embed_intake import EmbedIntake
from dmr.engine.embedder import Embedder
from dmr.engine.loading import ModelTokenizer, load_model
from dmr.engine.machinery import Machinery, build
from dmr.errors import ContextLengthExceeded, InvalidRequest, ModelLoadFailed, Unsupported
from dmr.wire import EngineEmbed, EngineReply, EngineRerank, EngineScores, EngineVectors

SETTINGS = EngineSettings(num_threads=1)
TEXT = "the cat sleeps in a warm kitchen while big dogs run through green forest and bright water"


def rerank_of(*pairs: tuple[str, str], truncate: bool = False) -> EngineRerank:
    return EngineRerank(
        tuple(query for query, _ in pairs), tuple((place, text) for place, (_, text) in enumerate(pairs)), truncate
    )


class Served:
    """A model with its embedder's thread."""

    def __init__(self, weights: Path, settings: EngineSettings = SETTINGS) -> None:
        machinery = build(make_spec(weights, settings), lambda fraction: True)
        assert machinery.server._embedding is not None
        self.machinery: Machinery = machinery
        self.intake: EmbedIntake = machinery.server._embedding.intake
        self.embedder: Embedder = machinery.embedder
        self.thread = threading.Thread(target=self.embedder.run)
        self.thread.start()

    def ask(self, message: EngineEmbed | EngineRerank) -> EngineReply:
        job = self.intake.prepare(message)
        self.embedder.submit(job)
        return job.reply.result(30)

    def vectors(self, *texts: str | tuple[int, ...], normalize: bool = True) -> npt.NDArray[np.float32]:
        reply = self.ask(EngineEmbed(texts, normalize=normalize))
        assert isinstance(reply, EngineVectors)
        return np.array([np.frombuffer(vector, "<f4") for vector in reply.vectors])

    def scores(self, *pairs: tuple[str, str], truncate: bool = False) -> EngineScores:
        reply = self.ask(rerank_of(*pairs, truncate=truncate))
        assert isinstance(reply, EngineScores)
        return reply

    def stop(self) -> None:
        self.embedder.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def embed(folder: Path) -> Iterator[Served]:
    served = Served(model_file("tiny-embed", folder))
    yield served
    served.stop()


@pytest.fixture(scope="module")
def rerank(folder: Path) -> Iterator[Served]:
    served = Served(model_file("tiny-rerank", folder))
    yield served
    served.stop()


@pytest.fixture(scope="module")
def generative(folder: Path) -> Iterator[Served]:
    served = Served(model_file("tiny-random", folder), EngineSettings(num_threads=1, context_size=1024))
    yield served
    served.stop()


def some_texts(number: int, longest: int = 40) -> list[str]:
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(TEXT.split(), rng.integers(1, longest))) for _ in range(number)]


def test_what_the_models_tell_about_themselves(embed: Served, rerank: Served, generative: Served) -> None:
    info = embed.machinery.info
    assert info.capabilities == ("embed",)
    assert info.context_size == info.trained_context_size == EMBED_CONTEXT
    assert info.embedding_size == EMBED_SIZE
    assert info.num_vocabulary > 200
    assert info.control_tokens == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert (info.bos, info.adds_bos) == ("[CLS]", True)
    assert rerank.machinery.info.capabilities == ("rerank",)
    assert generative.machinery.info.capabilities == ("generate", "embed")
    assert embed.machinery.steps is None
    assert generative.machinery.steps is not None


def test_a_vector_is_the_same_in_any_company(embed: Served) -> None:
    texts = some_texts(300)
    together = embed.vectors(*texts)
    alone = np.concatenate([embed.vectors(text) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    shuffled = np.random.default_rng(1).permutation(len(texts))
    np.testing.assert_allclose(embed.vectors(*(texts[i] for i in shuffled)), together[shuffled], atol=1e-4)


def test_texts_that_share_words_are_near_each_other(embed: Served) -> None:
    one, near, far = embed.vectors(
        "the cat sleeps in the kitchen", "a cat in a warm kitchen", "network question answer"
    )
    assert one @ near > one @ far + 0.1


def test_vectors_have_length_1_unless_they_are_wanted_as_they_are(embed: Served) -> None:
    (normal,), (raw,) = embed.vectors("the cat"), embed.vectors("the cat", normalize=False)
    assert np.linalg.norm(normal) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(raw) > 1.5
    np.testing.assert_allclose(raw / np.linalg.norm(raw), normal, atol=1e-6)


def test_token_ids_are_taken_as_they_are(embed: Served, folder: Path) -> None:
    model = load_model(make_spec(model_file("tiny-embed", folder), SETTINGS), lambda fraction: True).model
    tokens = tuple(model.tokenize("the cat sleeps"))
    reply = embed.ask(EngineEmbed((tokens, "the cat sleeps")))
    assert isinstance(reply, EngineVectors)
    assert reply.num_tokens == (len(tokens), len(tokens))
    np.testing.assert_allclose(*embed.vectors(tokens, "the cat sleeps"), atol=1e-4)
    for wrong in (-1, 10**6):
        with pytest.raises(InvalidRequest, match=f"{wrong}") as caught:
            embed.ask(EngineEmbed(((wrong,),)))
        assert caught.value.param == "input"


def test_texts_that_are_too_long_are_refused_or_cut(embed: Served) -> None:
    text = "cat " * 600
    with pytest.raises(ContextLengthExceeded, match=f"602 tokens.* {EMBED_CONTEXT} ") as caught:
        embed.ask(EngineEmbed(("dog", text)))
    assert caught.value.param == "input"
    reply = embed.ask(EngineEmbed(("dog", text), truncate=True))
    assert isinstance(reply, EngineVectors)
    assert reply.num_tokens == (3, EMBED_CONTEXT)
    # The end token is not what is cut.
    np.testing.assert_allclose(
        np.frombuffer(reply.vectors[1], "<f4"), embed.vectors("cat " * (EMBED_CONTEXT - 2))[0], atol=1e-4
    )


def test_a_text_can_be_given_less_room(embed: Served) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"6 tokens.* 4 "):
        embed.ask(EngineEmbed(("cat dog bird fish",), max_tokens=4))
    cut = embed.ask(EngineEmbed(("cat dog bird fish",), max_tokens=4, truncate=True))
    assert isinstance(cut, EngineVectors)
    np.testing.assert_allclose(np.frombuffer(cut.vectors[0], "<f4"), embed.vectors("cat dog")[0], atol=1e-4)
    with pytest.raises(InvalidRequest):
        embed.ask(EngineEmbed(("cat",), max_tokens=0))
    shortest = embed.ask(EngineEmbed(("cat dog",), max_tokens=1, truncate=True))
    assert isinstance(shortest, EngineVectors)
    assert shortest.num_tokens == (1,)


def test_a_text_of_no_tokens_is_refused(embed: Served, generative: Served) -> None:
    for served, text in ((embed, ()), (generative, ()), (generative, "")):
        with pytest.raises(InvalidRequest, match="Input 1 is empty") as caught:
            served.ask(EngineEmbed(("cat", text)))
        assert caught.value.param == "input"
    # The begin and the end token are tokens.
    assert embed.vectors("").shape == (1, EMBED_SIZE)
    nothing = embed.ask(EngineEmbed(()))
    assert isinstance(nothing, EngineVectors)
    assert (nothing.vectors, nothing.num_tokens) == ((), ())


def test_a_generating_model_gives_vectors_of_its_last_token(generative: Served) -> None:
    texts = some_texts(20)
    together = generative.vectors(*texts)
    assert together.shape == (20, 128)
    np.testing.assert_allclose(together, np.concatenate([generative.vectors(text) for text in texts]), atol=2e-3)
    # Longer than a batch: read in parts. What has been read before decides.
    long = " ".join(some_texts(1, 3) * 150)
    with_end, other = generative.vectors(long, "the cat " + long)
    assert np.isfinite(with_end).all()
    assert float(with_end @ other) < 0.99999


def test_a_long_text_does_not_depend_on_the_parts(folder: Path) -> None:
    text = " ".join(some_texts(1, 3) * 60)
    weights = model_file("tiny-random", folder)
    found = []
    for max_batch_tokens in (512, 32):
        served = Served(weights, EngineSettings(num_threads=1, context_size=1024, max_batch_tokens=max_batch_tokens))
        found.append(served.vectors(text)[0])
        served.stop()
    np.testing.assert_allclose(*found, atol=2e-3)


def test_scores_are_the_models_own(rerank: Served) -> None:
    pairs = [("cat", "the cat sleeps"), ("cat", "network"), ("", "network"), ("dog " * 100, "bird " * 100)]
    together = rerank.scores(*pairs)
    alone = [rerank.scores(pair) for pair in pairs]
    np.testing.assert_allclose(together.scores, [one.scores[0] for one in alone], atol=0.05)
    assert together.num_tokens == sum(one.num_tokens for one in alone)
    assert len(set(together.scores)) == 4
    # [CLS] cat [SEP] network [SEP]
    assert alone[1].num_tokens == 5


def test_a_pair_is_the_tokens_that_it_was_trained_on(folder: Path) -> None:
    model = load_model(make_spec(model_file("tiny-rerank", folder), SETTINGS), lambda fraction: True).model
    intake = EmbedIntake(ModelTokenizer(model, EMBED_CONTEXT), ranks=True)
    (tokens,) = intake.prepare(rerank_of(("the cat", "a dog [SEP]"))).texts
    plain = model.tokenize("a dog [SEP]", add_special=False, parse_special=False)
    cat = model.tokenize("the cat", add_special=False)
    assert tokens == [model.bos, *cat, model.separator, *plain, model.separator]
    assert model.separator not in plain


def test_pairs_that_are_too_long_are_refused_or_cut(rerank: Served) -> None:
    with pytest.raises(ContextLengthExceeded, match=f"604 tokens.* {EMBED_CONTEXT} ") as caught:
        rerank.scores(("cat", "dog " * 600))
    assert caught.value.param == "documents"
    cut = rerank.scores(("cat", "dog " * 600), truncate=True)
    assert cut.num_tokens == EMBED_CONTEXT
    assert cut.scores == pytest.approx(rerank.scores(("cat", "dog " * (EMBED_CONTEXT - 4))).scores, abs=0.05)
    # Both are long: both are cut.
    assert rerank.scores(("cat " * 600, "dog " * 600), truncate=True).num_tokens == EMBED_CONTEXT


def test_a_template_says_what_a_pair_looks_like(folder: Path) -> None:
    """Of a model with a chat vocabulary: what a user types is no control token."""
    model = load_model(make_spec(model_file("tiny-random", folder), SETTINGS), lambda fraction: True).model
    control = model.control_tokens[0]
    template = f"{control}Query: {{query}} Document: {{document}}{control}"
    intake = EmbedIntake(ModelTokenizer(model, 64), ranks=True, template=template)
    (tokens,) = intake.prepare(rerank_of(("the cat", "a dog"))).texts
    assert tokens == model.tokenize(f"{control}Query: the cat Document: a dog{control}", add_special=False)
    (tokens,) = intake.prepare(rerank_of(("the cat", control))).texts
    assert tokens.count(tokens[0]) == 2
    with pytest.raises(ContextLengthExceeded):
        intake.prepare(rerank_of(("the cat", "dog " * 100)))
    (tokens,) = intake.prepare(rerank_of(("the cat", "dog " * 100), truncate=True)).texts
    assert 48 < len(tokens) <= 64
    assert tokens[0] == tokens[-1]


def test_a_reranker_that_does_not_say_so_is_known_by_its_head(tmp_path: Path, rerank: Served) -> None:
    weights = tmp_path / "undeclared.gguf"
    write_rerank_model(weights, declares_pooling=False)
    served = Served(weights)
    assert served.machinery.info.capabilities == ("rerank",)
    pair = ("cat", "the dog sleeps")
    assert served.scores(pair).scores == pytest.approx(rerank.scores(pair).scores)
    served.stop()


def test_wishes_that_a_model_cannot_fulfil(embed: Served, rerank: Served, generative: Served) -> None:
    for served in (embed, generative):
        with pytest.raises(Unsupported, match="no relevance scores"):
            served.ask(rerank_of(("a", "b")))
    with pytest.raises(Unsupported, match="reranker"):
        rerank.ask(EngineEmbed(("a",)))


def test_small_batches_do_not_change_a_vector(embed: Served, folder: Path) -> None:
    served = Served(
        model_file("tiny-embed", folder), EngineSettings(num_threads=1, max_batch_tokens=32, max_num_seqs=8)
    )
    texts = [*some_texts(20), "cat " * 500]
    np.testing.assert_allclose(served.vectors(*texts), embed.vectors(*texts), atol=1e-4)
    served.stop()


def test_a_context_that_cannot_be_made_is_a_failed_load(folder: Path) -> None:
    with pytest.raises(ModelLoadFailed, match="num_threads"):
        build(make_spec(model_file("tiny-embed", folder), EngineSettings(num_threads=100_000)), lambda fraction: True)
