"""Embeddings and scores: one vector for each sequence, or one for each token; what a vocabulary has for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from native.objects import DONE, make_context
from tiny_models import EMBED_CONTEXT, EMBED_SIZE
from tiny_models.bert import INFILL_TOKENS, write_embed_model, write_rerank_model

from dmr import _core

TEXTS = ["the cat sleeps in the kitchen", "a cat in a warm kitchen", "the network answers a question"]


def encode(model: _core.Model, texts: list[str], **fields: str) -> list[npt.NDArray[np.float32]]:
    context = make_context(model, embeddings=True, max_sequences=len(texts), **fields)
    batch = _core.Batch()
    for i, text in enumerate(texts):
        batch.add(i, model.tokenize(text), 0, output_all=True)
    assert context.decode(batch) == DONE
    return [context.sequence_embedding(i) for i in range(len(texts))]


def cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_texts_that_share_words_are_near_each_other(embed_model: _core.Model) -> None:
    first, second, third = encode(embed_model, TEXTS)
    assert first.shape == (EMBED_SIZE,)
    assert all(np.isfinite(row).all() for row in (first, second, third))
    assert cosine(first, second) > cosine(first, third)


def test_a_batch_gives_what_each_text_gives_alone(embed_model: _core.Model) -> None:
    for whole, text in zip(encode(embed_model, TEXTS), TEXTS, strict=True):
        np.testing.assert_allclose(whole, encode(embed_model, [text])[0], atol=2e-3)


def test_the_mean_is_the_mean_of_the_tokens(embed_model: _core.Model) -> None:
    tokens = embed_model.tokenize(TEXTS[0])
    context = make_context(embed_model, embeddings=True, pooling="none")
    batch = _core.Batch()
    batch.add(0, tokens, 0, output_all=True)
    context.decode(batch)
    rows = [context.embedding(i) for i in range(len(tokens))]
    np.testing.assert_allclose(np.mean(rows, axis=0), encode(embed_model, TEXTS[:1])[0], atol=2e-3)


@pytest.mark.parametrize(("pooling", "place"), [("cls", 0), ("last", -1)])
def test_other_poolings_take_one_token(embed_model: _core.Model, pooling: str, place: int) -> None:
    tokens = embed_model.tokenize(TEXTS[0])
    context = make_context(embed_model, embeddings=True, pooling="none")
    batch = _core.Batch()
    batch.add(0, tokens, 0, output_all=True)
    context.decode(batch)
    pooled = encode(embed_model, TEXTS[:1], pooling=pooling)[0]
    np.testing.assert_allclose(pooled, context.embedding(place % len(tokens)), atol=2e-3)


def test_rerank_gives_one_score_for_each_pair(rerank_model: _core.Model) -> None:
    scores = encode(rerank_model, TEXTS)
    assert [score.shape for score in scores] == [(1,)] * 3
    assert len({float(score[0]) for score in scores}) == 3
    np.testing.assert_allclose(scores[1], encode(rerank_model, TEXTS[1:2])[0], atol=5e-3)


def test_a_generating_model_gives_embeddings_too(random_model: _core.Model) -> None:
    context = make_context(random_model, embeddings=True, pooling="mean", max_sequences=2)
    batch = _core.Batch()
    batch.add(0, [1, 2, 3], 0)
    batch.add(1, [3, 2, 1, 9], 0)
    assert context.decode(batch) == DONE
    rows = [context.sequence_embedding(i) for i in range(2)]
    assert all(row.shape == (128,) and np.isfinite(row).all() for row in rows)
    assert cosine(*rows) < 0.999


def test_encoders_keep_no_memory(embed_model: _core.Model) -> None:
    context = make_context(embed_model, embeddings=True, max_sequences=2)
    assert (context.has_memory, context.can_shift) == (False, False)
    assert context.position_max(0) == -1
    assert context.remove(0)
    context.clear()
    batch = _core.Batch()
    batch.add(0, [5, 6], 0)
    for _ in range(2):
        assert context.decode(batch) == DONE
    first = context.sequence_embedding(0)
    assert context.restore(0, context.save(0))
    with pytest.raises(ValueError, match="shift"):
        context.shift(0, 0, -1, 1)
    context.decode(batch)
    np.testing.assert_array_equal(first, context.sequence_embedding(0))


@pytest.mark.parametrize(("max_batch", "max_sequences"), [(128, 3), (100, 7), (5, 5), (1000, 256)])
def test_sequences_that_do_not_divide_the_batch(
    random_model: _core.Model, embed_model: _core.Model, max_batch: int, max_sequences: int
) -> None:
    for model in (embed_model, random_model):
        fields = {"max_batch": max_batch, "max_sequences": max_sequences, "pooling": "mean"}
        context = make_context(model, embeddings=True, **fields)
        assert max_sequences <= context.max_batch <= max_batch
        batch = _core.Batch()
        batch.add(max_sequences - 1, [7] * (context.max_batch // 2 + 1), 0)
        assert context.decode(batch) == DONE
        assert np.isfinite(context.sequence_embedding(max_sequences - 1)).all()


def test_text_beyond_the_trained_length_is_refused(embed_model: _core.Model) -> None:
    context = make_context(embed_model, embeddings=True, context_size=1024, max_batch=1024)
    batch = _core.Batch()
    batch.add(0, [5] * (EMBED_CONTEXT + 1), 0)
    with pytest.raises(ValueError, match="longer than the model can take"):
        context.decode(batch)
    batch.clear()
    batch.add(0, [5] * EMBED_CONTEXT, 0)
    assert context.decode(batch) == DONE


def test_vectors_that_are_not_there(embed_model: _core.Model, random_model: _core.Model) -> None:
    context = make_context(embed_model, embeddings=True, max_sequences=2)
    with pytest.raises(ValueError, match="holds no embedding"):
        context.sequence_embedding(0)
    batch = _core.Batch()
    batch.add(1, [5, 6], 0)
    context.decode(batch)
    with pytest.raises(ValueError, match="holds no embedding"):
        context.sequence_embedding(0)
    with pytest.raises(ValueError, match="pools"):
        context.embedding(1)
    generating = make_context(random_model)
    with pytest.raises(ValueError, match="not made for embeddings"):
        generating.sequence_embedding(0)
    with pytest.raises(ValueError, match="not made for embeddings"):
        generating.embedding(0)


def test_the_texts_that_are_control_tokens(embed_model: _core.Model, script_model: _core.Model) -> None:
    assert embed_model.control_tokens == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for model in (embed_model, script_model):
        assert model.control_tokens
        for text in model.control_tokens:
            assert len(model.tokenize(text, add_special=False, parse_special=True)) == 1
            assert len(model.tokenize(text, add_special=False, parse_special=False)) > 1
    controls = [token for token in range(script_model.num_vocabulary) if script_model.is_control(token)]
    assert {script_model.piece(token, special=True).decode() for token in controls} <= set(script_model.control_tokens)


def test_the_tokens_around_a_gap(embed_model: _core.Model, tmp_path: Path) -> None:
    def infill(model: _core.Model) -> list[int]:
        return [model.fim_prefix, model.fim_suffix, model.fim_middle, model.fim_repository, model.fim_separator]

    assert infill(embed_model) == [-1] * 5
    path = tmp_path / "infill.gguf"
    write_embed_model(path, has_infill_tokens=True)
    model = _core.Model([str(path)])
    assert [model.piece(token, special=True).decode() for token in infill(model)] == list(INFILL_TOKENS)


def test_a_head_that_scores(embed_model: _core.Model, rerank_model: _core.Model, tmp_path: Path) -> None:
    assert rerank_model.has_classifier
    assert not embed_model.has_classifier
    path = tmp_path / "undeclared.gguf"
    write_rerank_model(path, declares_pooling=False)
    model = _core.Model([str(path)])
    path.unlink()
    assert not model.has_classifier  # the file is gone: nothing is known


def test_what_stands_between_the_texts_of_a_pair(embed_model: _core.Model, random_model: _core.Model) -> None:
    assert embed_model.piece(embed_model.separator, special=True) == b"[SEP]"
    assert embed_model.adds_separator
    assert (random_model.separator, random_model.adds_separator) == (-1, False)
    assert embed_model.vector_length == EMBED_SIZE
