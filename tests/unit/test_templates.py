"""The templates of loaded models, as they are kept."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import msgspec
import pytest

from dmr.errors import InvalidRequest
from dmr.service import prompts
from dmr.service.prompts import MAX_TEMPLATES, Templates
from dmr.wire import EngineInfo

INFO = EngineInfo("fake", 512, "", "", "", False)


class ReadTemplate:
    """Stands for a template whose reading can be held up or fail."""

    held = threading.Event()
    read: ClassVar[list[str]] = []

    def __init__(self, info: EngineInfo) -> None:
        self.read.append(info.description)
        if info.description == "slow":
            assert self.held.wait(10)
        if info.description == "broken" and self.read.count("broken") == 1:
            raise InvalidRequest("It cannot be read.")


@pytest.fixture
def templates(monkeypatch: pytest.MonkeyPatch) -> Templates:
    monkeypatch.setattr(prompts, "PromptTemplate", ReadTemplate)
    ReadTemplate.held.clear()
    ReadTemplate.read.clear()
    return Templates()


def info(name: str) -> EngineInfo:
    return msgspec.structs.replace(INFO, description=name)


def test_one_that_is_slow_to_read_holds_up_no_other_and_is_read_once(templates: Templates) -> None:
    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(templates._of, info("slow")) for _ in range(2)]
        try:
            assert pool.submit(templates._of, info("fast")).result(5)
        finally:
            ReadTemplate.held.set()
        assert slow[0].result(5) is slow[1].result(5)
    assert ReadTemplate.read.count("slow") == 1


def test_those_that_were_not_used_for_long_are_forgotten(templates: Templates) -> None:
    first = templates._of(info("0"))
    for number in range(1, MAX_TEMPLATES):
        templates._of(info(str(number)))
    assert templates._of(info("0")) is first
    templates._of(info("one more"))
    assert templates._of(info("0")) is first
    templates._of(info("1"))
    assert ReadTemplate.read.count("1") == 2


def test_one_that_failed_is_read_again(templates: Templates) -> None:
    with pytest.raises(InvalidRequest):
        templates._of(info("broken"))
    assert templates._of(info("broken"))
