"""`images` of a turn: pictures, and sounds, which travel in the same field. Where they stand in its text."""

from __future__ import annotations

from typing import Any

from dmr.types import ChatInput, GenerateRequest, MediaPart, Part, TextPart
from dmr_server.fields import checked
from dmr_server.media import Media, decode, is_sound, read_source
from dmr_server.ollama.fields import Need

PLACE = "[img]"  # in a text: here the next of them stands
_ADDRESSES = ("data:", "http:", "https:")
_SENSES = {"image": ("vision", "images"), "audio": ("audio", "audio")}


def read_images(value: Any, path: str) -> tuple[Media, ...]:
    """Base64, or what Docker Model Runner takes beside it: data URIs and addresses. Raises InvalidRequest."""
    listed = checked([] if value is None else value, list[str], path)
    return tuple(_read(text, f"{path}[{index}]") for index, text in enumerate(listed))


def place_images(text: str, images: tuple[Media, ...]) -> tuple[Part, ...]:
    """Each at a place of its own, in order; those for which the text has none stand before it."""
    pieces = text.split(PLACE, len(images)) if images else [text]
    num_placed = len(pieces) - 1
    parts: list[Part] = [*images[num_placed:]]
    for number, piece in enumerate(pieces):
        if piece:
            parts.append(TextPart(piece))
        if number < num_placed:
            parts.append(images[number])
    return tuple(parts)


def needs_of(request: GenerateRequest) -> tuple[Need, ...]:
    """The senses that a model must have for what is in a conversation."""
    senses = dict.fromkeys(_SENSES[part.kind] for part in _media_of(request))
    return tuple(
        Need(sense, f"\"{request.model}\" does not take {name}: it lacks the capability '{sense}'")
        for sense, name in senses
    )


def count_images(request: GenerateRequest) -> int:
    """And sounds, which travel as such."""
    return len(_media_of(request))


def _media_of(request: GenerateRequest) -> list[Media]:
    if not isinstance(request.input, ChatInput):
        return []
    return [part for message in request.input.messages for part in message.parts if not isinstance(part, TextPart)]


def _read(text: str, path: str) -> Media:
    if text.lower().startswith(_ADDRESSES):
        kind = "audio" if text[:11].lower() == "data:audio/" else "image"
        return read_source(text, "audio" if kind == "audio" else "image", path)
    data = decode(text, path)
    return MediaPart("audio" if is_sound(data) else "image", data)
