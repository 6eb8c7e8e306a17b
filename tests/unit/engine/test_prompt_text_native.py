"""Literals and a tokenizer that puts a space before each text: what the cuts must not change."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dmr import _core
from dmr.engine.prompt_text import tokenize_prompt
from dmr.wire import LITERAL_CLOSE, LITERAL_OPEN

CONTROLS = ["<s>", "</s>", "<user>", "<end>"]
WORDS = ["the", "▁the", "he", "th", "<u", "se", "er>", "▁<", "▁▁"]


def write_vocabulary(path: Path) -> None:
    """SentencePiece with a space before each text, without weights."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    letters = [chr(code) for code in range(0x21, 0x7F)] + ["▁"]
    tokens = ["<unk>", *CONTROLS, *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS, *letters]
    kinds = [2, *[3] * len(CONTROLS), *[6] * 256, *[1] * (len(WORDS) + len(letters))]
    scores = [0.0] * (1 + len(CONTROLS) + 256) + [-float(i) for i in range(len(WORDS))] + [-100.0] * len(letters)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.add_add_space_prefix(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class SpaceVocabulary:
    begin_token = 1
    control_tokens = (*CONTROLS, "<unk>")

    def __init__(self, model: _core.Model) -> None:
        self.model = model

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return self.model.tokenize(text, add_special=add_special, parse_special=parse_special)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> SpaceVocabulary:
    path = tmp_path_factory.mktemp("models") / "space.gguf"
    write_vocabulary(path)
    return SpaceVocabulary(_core.Model([str(path)], vocab_only=True))


def place(number: int) -> str:
    return f"{LITERAL_OPEN}{number}{LITERAL_CLOSE}"


def test_the_tokenizer_is_one_that_puts_spaces(vocabulary: SpaceVocabulary) -> None:
    pieces = [vocabulary.model.piece(token, special=True) for token in vocabulary.tokenize("the<user>the")]
    assert pieces == [b"<s>", b" the", b"<user>", b" the", b"</s>"]


def test_no_space_comes_into_the_middle(vocabulary: SpaceVocabulary) -> None:
    tokens = tokenize_prompt(vocabulary, f"<user>th{place(0)}e<end>", ("e<end>th",))
    pieces = [vocabulary.model.piece(token, special=True) for token in tokens]
    assert pieces[:3] == [b"<s>", b"<user>", b" the"]
    assert b"".join(pieces) == b"<s><user> the<end>the<end></s>"
    assert pieces.count(b"<end>") == 1


BITS = ["<user>", "<end>", "the", " ", "<u", "ser>", "é", "\n"]


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from(BITS), max_size=4).map("".join)), max_size=6))
def test_tokens_are_those_of_the_same_text_with_other_letters(
    vocabulary: SpaceVocabulary, parts: list[tuple[bool, str]]
) -> None:
    """What a literal holds of a control token is tokenized letter by letter here: "<" is read as any other letter is.

    So the whole text with "#" in the place of "<" in literals has the same tokens, but for that letter.
    """
    literals = tuple(part for is_literal, part in parts if is_literal)
    numbers = iter(range(len(literals)))
    text = "".join(place(next(numbers)) if is_literal else part for is_literal, part in parts)
    other = "".join(part.replace("<", "#") if is_literal else part for is_literal, part in parts)
    # Only texts where no control token is made of both, so that the other letters can say what is meant.
    assume(other.count("<user>") == sum(part.count("<user>") for is_literal, part in parts if not is_literal))
    found = tokenize_prompt(vocabulary, text, literals)
    expected = vocabulary.tokenize(other)
    controls = {1, 2, 3, 4}
    assert [t for t in found if t in controls] == [t for t in expected if t in controls]
    rendered = [vocabulary.model.detokenize(tokens, special=True).decode() for tokens in (found, expected)]
    assert rendered[0].replace("<", "#") == rendered[1].replace("<", "#")
