from __future__ import annotations

import pytest

from dmr.engine.media_spans import MediaSpan, MediaSpans, place_ids, position_behind, whole_pieces


def span(start: int, num_places: int, num_positions: int | None = None, *, is_divisible: bool = True) -> MediaSpan:
    return MediaSpan(start, num_places, num_positions or num_places, is_divisible, piece=None)


def test_a_chunk_is_of_text_or_of_one_piece() -> None:
    spans = MediaSpans([span(3, 4), span(7, 2)])
    assert [spans.chunk_from(place, 100) for place in (0, 2, 3, 5, 7, 9)] == [3, 1, 4, 2, 2, 100]
    assert [spans.chunk_from(place, 2) for place in (0, 3, 6, 8)] == [2, 2, 1, 1]


def test_what_is_indivisible_is_taken_whole() -> None:
    spans = MediaSpans([span(3, 40, is_divisible=False)])
    assert spans.chunk_from(3, 8) == 40
    assert [spans.snapped(count) for count in (2, 3, 4, 42, 43, 50)] == [2, 3, 3, 3, 43, 50]


def test_what_can_be_divided_is_begun_in_the_middle() -> None:
    assert MediaSpans([span(3, 40)]).snapped(20) == 20


def test_a_piece_that_can_be_divided_is_not_cut_too_small() -> None:
    spans = MediaSpans([span(4, 100)])
    assert [spans.chunk_from(place, 16, 64) for place in (4, 68)] == [64, 36]
    assert spans.chunk_from(4, 80, 64) == 80
    assert spans.chunk_from(0, 2, 64) == 2  # text has another price


def test_positions_fall_behind_places_where_a_piece_has_fewer() -> None:
    spans = MediaSpans([span(3, 12, 4), span(20, 9, 3)])
    assert not spans.keeps_positions
    assert [spans.position_of(place) for place in (0, 3, 15, 20, 29)] == [0, 3, 7, 12, 15]
    assert MediaSpans([span(3, 12)]).keeps_positions


def test_a_piece_with_fewer_positions_is_begun_at_its_start() -> None:
    spans = MediaSpans([span(3, 12, 4)])
    assert [spans.snapped(count) for count in (2, 3, 4, 14, 15, 16)] == [2, 3, 3, 3, 15, 16]


def test_who_knows_the_tokens_knows_the_positions() -> None:
    tokens = [5, 6, 7, *place_ids(99, 12, 4), 8, *place_ids(98, 9, 3), *place_ids(97, 5, 5), 9]
    spans = MediaSpans([span(3, 12, 4), span(16, 9, 3), span(25, 5)])
    assert len(set(tokens)) == len(tokens)
    assert all(token < 0 for token in tokens[3:15])
    for count in range(len(tokens) + 1):
        whole = whole_pieces(tokens, count)
        assert whole == spans.snapped(count)
        assert position_behind(tokens, whole) == spans.position_of(whole)


@pytest.mark.parametrize(("place", "start"), [(2, None), (3, 3), (6, 3), (7, 7), (8, 7), (9, None)])
def test_the_span_at_a_place(place: int, start: int | None) -> None:
    found = MediaSpans([span(3, 4), span(7, 2)]).at(place)
    assert (found and found.start) == start
