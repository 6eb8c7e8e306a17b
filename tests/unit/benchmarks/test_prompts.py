from __future__ import annotations

from versus.prompts import conversation_turn, shared_prefix, words


def test_a_seed_always_gives_the_same_words() -> None:
    # Written down, because a result can be repeated on another machine only if these never change.
    assert words("row 2 pair 0 user 0", 6) == "board help common feet cut minute"
    assert len(words("x", 60).split()) == 60


def test_other_seeds_share_no_beginning() -> None:
    texts = [words(f"row 2 pair {pair} user {user}", 20) for pair in range(5) for user in range(8)]
    assert len({tuple(text.split()[:2]) for text in texts}) == len(texts)


def test_a_prompt_with_a_prefix_begins_with_it() -> None:
    prefix = shared_prefix("a", 300)
    assert len(prefix.split()) == 304
    assert prefix != shared_prefix("b", 300)
    assert conversation_turn("a", 12).startswith("User: ")
    assert conversation_turn("a", 12).endswith("\nAssistant:")
