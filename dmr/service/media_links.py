"""Pictures and sounds that a conversation names by their addresses, fetched before anything else happens to it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import cache

import msgspec

from dmr.errors import InvalidRequest, Overloaded, Unsupported
from dmr.service.media import SENSES
from dmr.service.remote_file import MAX_BYTES, Download, Hosts, Refused
from dmr.store.registry.trust import trusting_context
from dmr.types import ChatInput, GenerateRequest, MediaLink, MediaPart, Message, Part, Tick

MAX_LINKS = 32  # in one conversation
MAX_ALL_BYTES = 64 << 20  # of one conversation
MAX_SECONDS = 30.0  # for all of one conversation
MAX_FETCHING = 64  # conversations whose files are being fetched by this process
TICK_INTERVAL = 0.5  # seconds
MAX_SHOWN = 100  # characters of a URL in a message

Files = dict[tuple[str, str], bytes]  # by kind and URL


class MediaLinks:
    """Safe for any number of threads."""

    def __init__(self, hosts: Hosts | None = None, download: Callable[[], Download] | None = None) -> None:
        self._hosts = hosts or Hosts()
        self._download = download or (lambda: Download(self._hosts))
        self._places = threading.BoundedSemaphore(MAX_FETCHING)

    @classmethod
    def of_settings(cls, said: Sequence[str], certificates: str) -> MediaLinks:
        """`certificates`: a file of authorities to trust beside the system's; "" = none."""
        hosts, trusts = Hosts(said), cache(lambda: trusting_context(certificates, os.environ))
        return cls(hosts, lambda: Download(hosts, trusts))

    def fetched(self, request: GenerateRequest) -> Generator[Tick, None, GenerateRequest]:
        """The request with the files themselves; Tick comes while they are fetched. Closing gives it up.

        Raises:
            Unsupported: the settings do not allow it.
            InvalidRequest: one cannot be had; Overloaded.
        """
        chat = request.input
        links = list(_links(chat.messages)) if isinstance(chat, ChatInput) else []
        if not links or not isinstance(chat, ChatInput):
            return request
        self._check(links)
        files = yield from self._wait_for(links)
        messages = tuple(_with_files(message, files) for message in chat.messages)
        return msgspec.structs.replace(request, input=msgspec.structs.replace(chat, messages=messages))

    def _check(self, links: list[MediaLink]) -> None:
        for link in links:
            if not self._hosts.any:
                raise Unsupported(
                    f"This server fetches no {SENSES[link.kind][1]} from URLs: send the file itself, base64-encoded, "
                    "or have DMR_FETCH_MEDIA set for the server.",
                    param=link.param,
                )
            with _told_of(link):
                self._hosts.target(link.url)
        if len(links) > MAX_LINKS:
            raise InvalidRequest(
                f"{len(links)} URLs are in the conversation; {MAX_LINKS} are fetched.", param="messages"
            )

    def _wait_for(self, links: list[MediaLink]) -> Generator[Tick, None, Files]:
        if not self._places.acquire(blocking=False):
            raise Overloaded("Too many images and sounds are being fetched; try again in a moment.")
        download, result = self._download(), Future[Files]()
        deadline = time.monotonic() + MAX_SECONDS

        def work() -> None:
            try:
                result.set_result(_all_files(download, links))
            except BaseException as error:
                result.set_exception(error)
            finally:
                self._places.release()

        threading.Thread(target=work, name="media-links", daemon=True).start()
        try:
            while not wait([result], TICK_INTERVAL).done:
                if time.monotonic() >= deadline:
                    raise InvalidRequest(
                        f"The images and sounds could not be fetched within {MAX_SECONDS:g} seconds.",
                        param=links[0].param,
                    )
                yield Tick()
            return result.result()
        finally:
            download.stop()


def _links(messages: Iterable[Message]) -> Iterator[MediaLink]:
    for message in messages:
        yield from (part for part in message.parts if isinstance(part, MediaLink))


@contextmanager
def _told_of(link: MediaLink) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        shown = link.url if len(link.url) <= MAX_SHOWN else f"{link.url[:MAX_SHOWN]}…"
        raise InvalidRequest(f"The URL '{shown}' {error}.", param=link.param) from error


def _all_files(download: Download, links: Iterable[MediaLink]) -> Files:
    """Each file once, however often it is named. Raises InvalidRequest."""
    files: Files = {}
    left = MAX_ALL_BYTES
    for link in links:
        if (link.kind, link.url) in files:
            continue
        with _told_of(link):
            data = download.fetch(link.url, link.kind, min(left, MAX_BYTES))
        files[link.kind, link.url] = data
        left -= len(data)
    return files


def _with_files(message: Message, files: Files) -> Message:
    parts: list[Part] = [
        MediaPart(part.kind, files[part.kind, part.url], part.detail) if isinstance(part, MediaLink) else part
        for part in message.parts
    ]
    return msgspec.structs.replace(message, parts=tuple(parts))
