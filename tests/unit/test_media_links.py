"""A conversation that names pictures by URL: the service fetches them, or says why not."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from dmr.errors import InvalidRequest, Overloaded, Unsupported
from dmr.service import media_links as room
from dmr.service.media_links import MediaLinks
from dmr.service.remote_file import Download, Hosts, Refused
from dmr.types import (
    ChatInput,
    GenerateRequest,
    MediaLink,
    MediaPart,
    Message,
    Part,
    Role,
    SamplingParams,
    TextInput,
    TextPart,
    Tick,
)

RED, BLUE = "http://a.example/red.png", "http://a.example/blue.png"


class FakeDownload(Download):
    """Has each file, or says what is wrong with it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self.wrong: str | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.is_stopped = False

    def fetch(self, url: str, kind: str, max_bytes: int = 0) -> bytes:
        self.hold.wait(30)
        self.asked.append((url, kind, max_bytes))
        if self.wrong is not None:
            raise Refused(self.wrong)
        return url.encode()

    def stop(self) -> None:
        self.is_stopped = True
        self.hold.set()


def request_of(*turns: tuple[Part, ...]) -> GenerateRequest:
    chat = ChatInput(tuple(Message(Role.USER, parts) for parts in turns))
    return GenerateRequest(model="some/model", input=chat, sampling=SamplingParams())


def links_of(download: Download, *hosts: str) -> MediaLinks:
    return MediaLinks(Hosts(hosts or ("public",)), lambda: download)


def run(steps: Generator[Tick, None, GenerateRequest]) -> GenerateRequest:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def fetched(links: MediaLinks, request: GenerateRequest) -> GenerateRequest:
    return run(links.fetched(request))


def test_the_files_stand_where_their_urls_stood() -> None:
    download = FakeDownload()
    turns = (TextPart("a"), MediaLink("image", RED, "low"), TextPart("b")), (MediaLink("image", BLUE),)
    answer = fetched(links_of(download), request_of(*turns))
    assert isinstance(answer.input, ChatInput)
    assert [message.parts for message in answer.input.messages] == [
        (TextPart("a"), MediaPart("image", RED.encode(), "low"), TextPart("b")),
        (MediaPart("image", BLUE.encode()),),
    ]
    assert download.is_stopped


def test_a_file_is_fetched_once() -> None:
    download = FakeDownload()
    fetched(links_of(download), request_of((MediaLink("image", RED),), (MediaLink("image", RED),)))
    assert [url for url, *_ in download.asked] == [RED]


def test_all_files_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_ALL_BYTES", 100)
    download = FakeDownload()
    fetched(links_of(download), request_of((MediaLink("image", RED), MediaLink("image", BLUE))))
    assert [limit for *_, limit in download.asked] == [100, 100 - len(RED)]


def test_what_has_no_links_is_left_alone() -> None:
    plain = request_of((TextPart("Hi"), MediaPart("image", b"a")))
    assert fetched(links_of(FakeDownload()), plain) is plain
    text = GenerateRequest(model="m", input=TextInput(("Hi",)), sampling=SamplingParams())
    assert fetched(links_of(FakeDownload()), text) is text


@pytest.mark.parametrize("hosts", [("off",), ("b.example",)])
def test_nothing_is_fetched_that_is_not_allowed(hosts: tuple[str, ...]) -> None:
    download = FakeDownload()
    with pytest.raises(InvalidRequest, match="DMR_FETCH_MEDIA") as caught:
        fetched(links_of(download, *hosts), request_of((MediaLink("image", RED, param="messages[0].content[1]"),)))
    assert caught.value.param == "messages[0].content[1]"
    assert download.asked == []


def test_a_server_that_was_told_nothing_fetches_nothing() -> None:
    with pytest.raises(Unsupported, match="base64"):
        fetched(MediaLinks(), request_of((MediaLink("image", RED),)))


def test_one_bad_address_and_none_is_asked() -> None:
    download = FakeDownload()
    with pytest.raises(InvalidRequest, match="neither http nor https"):
        fetched(links_of(download), request_of((MediaLink("image", RED), MediaLink("image", "ftp://a.example/b"))))
    assert download.asked == []


def test_there_may_not_be_any_number_of_them() -> None:
    many = tuple(MediaLink("image", f"{RED}?{number}") for number in range(room.MAX_LINKS + 1))
    with pytest.raises(InvalidRequest, match="32 are fetched"):
        fetched(links_of(FakeDownload()), request_of(many))


def test_what_is_wrong_is_told_with_the_url() -> None:
    download = FakeDownload()
    download.wrong = "was answered with status 404"
    url = RED + "?" + "a" * 500
    with pytest.raises(InvalidRequest, match="status 404") as caught:
        fetched(links_of(download), request_of((MediaLink("image", url, param="here"),)))
    assert caught.value.param == "here"
    assert caught.value.message.startswith(f"The URL '{RED}?aaa")
    assert len(caught.value.message) < 200


def test_who_leaves_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "TICK_INTERVAL", 0.001)
    download = FakeDownload()
    download.hold.clear()
    steps = links_of(download).fetched(request_of((MediaLink("image", RED),)))
    assert isinstance(next(steps), Tick)
    steps.close()
    assert download.is_stopped


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "TICK_INTERVAL", 0.001)
    monkeypatch.setattr(room, "MAX_SECONDS", 0.01)
    download = FakeDownload()
    download.hold.clear()
    with pytest.raises(InvalidRequest, match="within"):
        fetched(links_of(download), request_of((MediaLink("image", RED),)))
    assert download.is_stopped


def test_a_server_that_fetches_much_already_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_FETCHING", 1)
    monkeypatch.setattr(room, "TICK_INTERVAL", 0.001)
    download = FakeDownload()
    download.hold.clear()
    links = links_of(download)
    first = links.fetched(request_of((MediaLink("image", RED),)))
    next(first)
    with pytest.raises(Overloaded):
        fetched(links, request_of((MediaLink("image", BLUE),)))
    first.close()
