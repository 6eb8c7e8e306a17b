"""Pictures and sounds of a conversation: out of it before it is rendered, and into the prompt afterwards."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import msgspec

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import ChatInput, MediaLink, Message, Part, TextPart
from dmr.wire import MEDIA_CLOSE, MEDIA_OPEN, EngineMedia

MAX_MEDIA = 256  # in one conversation

# What a model needs for a kind, and what the kind is called in messages.
SENSES = {"image": ("vision", "images"), "audio": ("audio", "audio")}
_HALF_MARK = re.compile(f"[{MEDIA_OPEN}{MEDIA_CLOSE}]")
_MARK = re.compile(f"{MEDIA_OPEN}([0-9]{{1,9}}){MEDIA_CLOSE}")
# A template that writes ASCII only JSON escapes the marks.
_ESCAPED_MARK = re.compile(r"\\ufdd2([0-9]{1,9})\\ufdd3", re.IGNORECASE)


def has_media(chat: ChatInput) -> bool:
    return any(not isinstance(part, TextPart) for message in chat.messages for part in message.parts)


def check_senses(chat: ChatInput, capabilities: Collection[str], model: str) -> None:
    """Raises Unsupported: the model has no sense for what is in the conversation; InvalidRequest: it is too much."""
    parts = [part for message in chat.messages for part in message.parts if not isinstance(part, TextPart)]
    if len(parts) > MAX_MEDIA:
        raise InvalidRequest(
            f"The conversation has {len(parts)} images and sounds; {MAX_MEDIA} are taken.", param="messages"
        )
    for kind in dict.fromkeys(part.kind for part in parts):
        capability, name = SENSES[kind]
        if capability not in capabilities:
            raise Unsupported(
                f"The model '{model}' does not take {name}: it lacks the capability '{capability}'.", param="messages"
            )


def with_marks(chat: ChatInput) -> tuple[ChatInput, tuple[EngineMedia, ...]]:
    """The conversation as text, in which marks stand for the media."""
    if not has_media(chat):
        return chat, ()
    media: list[EngineMedia] = []
    messages = tuple(_marked(message, media) for message in chat.messages)
    return msgspec.structs.replace(chat, messages=messages), tuple(media)


def named_in(text: str, media: Sequence[EngineMedia]) -> tuple[str, tuple[EngineMedia, ...]]:
    """A rendered prompt, and those media that it still names: turns may have been left out."""
    if not media:
        return text, ()
    named: dict[int, int] = {}

    def renumbered(found: re.Match[str]) -> str:
        number = int(found[1])
        if number >= len(media):
            return ""
        return f"{MEDIA_OPEN}{named.setdefault(number, len(named))}{MEDIA_CLOSE}"

    text = _MARK.sub(renumbered, _ESCAPED_MARK.sub(f"{MEDIA_OPEN}\\1{MEDIA_CLOSE}", text))
    return text, tuple(media[number] for number in named)


def shown(text: str) -> str:
    """A rendered prompt for people to read."""
    return _MARK.sub(lambda found: f"[media {int(found[1]) + 1}]", text)


def _marked(message: Message, media: list[EngineMedia]) -> Message:
    parts: list[Part] = []
    for number, part in enumerate(message.parts):
        assert not isinstance(part, MediaLink), "links are fetched before"
        if isinstance(part, TextPart):
            parts.append(TextPart(_HALF_MARK.sub("\N{REPLACEMENT CHARACTER}", part.text)))
            continue
        # What is said of a picture is another line.
        following = message.parts[number + 1 : number + 2]
        ends_line = bool(following) and not (isinstance(following[0], TextPart) and following[0].text.startswith("\n"))
        parts.append(TextPart(f"{MEDIA_OPEN}{len(media)}{MEDIA_CLOSE}" + ("\n" if ends_line else "")))
        media.append(EngineMedia(part.kind, part.data, is_small=part.kind == "image" and part.detail == "low"))
    return msgspec.structs.replace(message, parts=tuple(parts))
