"""Models: loading, what can go wrong with it, and the tokenizer."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native.objects import greedy, make_context
from tiny_models import EMBED_CONTEXT, EMBED_SIZE, RANDOM_CONTEXT, SCRIPT_CONTEXT, model_file
from tiny_models.script import SCRIPT_TEMPLATE, Vocabulary

from dmr import _core

Load = Callable[[str], _core.Model]


@pytest.fixture(scope="module")
def random_file(models_folder: Path) -> Path:
    return model_file("tiny-random", models_folder)


# --- loading ---------------------------------------------------------------------------------------------------------


def test_progress_goes_from_nothing_to_all(random_file: Path) -> None:
    seen: list[float] = []

    def progress(fraction: float) -> None:
        seen.append(fraction)

    _core.Model([str(random_file)], progress=progress)
    assert seen == sorted(seen)
    assert 0.0 <= seen[0] < 1.0
    assert seen[-1] == 1.0


@pytest.mark.parametrize("use_mmap", [True, False])
def test_false_cancels_the_load(random_file: Path, use_mmap: bool) -> None:
    with pytest.raises(_core.Cancelled):
        _core.Model([str(random_file)], use_mmap=use_mmap, progress=lambda fraction: False)


LOAD_PIPE = """
import sys
from dmr import _core
try:
    _core.Model([sys.argv[1]])
except _core.LoadError as error:
    print(error)
"""


class Unwelcome(Exception):
    pass


@pytest.mark.parametrize("last", [False, True])
def test_what_progress_raises_is_raised_by_the_load(random_file: Path, last: bool) -> None:
    def progress(fraction: float) -> bool:
        if not last or fraction == 1.0:
            raise Unwelcome(f"at {fraction}")
        return True

    with pytest.raises(Unwelcome, match="at 1.0" if last else "at 0"):
        _core.Model([str(random_file)], progress=progress)


def test_interrupts_pass_through_progress(random_file: Path) -> None:
    def progress(fraction: float) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _core.Model([str(random_file)], progress=progress)


def test_progress_that_answers_nonsense_is_a_type_error(random_file: Path) -> None:
    with pytest.raises(TypeError):
        _core.Model([str(random_file)], progress=lambda fraction: "go on")  # type: ignore[arg-type, return-value]


def test_progress_runs_in_the_thread_that_loads(random_file: Path) -> None:
    threads: set[int] = set()

    def progress(fraction: float) -> None:
        threads.add(threading.get_ident())

    _core.Model([str(random_file)], progress=progress)
    assert threads == {threading.get_ident()}


def test_tensors_are_checked_when_asked_for(random_file: Path) -> None:
    assert _core.Model([str(random_file)], check_tensors=True).num_layers == 2


def test_vocabulary_alone_tokenizes_and_refuses_to_compute(random_file: Path) -> None:
    model = _core.Model([str(random_file)], vocab_only=True)
    assert model.detokenize(model.tokenize("the user")) == b"the user"
    context, batch = make_context(model), _core.Batch()
    batch.add(0, [1], 0)
    with pytest.raises(ValueError):
        context.decode(batch)


def test_no_files_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        _core.Model([])


# --- files that are no models ----------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(_core.LoadError) as caught:
        _core.Model([str(path)])
    assert path.name in str(caught.value)
    return str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "absent.gguf")


def test_directory(tmp_path: Path) -> None:
    assert "not a regular file" in refusal(tmp_path)


def test_pipe_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with subprocess.Popen([sys.executable, "-c", LOAD_PIPE, str(pipe)], stdout=subprocess.PIPE, text=True) as child:
        try:
            output, _ = child.communicate(timeout=10)
        finally:
            child.kill()
    assert "not a regular file" in output


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(b"GGUF")
    path.chmod(0)
    assert "cannot open" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"G", b"GGUF", b"GGUF\x03\x00\x00\x00", b"not a model" * 1000, bytes(4096)])
def test_content_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    reason = refusal(path)
    assert "cannot load" in reason
    assert "llama" in reason or "gguf" in reason


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.9, 0.9999])
def test_truncated_file(tmp_path: Path, random_file: Path, kept: float) -> None:
    data = random_file.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(len(data) * kept)])
    assert "cannot load" in refusal(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"GGUF\x03", b"GGUF\x63"),  # a version that does not exist
        (b"llama.block_count", b"llama.block_kount"),
        (b"general.architecture", b"general.architektura"[:20]),
        (b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"),
        (b"token_embd.weight", b"token_embd.weighs"),
    ],
)
def test_damaged_header(tmp_path: Path, random_file: Path, old: bytes, new: bytes) -> None:
    data = random_file.read_bytes()
    assert old in data
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data.replace(old, new, 1))
    assert "cannot load" in refusal(path)


def test_reason_survives_bytes_that_are_no_text(tmp_path: Path, random_file: Path) -> None:
    data = random_file.read_bytes().replace(b"blk.1.ffn_norm.weight", b"blk.1.ffn_norm.\xff\xfe\xff\xfe\xff\xfe", 1)
    path = tmp_path / "bytes.gguf"
    path.write_bytes(data)
    _core.take_log()
    assert "cannot load" in refusal(path)
    assert any("bytes.gguf" in line for _, line in _core.take_log())


def write_shards(source: Path, folder: Path, tensors_per_shard: int) -> list[Path]:
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(folder / "split.gguf", "llama", split_max_tensors=tensors_per_shard)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0], field.types[-1])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("split-*.gguf"))


def test_shards_make_the_same_model(tmp_path: Path, random_file: Path, random_model: _core.Model) -> None:
    shards = write_shards(random_file, tmp_path, 6)
    assert len(shards) > 2
    model = _core.Model([str(shard) for shard in shards])
    assert model.num_parameters == random_model.num_parameters
    assert greedy(make_context(model), 0, [1, 2, 3], 8) == greedy(make_context(random_model), 0, [1, 2, 3], 8)


def test_missing_shard(tmp_path: Path, random_file: Path) -> None:
    shards = write_shards(random_file, tmp_path, 6)
    with pytest.raises(_core.LoadError, match="cannot load"):
        _core.Model([str(shard) for shard in shards[:-1]])


# --- what a model says of itself -------------------------------------------------------------------------------------


def test_facts_of_the_random_llama(random_model: _core.Model) -> None:
    vocabulary = Vocabulary()
    assert random_model.description.startswith("llama")
    assert random_model.context_length == RANDOM_CONTEXT
    assert random_model.num_layers == 2
    assert random_model.embedding_length == 128
    assert random_model.num_vocabulary == len(vocabulary)
    assert random_model.chat_template == SCRIPT_TEMPLATE
    assert 0 < random_model.num_parameters < random_model.size_bytes
    assert (random_model.has_encoder, random_model.has_decoder) == (False, True)
    assert (random_model.is_recurrent, random_model.is_hybrid, random_model.sliding_window) == (False, False, 0)


def test_facts_of_the_bert(embed_model: _core.Model) -> None:
    assert embed_model.context_length == EMBED_CONTEXT
    assert embed_model.embedding_length == EMBED_SIZE
    assert embed_model.chat_template == ""
    assert embed_model.adds_bos


def test_metadata_is_the_files_own(script_model: _core.Model) -> None:
    metadata = script_model.metadata
    assert metadata["general.name"] == "tiny script"
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.context_length"] == str(SCRIPT_CONTEXT)
    assert metadata["tokenizer.chat_template"] == script_model.chat_template


def test_special_tokens(script_model: _core.Model) -> None:
    vocabulary = Vocabulary()
    end, text_end = vocabulary.id_of("<|im_end|>"), vocabulary.id_of("<|endoftext|>")
    assert (script_model.eos, script_model.bos) == (end, text_end)
    assert not script_model.adds_bos
    assert not script_model.adds_eos
    assert end in script_model.end_tokens
    assert [t for t in range(len(vocabulary)) if script_model.is_end(t)] == sorted(script_model.end_tokens)
    assert script_model.is_control(end)
    assert not script_model.is_control(vocabulary.id_of("the"))


def test_closed_model_says_so(load: Load) -> None:
    model = load("tiny-random")
    model.close()
    model.close()
    with pytest.raises(_core.Error, match="closed"):
        model.tokenize("x")
    with pytest.raises(_core.Error, match="closed"):
        _ = model.num_vocabulary


def test_context_outlives_the_models_close(load: Load) -> None:
    model = load("tiny-random")
    context = make_context(model)
    model.close()
    batch = _core.Batch()
    batch.add(0, [1, 2, 3], 0)
    assert context.decode(batch) == _core.DecodeStatus.DONE


# --- tokens ----------------------------------------------------------------------------------------------------------

TEXTS = ["", " ", "the user", "\n\n", "Grüße, 世界! 🌞👩‍👩‍👧", "a\0b", "\u202e\ufeff", "x" * 10000, "\t \r\n  \u00a0"]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_text_comes_back_from_its_tokens(script_model: _core.Model, text: str) -> None:
    tokens = script_model.tokenize(text)
    assert script_model.detokenize(tokens, special=True).decode() == text
    assert b"".join(script_model.piece(token, special=True) for token in tokens).decode() == text


@given(st.text(max_size=80))
def test_any_text_comes_back_from_its_tokens(random_model: _core.Model, text: str) -> None:
    """By their pieces; `detokenize` tidies spaces before punctuation, as llama.cpp does."""
    tokens = random_model.tokenize(text, parse_special=False)
    assert b"".join(random_model.piece(token) for token in tokens).decode() == text
    assert random_model.detokenize(tokens).decode().replace(" ", "") == text.replace(" ", "")


def test_special_text_is_one_token_only_when_asked_for(script_model: _core.Model) -> None:
    end = Vocabulary().id_of("<|im_end|>")
    assert script_model.tokenize("<|im_end|>", parse_special=True) == [end]
    spelled = script_model.tokenize("<|im_end|>", parse_special=False)
    assert end not in spelled
    assert script_model.detokenize(spelled) == b"<|im_end|>"


def test_control_tokens_show_only_when_asked_for(script_model: _core.Model) -> None:
    end = script_model.eos
    assert script_model.piece(end) == b""
    assert script_model.piece(end, special=True) == b"<|im_end|>"
    assert script_model.detokenize([end]) == b""
    assert script_model.detokenize([end], special=True) == b"<|im_end|>"


def test_bert_adds_its_begin_and_end(embed_model: _core.Model) -> None:
    bare = embed_model.tokenize("good morning", add_special=False)
    whole = embed_model.tokenize("good morning", add_special=True)
    assert whole[1:-1] == bare
    assert whole[0] == embed_model.bos
    assert embed_model.detokenize(whole, remove_special=True).decode().strip() == "good morning"


def test_long_text_without_spaces_takes_no_time(script_model: _core.Model) -> None:
    assert script_model.detokenize(script_model.tokenize("the" * 100_000)) == b"the" * 100_000


@pytest.mark.parametrize("token", [-1, -(2**31), 2**31 - 1, 437])
def test_tokens_out_of_the_vocabulary(script_model: _core.Model, token: int) -> None:
    assert script_model.num_vocabulary == 437
    for call in (script_model.piece, script_model.is_end, script_model.is_control):
        with pytest.raises(ValueError, match="not in the vocabulary"):
            call(token)
    with pytest.raises(ValueError, match="not in the vocabulary"):
        script_model.detokenize([1, token])
