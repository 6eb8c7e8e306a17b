from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from unit.bench.scripted_peer import CHUNKED, DONE, END, USAGE, Peer, against, chunk, event, text

from dmr.bench.load import LoadClient, Outcome
from dmr.errors import InvalidRequest


def complete(peer: Peer, *, timeout: float = 5.0, **options: Any) -> Outcome:
    return against(peer, lambda: LoadClient(peer.url, timeout=timeout).complete({"model": "m"}, **options))


def test_a_stream_is_measured() -> None:
    peer = Peer([CHUNKED, text(""), 0.02, text("Hel"), 0.02, text("lo"), USAGE, DONE, END])
    outcome = complete(peer)
    assert (outcome.text, outcome.error, outcome.cancelled) == ("Hello", None, False)
    assert (outcome.num_prompt_tokens, outcome.num_cached_tokens, outcome.num_completion_tokens) == (7, 5, 3)
    assert len(outcome.arrivals) == 2  # the empty one is none
    assert outcome.began < outcome.arrivals[0] < outcome.arrivals[1] <= outcome.ended
    assert outcome.ttft == outcome.arrivals[0] - outcome.began
    assert outcome.ttft >= 0.02
    assert outcome.inter_token_latencies == [outcome.arrivals[1] - outcome.arrivals[0]]
    assert outcome.inter_token_latencies[0] >= 0.02


def test_the_request_asks_for_a_stream_with_its_usage() -> None:
    peer = Peer([CHUNKED, DONE, END])
    client_headers = {"Authorization": "Bearer key"}
    against(peer, lambda: LoadClient(peer.url + "/engines/", client_headers).complete({"model": "m"}, path="/v1/x"))
    assert peer.head.startswith("POST /engines/v1/x HTTP/1.1\r\n")
    assert f"\r\nHost: {peer.url.removeprefix('http://')}\r\n" in peer.head
    assert "\r\nAuthorization: Bearer key\r\n" in peer.head
    assert peer.body == {"model": "m", "stream": True, "stream_options": {"include_usage": True}}


def test_a_chat_is_understood() -> None:
    deltas = [{"role": "assistant", "content": ""}, {"reasoning_content": "Hm. "}, {"content": "Yes"}, {}]
    events = [event({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    outcome = complete(Peer([CHUNKED, *events, USAGE, DONE, END]), path="/v1/chat/completions")
    assert (outcome.text, len(outcome.arrivals), outcome.error) == ("Hm. Yes", 2, None)


def test_cached_tokens_are_found_in_the_timings_of_other_servers() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}, "timings": {"cache_n": 6}}
    outcome = complete(Peer([CHUNKED, text("a"), event(usage), DONE, END]))
    assert (outcome.num_prompt_tokens, outcome.num_cached_tokens) == (7, 6)


def test_an_event_may_come_in_pieces_and_with_comments_between() -> None:
    data = text("Hel") + chunk(b": still here\n\n") + text("lo") + DONE
    outcome = complete(Peer([CHUNKED, *(data[at : at + 11] for at in range(0, len(data), 11)), END]))
    assert (outcome.text, outcome.error) == ("Hello", None)


def test_nothing_listens(nowhere: str) -> None:
    outcome = asyncio.run(LoadClient(nowhere).complete({}))
    assert outcome.error is not None
    assert nowhere in outcome.error
    assert outcome.ttft is None
    assert outcome.ended >= outcome.began


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no such model: m"}}', "404: no such model: m"),
        (b'{"error": "gone"}', "404: gone"),
        (b'{"message": "gone"}', "404: gone"),
        (b"not found", "404: not found"),
        (b"", "404: the server gave no reason"),
    ],
)
def test_a_refusal_is_told_in_the_words_of_the_server(body: bytes, words: str) -> None:
    head = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body)
    for peer in (Peer([head + body]), Peer([b"HTTP/1.1 404 Not Found\r\n\r\n", body])):
        outcome = complete(peer)
        assert (outcome.error, outcome.text, outcome.arrivals) == (words, "", [])


@pytest.mark.parametrize("rest", [[], [DONE[:10]], [END], [USAGE, END]])
def test_a_stream_that_is_cut_is_a_failure_with_the_text_so_far(rest: list[bytes]) -> None:
    outcome = complete(Peer([CHUNKED, text("Hel"), *rest]))
    assert outcome.error == "The connection was closed before the answer was complete."
    assert (outcome.text, len(outcome.arrivals)) == ("Hel", 1)


@pytest.mark.parametrize(
    "data",
    [event({"error": {"message": "out of memory"}}), chunk(b'error: {"code": 500, "message": "out of memory"}\n\n')],
)
def test_an_error_in_the_stream_is_a_failure(data: bytes) -> None:
    outcome = complete(Peer([CHUNKED, text("Hel"), data, DONE, END]))
    assert (outcome.error, outcome.text) == ("out of memory", "Hel")


@pytest.mark.parametrize("data", [b"SSH-2.0\r\n", CHUNKED + chunk(b"data: {nothing\n\n") + DONE + END])
def test_nonsense_is_a_failure(data: bytes) -> None:
    outcome = complete(Peer([data]))
    assert outcome.error is not None
    assert "cannot be understood" in outcome.error


def test_an_answer_that_takes_too_long_is_a_failure() -> None:
    peer = Peer([CHUNKED, text("Hel"), 3.0])
    outcome = complete(peer, timeout=0.1)
    assert (outcome.error, outcome.text, outcome.cancelled) == ("The answer took longer than 0.1 s.", "Hel", False)
    assert peer.saw_the_client_leave


def test_an_answer_is_given_up_when_asked() -> None:
    peer = Peer([CHUNKED, text("Hel"), 3.0])
    outcome = complete(peer, cancel_after=0.1)
    assert (outcome.error, outcome.text, outcome.cancelled) == (None, "Hel", True)
    assert 0.1 <= outcome.ended - outcome.began < 1.0
    assert peer.saw_the_client_leave


def test_an_answer_that_is_complete_before_it_is_given_up_counts_as_complete() -> None:
    outcome = complete(Peer([CHUNKED, text("Hi"), DONE, END]), cancel_after=3.0)
    assert (outcome.error, outcome.text, outcome.cancelled) == (None, "Hi", False)


def test_embeddings_are_measured() -> None:
    body = b'{"data": [{"embedding": [0.5, 0.25]}], "usage": {"prompt_tokens": 9, "total_tokens": 9}}'
    peer = Peer([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body])
    outcome = against(peer, lambda: LoadClient(peer.url).embed({"input": ["a"]}))
    assert (outcome.num_prompt_tokens, outcome.error, outcome.arrivals) == (9, None, [])
    assert peer.body == {"input": ["a"]}
    assert peer.head.startswith("POST /v1/embeddings ")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", b"HTTP/1.1 503 Busy\r\n\r\n"])
def test_embeddings_that_fail_are_told(answer: bytes) -> None:
    peer = Peer([answer])
    assert against(peer, lambda: LoadClient(peer.url).embed({"input": ["a"]})).error


@pytest.mark.parametrize("url", ["localhost:1", "ftp://x", "http://", "http://x:y"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        LoadClient(url)


@pytest.fixture
def nowhere() -> str:
    """An address on this machine where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
