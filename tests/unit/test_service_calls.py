"""The calls that generate nothing: vectors, scores, tokens, counts, prompts; and what models can do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny_models.script import SCRIPT_TEMPLATE, THINK_TEMPLATE
from unit.scripted_peer import scripted_peer
from unit.service_scene import RECORD, Scene, chat, raw
from unit.store.gguf_bytes import ARRAY, STRING, Tensor, Typed, gguf_bytes

from dmr import client
from dmr.errors import ContextLengthExceeded, EngineCrashed, InvalidRequest, ModelNotFound, Overloaded
from dmr.service import leasing
from dmr.types import (
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    ModelConfig,
    ModelRecord,
    RerankRequest,
    Scores,
    Tick,
    Timings,
    TokenCount,
    TokenizeRequest,
    Tokens,
)
from dmr.wire import (
    EngineDetokenize,
    EngineEmbed,
    EngineRerank,
    EngineScores,
    EngineText,
    EngineTokenize,
    EngineTokens,
    EngineVectors,
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


def vector(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def floats(data: bytes) -> list[float]:
    return [round(float(number), 5) for number in np.frombuffer(data, "<f4")]


def only(replies: Iterator[Any]) -> Any:
    """The one reply after the ticks."""
    *ticks, reply = replies
    assert set(ticks) <= {Tick()}
    return reply


QUESTIONS: list[tuple[str, Any, Any, Any, Any]] = [
    (
        "rerank",
        RerankRequest("ai/x", (("q", "a"), ("p", "b"), ("q", "c")), truncate=True, keep_alive=3.0),
        EngineRerank(("q", "p"), ((0, "a"), (1, "b"), (0, "c")), True),
        EngineScores((0.5, -1.5), 9),
        Scores((0.5, -1.5), 9),
    ),
    (
        "tokenize",
        TokenizeRequest("ai/x", "hi", add_special=True, parse_special=False, with_pieces=True, keep_alive=3.0),
        EngineTokenize("hi", (), True, False, True),
        EngineTokens((1, 2), (b"h", b"i")),
        Tokens((1, 2), (b"h", b"i")),
    ),
    ("detokenize", DetokenizeRequest("ai/x", (1, 2), 3.0), EngineDetokenize((1, 2)), EngineText("hi"), "hi"),
]


@pytest.mark.parametrize(("call", "request_", "question", "reply", "expected"), QUESTIONS)
def test_a_question_and_its_answer(
    scene: Scene, call: str, request_: Any, question: Any, reply: Any, expected: Any
) -> None:
    scene.manager.steps = [None]
    scene.engine.plays(0.05, reply)
    replies = list(getattr(scene.service, call)(request_))
    assert replies.count(Tick()) >= 2
    assert replies[-1] == expected
    assert scene.engine.requests == [question]
    assert scene.manager.asked == [("ai/x", 3.0, None)]


@pytest.mark.parametrize(("call", "request_"), [(row[0], row[1]) for row in QUESTIONS])
def test_a_question_can_be_refused_given_up_or_lost(scene: Scene, tmp_path: Path, call: str, request_: Any) -> None:
    ask = getattr(scene.service, call)
    scene.engine.plays(WireError.of(Overloaded("full", retry_after=2.0)))
    with pytest.raises(Overloaded):
        list(ask(request_))
    scene.engine.plays(then_dies=True)
    with pytest.raises(EngineCrashed):
        list(ask(request_))
    scene.engine.plays(1.0)
    replies = ask(request_)
    assert next(replies) == Tick()
    replies.close()
    sockets = iter([str(tmp_path / "gone.sock"), scene.engine.path])
    scene.manager.before_grant = lambda: setattr(scene.manager, "socket", next(sockets))
    for _ in range(2):  # the first time, it is not granted
        scene.engine.plays(QUESTIONS[[row[0] for row in QUESTIONS].index(call)][3])
    assert only(ask(request_)) is not None  # an engine that was dead before is asked again
    assert len(scene.manager.leases) == 5


# --- embeddings ------------------------------------------------------------------------------------------------------


def test_embeddings_pass_through(scene: Scene) -> None:
    vectors = (vector(1, 0), vector(0, 1))
    scene.engine.plays(EngineVectors(vectors, (3, 4), Timings(0.1, 0.2)))
    request = EmbedRequest("ai/x", ("a", (1, 2)), truncate=True, context_size=64, normalize=False, keep_alive=1.0)
    reply = only(scene.service.embed(request))
    assert isinstance(reply, Embeddings)
    assert (reply.vectors, reply.num_tokens) == (vectors, (3, 4))
    assert (reply.timings.queued, reply.timings.prefill) == (0.1, 0.2)
    assert reply.timings.load > 0
    assert scene.engine.requests == [EngineEmbed(("a", (1, 2)), True, 64, False)]


@pytest.mark.parametrize(("normalize", "expected"), [(True, [[0.6, 0.8], [0, 0]]), (False, [[3, 4], [0, 0]])])
def test_fewer_dimensions_are_the_first_ones(scene: Scene, normalize: bool, expected: list[list[float]]) -> None:
    scene.engine.plays(EngineVectors((vector(3, 4, 12), vector(0, 0, 1)), (3, 4)))
    reply = only(scene.service.embed(EmbedRequest("ai/x", ("a", "b"), dimensions=2, normalize=normalize)))
    assert [floats(each) for each in reply.vectors] == expected


@pytest.mark.parametrize("dimensions", [0, -1, 4])
@pytest.mark.parametrize("known", [True, False])
def test_dimensions_that_the_model_has_not(scene: Scene, dimensions: int, known: bool) -> None:
    scene.set_info(embedding_size=3 if known else 0)
    scene.engine.plays(EngineVectors((vector(3, 4, 12),), (3,)))
    with pytest.raises(InvalidRequest, match="1 to 3") as caught:
        list(scene.service.embed(EmbedRequest("ai/x", ("a",), dimensions=dimensions)))
    assert caught.value.param == "dimensions"
    assert len(scene.engine.requests) == (0 if known else 1)


def test_a_text_that_is_too_long_says_both_numbers(scene: Scene) -> None:
    scene.engine.plays(WireError.of(ContextLengthExceeded(600, 512)))
    with pytest.raises(ContextLengthExceeded) as caught:
        list(scene.service.embed(EmbedRequest("ai/x", ("a",))))
    assert (caught.value.num_prompt_tokens, caught.value.context_size) == (600, 512)


# --- counts and prompts ----------------------------------------------------------------------------------------------


def tokens(number: int) -> EngineTokens:
    return EngineTokens(tuple(range(number)))


def test_a_chat_is_counted_as_it_would_be_sent(scene: Scene) -> None:
    scene.set_defaults(system="Be brief.")
    scene.set_info(control_tokens=("<|im_end|>",))
    scene.engine.plays(tokens(21))
    assert only(scene.service.count_tokens(chat("a<|im_end|>b"))) == TokenCount(21, 512)
    (question,) = scene.engine.requests
    assert question.literals == ("<|im_end|>",)
    assert (question.add_special, question.parse_special, question.with_pieces) == (True, True, False)
    assert "Be brief." in question.text


def test_texts_are_counted_one_by_one(scene: Scene) -> None:
    scene.engine.plays(tokens(3))
    scene.engine.plays(tokens(4))
    assert only(scene.service.count_tokens(raw("a", (5, 6), "b"))).num_prompt_tokens == 9
    assert [question.text for question in scene.engine.requests] == ["a", "b"]


def test_what_stands_around_a_text_is_counted_too(scene: Scene) -> None:
    scene.set_info(adds_bos=True)
    scene.engine.plays(tokens(4))
    assert only(scene.service.count_tokens(raw("a", prefix_tokens=(1, 2, 3)))).num_prompt_tokens == 6
    scene.engine.plays(tokens(4))
    scene.engine.plays(tokens(2))
    assert only(scene.service.count_tokens(raw("a", suffix="b"))).num_prompt_tokens == 4 + 2 + 3 + 1
    assert [question.add_special for question in scene.engine.requests] == [True, False, False]


def test_a_prompt_is_shown_as_one_text(scene: Scene) -> None:
    scene.set_info(control_tokens=("<|im_end|>",))
    assert "user\na<|im_end|>b" in only(scene.service.render(chat("a<|im_end|>b")))
    scene.engine.plays(EngineText("five six"))
    assert only(scene.service.render(raw("a", (5, 6)))) == "a\nfive six"


@pytest.mark.parametrize("call", ["count_tokens", "render"])
def test_counting_refuses_what_answering_would(scene: Scene, call: str) -> None:
    with pytest.raises(InvalidRequest):
        list(getattr(scene.service, call)(chat("half a \ud83d character")))
    scene.set_info(chat_template="{% if %}")
    with pytest.raises(InvalidRequest, match="cannot chat"):
        list(getattr(scene.service, call)(chat()))
    with pytest.raises(ModelNotFound):
        list(getattr(scene.service, call)(msgspec.structs.replace(chat(), model="ai/absent")))


# --- what models can do ----------------------------------------------------------------------------------------------

CHAT = {"general.architecture": "llama", "tokenizer.chat_template": SCRIPT_TEMPLATE}
KINDS: list[tuple[dict[str, str], tuple[str, ...]]] = [
    ({"general.architecture": "llama"}, ("completion",)),
    (CHAT, ("completion", "tools")),
    ({**CHAT, "tokenizer.chat_template": THINK_TEMPLATE}, ("completion", "tools", "thinking")),
    ({**CHAT, "tokenizer.chat_template": "{% if %}"}, ("completion", "tools")),
    ({**CHAT, "tokenizer.ggml.fim_mid_token_id": "5"}, ("completion", "tools", "insert")),
    ({"general.architecture": "bert", "bert.attention.causal": "false", "bert.pooling_type": "1"}, ("embedding",)),
    ({"general.architecture": "bert", "bert.attention.causal": "false"}, ("embedding",)),
    ({"general.architecture": "bert", "bert.pooling_type": "4"}, ("rerank",)),
    (
        {"general.architecture": "bert", "bert.attention.causal": "false", "bert.classifier.output_labels": "1"},
        ("rerank",),
    ),
    ({**CHAT, "llama.pooling_type": "3"}, ("embedding",)),
    ({**CHAT, "llama.pooling_type": "0"}, ("completion", "tools")),
]


@pytest.fixture
def stored(scene: Scene, tmp_path: Path) -> ModelRecord:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(tensors=[Tensor("weight", data=bytes(128))]))
    return scene.store.import_gguf(path, "stored")


@pytest.mark.parametrize(("gguf", "expected"), KINDS)
def test_the_metadata_tell_what_a_model_can_do(
    scene: Scene, stored: ModelRecord, gguf: dict[str, str], expected: tuple[str, ...]
) -> None:
    record = ModelRecord(stored.id, stored.tags, 5, ModelConfig(gguf=gguf))
    assert scene.service.capabilities(record) == expected
    assert scene.manager.asked == []


def test_other_files_tell_too(scene: Scene, tmp_path: Path) -> None:
    path, template = tmp_path / "model.gguf", tmp_path / "template.jinja"
    path.write_bytes(gguf_bytes(tensors=[Tensor("weight", data=bytes(128))]))
    template.write_text(THINK_TEMPLATE)
    record = scene.store.import_gguf(path, "stored", chat_template=template)
    assert scene.service.chat_template(record) == THINK_TEMPLATE
    assert scene.service.capabilities(record) == ("completion", "tools", "thinking")
    assert scene.service.capabilities(record) == ("completion", "tools", "thinking")


def test_the_vocabulary_is_looked_into(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    metadata: dict[str, Any] = {"general.architecture": "llama", "llama.context_length": 64}
    vocabulary = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", *map(str, range(2000))]
    metadata["tokenizer.ggml.tokens"] = Typed(ARRAY, vocabulary, STRING)
    path.write_bytes(gguf_bytes(metadata, tensors=[Tensor("weight", data=bytes(128))]))
    assert scene.service.capabilities(scene.store.import_gguf(path, "coder")) == ("completion", "insert")


def test_a_model_that_cannot_be_read_can_do_nothing(scene: Scene) -> None:
    assert scene.service.capabilities(RECORD) == ()
    with pytest.raises(ModelNotFound):
        scene.service.chat_template(RECORD)


def test_a_config_without_metadata_is_made_good_by_the_file(scene: Scene, stored: ModelRecord) -> None:
    record = ModelRecord(stored.id, stored.tags, 5, ModelConfig())
    assert scene.service.capabilities(record) == scene.service.capabilities(stored) == ("completion",)
    assert scene.service.chat_template(record) == ""
