from __future__ import annotations

import time
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmr.engine.prefix_tree import Place, PrefixTree, num_same

MEDIA = hash("picture")  # a token that no vocabulary has


def insert(tree: PrefixTree[str], text: str) -> Place[str]:
    return tree.insert([ord(letter) for letter in text], len(text), text)


def shared(tree: PrefixTree[str], text: str, limit: int = 99) -> tuple[int, str | None]:
    tokens = [ord(letter) for letter in text]
    return tree.longest_shared(tokens, min(limit, len(tokens)))


def whole(tree: PrefixTree[str], text: str) -> str | None:
    place = tree.longest_whole([ord(letter) for letter in text], len(text))
    return place and place.value


def test_an_empty_tree_shares_nothing() -> None:
    tree = PrefixTree[str]()
    assert shared(tree, "abc") == (0, None)
    assert whole(tree, "abc") is None
    tree.check_integrity([])


def test_the_longest_common_beginning_is_found() -> None:
    tree = PrefixTree[str]()
    places = [insert(tree, text) for text in ("abcdef", "abcxyz", "abc", "q")]
    tree.check_integrity(places)
    assert shared(tree, "abcdxx") == (4, "abcdef")
    assert shared(tree, "abcxyzab") == (6, "abcxyz")
    assert shared(tree, "qq") == (1, "q")
    assert shared(tree, "abcdef", limit=5) == (5, "abcdef")
    assert shared(tree, "abQ")[0] == 2
    assert shared(tree, "z") == (0, None)


def test_the_longest_that_is_all_there_is_found() -> None:
    tree = PrefixTree[str]()
    places = [insert(tree, text) for text in ("abcd", "ab", "abcx", "abcdefgh")]
    assert whole(tree, "abcdefg") == "abcd"
    assert whole(tree, "abcQ") == "ab"
    assert whole(tree, "abcdefghi") == "abcdefgh"
    assert whole(tree, "a") is None
    assert sorted(place.value for place in tree.beginnings_of(places[3])) == ["ab", "abcd"]
    assert tree.beginnings_of(places[2]) == [places[1]]


def test_equal_ones_are_beginnings_of_each_other() -> None:
    tree = PrefixTree[str]()
    one, other = insert(tree, "abc"), insert(tree, "abc")
    assert tree.beginnings_of(one) == [other]
    tree.remove(one)
    assert shared(tree, "abcd") == (3, "abc")
    tree.check_integrity([other])


def test_what_grows_is_seen_at_once_and_parts_where_it_differs() -> None:
    tree = PrefixTree[str]()
    one, other = tree.insert([1, 2], 2, "one"), tree.insert([1, 2], 2, "other")
    one.token_ids += [3, 4]
    tree.extend(one, 4)
    other.token_ids += [3, 9]
    tree.extend(other, 3)
    tree.check_integrity([one, other])
    assert tree.longest_shared([1, 2, 3, 4], 4) == (4, "one")
    tree.extend(other, 4)
    tree.check_integrity([one, other])
    assert tree.longest_shared([1, 2, 3, 9], 4) == (4, "other")
    tree.shorten(other, 3)
    tree.check_integrity([one, other])
    assert tree.longest_shared([1, 2, 3, 9], 4)[0] == 3
    tree.shorten(one, 0)
    tree.remove(other)
    tree.check_integrity([one])
    assert tree.longest_shared([1, 2, 3, 9], 4) == (0, None)


def test_an_edge_that_is_cut_above_a_single_child_goes_on_in_it() -> None:
    tree = PrefixTree[str]()
    inside = insert(tree, "aaaa")
    places = [insert(tree, text) for text in ("aaaaaaaab", "aaaaaaaac")]
    tree.remove(places.pop())
    longer = insert(tree, "aaaaaaaabbb")
    tree.check_integrity([inside, *places, longer])
    other = insert(tree, "aaaaaad")
    tree.check_integrity([inside, *places, longer, other])
    assert shared(tree, "aaaaaaaabbbb") == (11, "aaaaaaaabbb")


def test_tokens_need_not_be_of_a_vocabulary() -> None:
    tree = PrefixTree[str]()
    tree.insert([1, MEDIA, 2, -5], 4, "a picture")
    assert tree.longest_shared([1, MEDIA, 2, 7], 4) == (3, "a picture")
    assert tree.longest_shared([1, MEDIA + 1, 2, 7], 4) == (1, "a picture")


@pytest.mark.parametrize("differs", [0, 1, 500, 998, 999, None])
def test_lists_are_compared_up_to_where_they_part(differs: int | None) -> None:
    one, other = list(range(1000)), list(range(1000))
    if differs is not None:
        other[differs] = -1
    assert num_same(one, other, 0, 1000) == (1000 if differs is None else differs)
    assert num_same(one, other, 0, 700) == min(700, 1000 if differs is None else differs)


# --- random trees against a plain list of what is in them ------------------------------------------------------------


class Act(NamedTuple):
    kind: str
    which: int
    tokens: list[int]


ACTS = st.lists(
    st.builds(
        Act,
        kind=st.sampled_from(["insert", "insert", "extend", "extend", "shorten", "remove"]),
        which=st.integers(0, 9),
        tokens=st.lists(st.integers(0, 2), min_size=1, max_size=9),
    ),
    max_size=60,
)


def check_edges(places: list[Place[int]]) -> None:
    """Each place's own tokens are those of the edges that lead to it."""
    for place in places:
        node = place.node
        while node.parent is not None:
            end = min(node.end, place.length)
            assert place.token_ids[node.start : end] == node.token_ids[node.start : end]
            node = node.parent


def check_answers(tree: PrefixTree[int], places: list[Place[int]], asked: list[int]) -> None:
    held = [place.token_ids[: place.length] for place in places]
    lengths = [num_same(tokens, asked, 0, min(len(tokens), len(asked))) for tokens in held]
    length, value = tree.longest_shared(asked, len(asked))
    assert length == max(lengths, default=0)
    if length:
        (owner,) = [place for place in places if place.value == value]
        assert owner.token_ids[:length] == asked[:length]
        assert owner.length >= length
    whole = tree.longest_whole(asked, len(asked))
    expected = [tokens for tokens in held if asked[: len(tokens)] == tokens]
    assert (whole.length if whole else -1) == max(map(len, expected), default=-1)


@settings(max_examples=500, deadline=None)
@given(acts=ACTS)
def test_a_tree_answers_as_a_list_of_lists_would(acts: list[Act]) -> None:
    tree = PrefixTree[int]()
    places: list[Place[int]] = []
    for number, (kind, which, tokens) in enumerate(acts):
        place = places[which % len(places)] if places else None
        if kind == "insert":
            places.append(tree.insert(tokens, which % (len(tokens) + 1), number))
        elif place and kind == "extend":
            place.token_ids += tokens
            tree.extend(place, min(len(place.token_ids), place.length + which))
        elif place and kind == "shorten":
            # What comes after the end may be anything: who shortens is about to write something else there.
            place.token_ids = place.token_ids[: place.length - min(place.length, which)]
            tree.shorten(place, len(place.token_ids))
        elif place:
            tree.remove(place)
            places.remove(place)
        tree.check_integrity(places)
        check_edges(places)
        check_answers(tree, places, tokens)
        for place in places:
            beginnings = [
                o for o in places if place.token_ids[: o.length] == o.token_ids[: o.length] and o is not place
            ]
            expected = {id(other) for other in beginnings if other.length <= place.length}
            assert {id(other) for other in tree.beginnings_of(place)} == expected


def test_asking_costs_the_same_however_many_are_in_it() -> None:
    """Time is noisy, but a thousand strangers must not make it ten times slower."""
    front = list(range(500))

    def seconds(num_others: int) -> float:
        tree = PrefixTree[int]()
        for other in range(num_others):
            tree.insert([*front, 1000 + other, *front], 1001, other)
        asked = [*front, 1000, *front]
        best = 1.0
        for _ in range(20):
            began = time.perf_counter()
            assert tree.longest_shared(asked, 1001) == (1001, 0)
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(1000) < 10 * seconds(2)
