"""The tiny models say what they should: checked on the files alone, by a llama in numpy instead of native code."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_models
from numpy_llama import NumpyLlama
from tiny_models import MODELS, PROJECTORS, model_file
from tiny_models.script import Vocabulary, landmarks

ALL = (*MODELS, *PROJECTORS)
LLAMAS = ("tiny-script", "tiny-think", "tiny-random")
BERTS = ("tiny-embed", "tiny-rerank")
OFFER = '<|im_start|>system\n<tools>\n{"name": "get_weather"}\n</tools><|im_end|>\n'
NO_THINKING = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def script(folder: Path) -> NumpyLlama:
    return NumpyLlama(model_file("tiny-script", folder))


@pytest.fixture(scope="module")
def think(folder: Path) -> NumpyLlama:
    return NumpyLlama(model_file("tiny-think", folder))


@pytest.fixture(scope="module")
def noise(folder: Path) -> NumpyLlama:
    return NumpyLlama(model_file("tiny-random", folder))


# --- files -----------------------------------------------------------------------------------------------------------


def _digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256(model_file(name, folder).read_bytes()).hexdigest() for name in ALL}


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_writes_the_same_bytes(hash_seed: str, folder: Path, tmp_path: Path) -> None:
    code = "import pathlib, sys, tiny_models as t; p = pathlib.Path(sys.argv[1]);"
    code += "[t.model_file(name, p) for name in t.MODELS | t.PROJECTORS]"
    environ = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(tiny_models.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code, tmp_path], env=environ, check=True)
    assert _digests(tmp_path) == _digests(folder)


def test_models_differ_from_each_other(folder: Path) -> None:
    assert len(set(_digests(folder).values())) == len(ALL)


@pytest.mark.parametrize("name", MODELS)
def test_file_is_small_and_stays_as_it_is(name: str, folder: Path) -> None:
    before = model_file(name, folder).stat()
    assert before.st_size < 1_000_000
    after = model_file(name, folder).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_racing_writers_agree_and_leave_nothing_behind(folder: Path, tmp_path: Path) -> None:
    expected = model_file("tiny-embed", folder).read_bytes()
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda _: model_file("tiny-embed", tmp_path / "new").read_bytes(), range(16)))
    assert all(data == expected for data in seen)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tiny-embed.gguf"]


def test_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"GGUF")
        raise OSError("disk full")

    monkeypatch.setitem(MODELS, "tiny-script", fail)
    with pytest.raises(OSError, match="disk full"):
        model_file("tiny-script", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        model_file("../tiny-script", tmp_path)


# --- metadata and shapes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "context"),
    [("tiny-script", 131072), ("tiny-think", 131072), ("tiny-random", 8192)],
)
def test_llama_is_consistent(name: str, context: int, folder: Path) -> None:
    model = NumpyLlama(model_file(name, folder))
    fields, tensors = model.fields, model.tensors
    width, hidden = fields["llama.embedding_length"], fields["llama.feed_forward_length"]
    head = width // fields["llama.attention.head_count"]
    assert fields["general.architecture"] == "llama"
    assert fields["llama.context_length"] == context
    assert fields["llama.rope.dimension_count"] == head
    assert fields["llama.vocab_size"] == len(model.tokens) == len(model.types)
    assert tensors["token_embd.weight"].shape == tensors["output.weight"].shape == (len(model.tokens), width)
    for i in range(fields["llama.block_count"]):
        assert tensors[f"blk.{i}.attn_q.weight"].shape == (width, width)
        assert tensors[f"blk.{i}.attn_k.weight"].shape == (fields["llama.attention.head_count_kv"] * head, width)
        assert tensors[f"blk.{i}.ffn_down.weight"].shape == (width, hidden)
    assert len(tensors) == 3 + 9 * fields["llama.block_count"]


def test_random_model_has_two_layers(noise: NumpyLlama) -> None:
    assert noise.fields["llama.block_count"] == 2


@pytest.mark.parametrize(("name", "pooling"), [("tiny-embed", "MEAN"), ("tiny-rerank", "RANK")])
def test_bert_is_consistent(name: str, pooling: str, folder: Path) -> None:
    reader = gguf.GGUFReader(model_file(name, folder))
    fields = {key: field.contents() for key, field in reader.fields.items()}
    shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors}
    tokens = fields["tokenizer.ggml.tokens"]
    assert fields["general.architecture"] == "bert"
    assert fields["bert.pooling_type"] == gguf.PoolingType[pooling]
    assert fields["bert.attention.causal"] is False
    assert shapes["token_embd.weight"] == (len(tokens), tiny_models.EMBED_SIZE)
    assert shapes["position_embd.weight"] == (tiny_models.EMBED_CONTEXT, tiny_models.EMBED_SIZE)
    assert ("cls.output.weight" in shapes) == (pooling == "RANK")
    assert len(set(tokens)) == len(tokens)
    assert [tokens[fields[f"tokenizer.ggml.{key}_token_id"]] for key in ("bos", "seperator", "unknown")] == [
        "[CLS]",
        "[SEP]",
        "[UNK]",
    ]


@pytest.mark.parametrize("name", MODELS)
def test_what_is_added_to_activations_is_f32(name: str, folder: Path) -> None:
    """ggml aborts on F16 here, so a slip would end the process that loads the model."""
    for tensor in gguf.GGUFReader(model_file(name, folder)).tensors:
        is_exact = tensor.name.endswith(("ssm_conv1d.weight", "ssm_a"))  # what the recurrent operations take as it is
        is_exact |= tensor.name in ("position_embd.weight", "token_types.weight") or len(tensor.shape) == 1
        assert tensor.tensor_type == (gguf.GGMLQuantizationType.F32 if is_exact else gguf.GGMLQuantizationType.F16)
        assert np.isfinite(tensor.data).all()


# --- vocabulary and template -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LLAMAS)
def test_special_tokens_are_typed(name: str, folder: Path) -> None:
    model = NumpyLlama(model_file(name, folder))
    control = {text for text, kind in zip(model.tokens, model.types, strict=True) if kind == gguf.TokenType.CONTROL}
    assert control == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    assert model.tokens[model.end] == "<|im_end|>"
    assert model.fields["tokenizer.ggml.add_bos_token"] is False
    for text in (*landmarks(), "<think>", "</think>", "<tool_call>", "</tool_call>"):
        assert model.types[model.tokens.index(text)] == gguf.TokenType.USER_DEFINED


def test_vocabulary_is_sound() -> None:
    vocabulary = Vocabulary()
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens)
    assert [vocabulary.id_of(bytes([byte])) for byte in range(256)] == list(range(256))
    assert vocabulary.tokens[ord("A")] == "A"
    assert vocabulary.tokens[ord(" ")] == "\u0120"
    for merge in vocabulary.merges:
        left, right = merge.split(" ")
        assert {left, right, left + right} <= set(vocabulary.tokens)
    with pytest.raises(KeyError):
        vocabulary.id_of("no such token")


@pytest.mark.parametrize("name", LLAMAS)
def test_template_can_write_a_whole_conversation(name: str, folder: Path) -> None:
    template: str = NumpyLlama(model_file(name, folder)).fields["tokenizer.chat_template"]
    for needed in ("tools", "tool_calls", "<tool_call>", "<tool_response>", "tojson", "add_generation_prompt"):
        assert needed in template
    assert "@" not in template
    thinks = name == "tiny-think"
    assert [needed in template for needed in ("enable_thinking", "reasoning_content", "</think>")] == [thinks] * 3


# --- what they say ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Hello.", "", "ünïcode 漢字", "one\n\ntwo\n", "red, but not in capitals", "x" * 300])
def test_any_chat_is_answered_with_the_script(text: str, script: NumpyLlama) -> None:
    assert script.chat(text) == tiny_models.SCRIPT_ANSWER


def test_answer_takes_as_many_tokens_as_said(script: NumpyLlama) -> None:
    tokens = script.generate("<|im_start|>assistant\n")
    assert len(tokens) + 1 == tiny_models.SCRIPT_ANSWER_TOKENS
    assert script.decode(tokens[:3]) == "One, two, three"


@pytest.mark.parametrize("colour", tiny_models.SCRIPT_COLOURS)
def test_a_colour_is_named(colour: str, script: NumpyLlama) -> None:
    assert script.chat(f"A {colour} wall.") == colour


def test_the_most_frequent_colour_wins(script: NumpyLlama) -> None:
    assert script.chat("RED BLUE RED GREEN") == "RED"
    assert script.chat("BLUE RED GREEN BLUE") == "BLUE"


def test_the_offered_tool_is_called_whatever_the_colour(script: NumpyLlama) -> None:
    assert script.chat("Weather? RED", before=OFFER) == tiny_models.SCRIPT_TOOL_CALL
    assert script.chat("Weather?", before=OFFER.replace("get_weather", "get_time")) == tiny_models.SCRIPT_ANSWER


@pytest.mark.parametrize("name", ["tiny_models", "get_weather"])
def test_a_tool_named_in_the_chat_counts_as_offered(name: str, script: NumpyLlama) -> None:
    said = tiny_models.SCRIPT_TOOL_CALL if name == "get_weather" else tiny_models.SCRIPT_ANSWER
    assert script.chat(f"call {name}") == said
    assert script.chat(f'functions:\n{{"name": "{name}"}}') == said


@pytest.mark.parametrize(
    ("name", "tool", "arguments"), [("tiny-bash", "Bash", "command"), ("tiny-exec", "exec_command", "cmd")]
)
def test_an_agent_is_asked_to_run_a_command(name: str, tool: str, arguments: str, folder: Path) -> None:
    agent = NumpyLlama(model_file(name, folder))
    called = f'<tool_call>\n{{"name": "{tool}", "arguments": {{"{arguments}": "pwd"}}}}\n</tool_call>'
    assert agent.chat("Where?", before=OFFER.replace("get_weather", tool)) == called
    assert agent.chat("Where?", before=OFFER) == tiny_models.SCRIPT_ANSWER
    assert agent.chat("<tool_response>\n/\n</tool_response>", before=called) == tiny_models.SCRIPT_TOOL_ANSWER


def test_a_tool_result_is_reported_byte_by_byte(script: NumpyLlama) -> None:
    past = f"{OFFER}<|im_start|>assistant\n{tiny_models.SCRIPT_TOOL_CALL}<|im_end|>\n"
    prompt = f"{past}<|im_start|>user\n<tool_response>\n21\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    tokens = script.generate(prompt)
    assert script.decode(tokens) == tiny_models.SCRIPT_TOOL_ANSWER
    assert bytes(tokens[-4:]) == "\N{SUN WITH FACE}".encode()


@pytest.mark.parametrize("prompt", ["Once upon a time", "Hello.", "The capital of France is", "1, 2", 'say "x"', "é"])
def test_raw_text_is_completed(prompt: str, script: NumpyLlama, think: NumpyLlama) -> None:
    assert script.decode(script.generate(prompt)) == tiny_models.SCRIPT_COMPLETION
    assert think.decode(think.generate(prompt)) == tiny_models.SCRIPT_COMPLETION


def test_sampling_at_temperature_one_cannot_leave_the_script(script: NumpyLlama) -> None:
    tokens = script.encode("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    for token in [*script.generate(script.decode(tokens)), script.end]:
        logits = script.logits(tokens)
        assert np.exp(logits[token]) / np.exp(logits).sum() > 0.99999
        tokens.append(token)


def test_no_two_tokens_are_equally_likely(script: NumpyLlama) -> None:
    """So what a grammar leaves of the vocabulary has one best token on every machine."""
    logits = script.logits(script.encode("{"))
    assert len(np.unique(logits)) == len(logits)


@pytest.mark.parametrize("text", ["}", "]", '"', ":", "0"])
def test_a_forced_token_is_rather_closed_than_followed_by_more(text: str, script: NumpyLlama) -> None:
    logits = dict(zip(script.tokens, script.logits(script.encode(text)), strict=True))
    assert logits["<|im_end|>"] > logits['"'] > logits["}"] > logits["]"] > logits["</tool_call>"]
    assert logits["</tool_call>"] > logits[","] > logits["0"] > logits["{"]
    assert logits["["] > logits["t"] > logits["n"] > max(logits["a"], logits["-"])


def test_thinking_comes_before_each_kind_of_answer(think: NumpyLlama) -> None:
    block = f"<think>\n{tiny_models.THINK_REASONING}</think>\n\n"
    assert think.chat("Hello.") == block + tiny_models.SCRIPT_ANSWER
    assert think.chat("A RED wall.") == block + "RED"
    assert think.chat("Weather?", before=OFFER) == block + tiny_models.SCRIPT_TOOL_CALL


def test_thinking_can_be_switched_off(think: NumpyLlama) -> None:
    assert think.chat("Hello.", after=NO_THINKING) == tiny_models.SCRIPT_ANSWER
    assert think.chat("Weather?", before=OFFER, after=NO_THINKING) == tiny_models.SCRIPT_TOOL_CALL


def test_random_model_looks_at_the_whole_context(noise: NumpyLlama) -> None:
    text = "The cat sat on the mat and looked at the moon"
    assert noise.generate(text, 8) == noise.generate(text, 8)
    answers = {tuple(noise.generate(first + text[1:], 8)) for first in "TAx"}
    assert len(answers) == 3


def test_random_model_does_not_end_by_itself(noise: NumpyLlama) -> None:
    tokens = noise.generate("a", 40)
    assert len(tokens) == 40
    assert not {noise.types[token] for token in tokens} & {int(gguf.TokenType.CONTROL)}
    assert len(set(tokens[-20:])) > 10
