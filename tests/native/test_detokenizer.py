"""Tokens to text: whole characters, nothing that may become a stop string, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dmr import _core

SUN = "🌞".encode()
REPLACED = "\ufffd"
BYTES = st.integers(0, 255)  # the first 256 tokens of the tiny vocabularies are the bytes


def decoded(detokenizer: _core.Detokenizer, tokens: list[int]) -> list[str]:
    """What each push gives, and at last the flush."""
    return [*(detokenizer.push(token) for token in tokens), detokenizer.flush()]


def byte_tokens(model: _core.Model, data: bytes) -> list[int]:
    pieces = {model.piece(token): token for token in range(256)}
    return [pieces[bytes([byte])] for byte in data]


# --- characters ------------------------------------------------------------------------------------------------------


def test_character_comes_with_its_last_byte(random_model: _core.Model) -> None:
    tokens = byte_tokens(random_model, b"a" + SUN + b"b")
    assert decoded(_core.Detokenizer(random_model), tokens) == ["a", "", "", "", "🌞", "b", ""]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xff", REPLACED),
        (b"\x80\x80", REPLACED * 2),
        (SUN[:3], REPLACED),
        (SUN[:2] + b"x", REPLACED + "x"),
        (SUN[:3] + SUN, REPLACED + "🌞"),
        (b"\xc0\xaf", REPLACED * 2),  # overlong
        (b"\xed\xa0\x80", REPLACED * 3),  # a surrogate
        (b"\xf4\x90\x80\x80", REPLACED * 4),  # beyond U+10FFFF
        (b"\xe4\xb8", REPLACED),
        ("é€🌞".encode(), "é€🌞"),
    ],
)
def test_bytes_that_are_no_character_become_one_sign_each(
    random_model: _core.Model, data: bytes, expected: str
) -> None:
    assert "".join(decoded(_core.Detokenizer(random_model), byte_tokens(random_model, data))) == expected
    assert _core.valid_utf8(data) == expected == data.decode(errors="replace")


@given(st.binary(max_size=40))
@example(b"\xf0\x9f\x8c")
@example(b"\xe2\x28\xa1\xed\xbf\xbf\xf8")
def test_valid_utf8_is_pythons(data: bytes) -> None:
    assert _core.valid_utf8(data) == data.decode(errors="replace")


@given(st.lists(BYTES, max_size=40))
def test_pushes_add_up_to_the_whole(random_model: _core.Model, tokens: list[int]) -> None:
    pieces = decoded(_core.Detokenizer(random_model), tokens)
    whole = b"".join(random_model.piece(token) for token in tokens)
    assert "".join(pieces) == whole.decode(errors="replace")


# --- control tokens --------------------------------------------------------------------------------------------------


def test_control_tokens_are_silent_unless_wanted(script_model: _core.Model) -> None:
    end = script_model.eos
    assert decoded(_core.Detokenizer(script_model), [end]) == ["", ""]
    assert decoded(_core.Detokenizer(script_model, special=True), [end]) == ["<|im_end|>", ""]
    wanted = _core.Detokenizer(script_model, preserved_tokens=["<|im_end|>", "no token of this vocabulary", ""])
    assert decoded(wanted, [end, script_model.bos]) == ["<|im_end|>", "", ""]
    assert wanted.piece(end) == b"<|im_end|>"
    assert wanted.piece(script_model.bos) == b""


# --- stop strings ----------------------------------------------------------------------------------------------------


def test_stop_string_across_tokens_is_never_shown(random_model: _core.Model) -> None:
    detokenizer = _core.Detokenizer(random_model, stop=["STOP"])
    shown = [detokenizer.push(token) for token in byte_tokens(random_model, b"go STOP now")]
    assert "".join(shown) == "go "
    assert detokenizer.stopped_by == 0
    assert detokenizer.flush() == ""


def test_beginning_of_a_stop_string_is_held_back_and_let_go(random_model: _core.Model) -> None:
    detokenizer = _core.Detokenizer(random_model, stop=["STOP"])
    tokens = byte_tokens(random_model, b"xSTOxST")
    assert decoded(detokenizer, tokens) == ["x", "", "", "", "STOx", "", "", "ST"]
    assert detokenizer.stopped_by == -1


def test_stop_string_inside_one_token(script_model: _core.Model) -> None:
    detokenizer = _core.Detokenizer(script_model, stop=["wo"])
    tokens = script_model.tokenize("One, two, three")
    assert script_model.piece(tokens[1]) == b", two"
    assert detokenizer.push(tokens[0]) == "One"
    assert detokenizer.push(tokens[1]) == ", t"
    assert (detokenizer.push(tokens[2]), detokenizer.stopped_by) == ("", 0)


def test_earliest_stop_wins_and_of_equals_the_first_named(script_model: _core.Model) -> None:
    token = script_model.tokenize(" sunny ")[0]
    for stop, winner, shown in (
        (["nn", "un"], 1, " s"),
        (["un", "unn"], 0, " s"),
        (["unn", "un"], 0, " s"),
        (["zz", "y "], 1, " sunn"),
    ):
        detokenizer = _core.Detokenizer(script_model, stop=stop)
        assert (detokenizer.push(token), detokenizer.stopped_by) == (shown, winner)


def test_stop_ends_before_half_a_character(random_model: _core.Model) -> None:
    detokenizer = _core.Detokenizer(random_model, stop=["!"])
    assert "".join(decoded(detokenizer, byte_tokens(random_model, SUN[:2] + b"!"))) == REPLACED


def test_stop_of_several_characters_and_bytes(random_model: _core.Model) -> None:
    detokenizer = _core.Detokenizer(random_model, stop=["ü🌞\0"])
    shown = decoded(detokenizer, byte_tokens(random_model, "süß ü🌞x ü🌞\0rest".encode()))
    assert "".join(shown) == "süß ü🌞x "
    assert detokenizer.stopped_by == 0


STOPS = st.lists(st.text("ab\u00e9", min_size=1, max_size=4), max_size=3)
PIECES = ("a", "b", "\u00e9", "c", "\u4e16")


def expected_text(model: _core.Model, tokens: list[int], stops: list[str]) -> tuple[str, int]:
    """The text up to the first stop string, as it was when the token that completed one had come."""
    whole = b""
    for token in tokens:
        whole += model.piece(token)
        found = [(whole.find(stop.encode()), i) for i, stop in enumerate(stops) if stop.encode() in whole]
        if found:
            place, winner = min(found)
            return whole[:place].decode(errors="replace"), winner
    return whole.decode(errors="replace"), -1


@given(st.lists(st.sampled_from(PIECES), max_size=30), st.lists(BYTES, max_size=3), STOPS)
def test_text_is_the_whole_cut_at_the_first_stop(
    random_model: _core.Model, pieces: list[str], noise: list[int], stops: list[str]
) -> None:
    tokens = [*byte_tokens(random_model, "".join(pieces[:15]).encode()), *noise]
    tokens += byte_tokens(random_model, "".join(pieces[15:]).encode())
    detokenizer = _core.Detokenizer(random_model, stop=stops)
    shown = "".join(decoded(detokenizer, tokens))
    assert (shown, detokenizer.stopped_by) == expected_text(random_model, tokens, stops)


@given(st.text("One, twohresip", max_size=30), STOPS, st.lists(st.sampled_from([", two", "ree, f", "One"]), max_size=2))
def test_the_same_with_tokens_of_many_letters(
    script_model: _core.Model, text: str, stops: list[str], more: list[str]
) -> None:
    tokens = script_model.tokenize(text + "One, two, three" + text, add_special=False)
    detokenizer = _core.Detokenizer(script_model, stop=[*stops, *more])
    shown = "".join(decoded(detokenizer, tokens))
    assert (shown, detokenizer.stopped_by) == expected_text(script_model, tokens, [*stops, *more])


@pytest.mark.parametrize("stop", [[""], ["a", ""], ["x" * 4097], ["x"] * 65])
def test_stop_strings_that_cannot_be_used(random_model: _core.Model, stop: list[str]) -> None:
    with pytest.raises(ValueError, match="stop string"):
        _core.Detokenizer(random_model, stop=stop)
    longest = _core.Detokenizer(random_model, stop=["x" * 4096] * 64)
    assert decoded(longest, byte_tokens(random_model, b"xxy")) == ["", "", "xxy", ""]


@pytest.mark.parametrize("token", [-1, 437, 2**31 - 1])
def test_tokens_out_of_the_vocabulary(random_model: _core.Model, token: int) -> None:
    detokenizer = _core.Detokenizer(random_model)
    detokenizer.push(byte_tokens(random_model, b"\xe4")[0])
    for call in (detokenizer.push, detokenizer.piece):
        with pytest.raises(ValueError, match="not in the vocabulary"):
            call(token)
    assert detokenizer.flush() == REPLACED
