"""Pictures and sounds on their way from a conversation into a prompt."""

from __future__ import annotations

import pytest

from dmr.engine.media_reader import digest_of
from dmr.errors import InvalidRequest, Unsupported
from dmr.service import media as room
from dmr.service.media import check_senses, named_in, shown, with_marks
from dmr.types import ChatInput, MediaPart, Message, Role, TextPart
from dmr.wire import MEDIA_CLOSE, MEDIA_OPEN, EngineMedia

RED, BLUE, NOISE = MediaPart("image", b"red"), MediaPart("image", b"blue"), MediaPart("audio", b"noise")


def mark(number: int) -> str:
    return f"{MEDIA_OPEN}{number}{MEDIA_CLOSE}"


def chat_of(*turns: tuple[MediaPart | str, ...]) -> ChatInput:
    return ChatInput(
        tuple(
            Message(Role.USER, tuple(TextPart(part) if isinstance(part, str) else part for part in parts))
            for parts in turns
        )
    )


def test_a_conversation_without_media_stays_as_it_is() -> None:
    chat = chat_of(("Hi",))
    assert with_marks(chat) == (chat, ())


def test_marks_stand_where_the_media_stood() -> None:
    chat, media = with_marks(chat_of(("Look: ", RED, "and", BLUE), (NOISE, "\nWhat is it?")))
    assert [message.text for message in chat.messages] == [
        f"Look: {mark(0)}\nand{mark(1)}",
        f"{mark(2)}\nWhat is it?",
    ]
    assert media == (EngineMedia("image", b"red"), EngineMedia("image", b"blue"), EngineMedia("audio", b"noise"))


def test_a_picture_may_be_wanted_small() -> None:
    parts = tuple(MediaPart("image", b"red", detail) for detail in ("low", "high", "auto"))
    _, media = with_marks(chat_of(parts))
    assert [each.is_small for each in media] == [True, False, False]
    assert len({digest_of(each) for each in media}) == 2


def test_nobody_writes_a_mark() -> None:
    chat, _ = with_marks(chat_of((f"a{mark(0)}b", RED)))
    assert chat.messages[0].text == f"a\N{REPLACEMENT CHARACTER}0\N{REPLACEMENT CHARACTER}b{mark(0)}"


def test_media_of_turns_that_were_left_out_are_left_out_too() -> None:
    media = tuple(EngineMedia("image", bytes([number])) for number in range(4))
    text, named = named_in(f"x{mark(3)}y{mark(1)}z{mark(3)}{mark(9)}", media)
    assert (text, named) == (f"x{mark(0)}y{mark(1)}z{mark(0)}", (media[3], media[1]))


def test_a_template_may_escape_the_marks() -> None:
    media = (EngineMedia("image", b"a"),)
    assert named_in('{"content": "\\ufdd20\\uFDD3"}', media) == (f'{{"content": "{mark(0)}"}}', media)


def test_people_read_which_medium_stands_there() -> None:
    assert shown(f"a {mark(0)} b {mark(1)}") == "a [media 1] b [media 2]"


@pytest.mark.parametrize(
    ("part", "capabilities", "told"),
    [(RED, (), "'vision'"), (NOISE, ("vision",), "'audio'"), (RED, ("audio",), "does not take images")],
)
def test_a_missing_sense_is_named(part: MediaPart, capabilities: tuple[str, ...], told: str) -> None:
    with pytest.raises(Unsupported, match=told):
        check_senses(chat_of(("a", part)), capabilities, "some/model")


def test_a_model_that_has_them_takes_them() -> None:
    check_senses(chat_of((RED, NOISE)), ("vision", "audio"), "some/model")


def test_there_may_not_be_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_MEDIA", 2)
    with pytest.raises(InvalidRequest, match="has 3 images"):
        check_senses(chat_of((RED, BLUE), (RED,)), ("vision",), "some/model")
