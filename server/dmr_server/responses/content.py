"""The parts of messages and of tool results: in one form, which is kept and listed, and as neutral parts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Union

from dmr.errors import InvalidRequest, Unsupported
from dmr.types import Part, TextPart
from dmr_server.fields import checked
from dmr_server.media import SOUNDS, read_base64, read_source

log = logging.getLogger("dmr.server")

WirePart = dict[str, Any]

_TEXTS: Mapping[str, str] = {
    "input_text": "text",
    "output_text": "text",
    "text": "text",
    "summary_text": "text",
    "reasoning_text": "text",
    "refusal": "refusal",
}
_IMAGES = ("input_image", "image_url")  # the second is chat completions' own
_ELSEWHERE: Mapping[str, str] = {
    "input_file": "files are not read here; send a text as text, and a picture as 'input_image'",
    "input_video": "this server does not take video",
}


def read_content(content: Any, path: str) -> list[WirePart]:
    """What was sent in the form that is kept; parts of unknown kinds are left out, with a line in the log.

    Raises:
        InvalidRequest, Unsupported: naming the part.
    """
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    listed = enumerate(checked(content, list[dict[str, Any]], path))
    parts = (_read(part, f"{path}[{index}]") for index, part in listed)
    return [part for part in parts if part is not None]


def read_texts(content: Any, path: str) -> list[str]:
    """The same, where only texts are allowed."""
    parts = read_content(content, path)
    if not all(part["type"] == "input_text" for part in parts):
        raise Unsupported(f"Invalid value for '{path}': this is text only.", param=path)
    return [part["text"] for part in parts]


def to_parts(content: Iterable[WirePart]) -> tuple[Part, ...]:
    """Of what was kept."""
    return tuple(_to_part(part, "input") for part in content)


def _read(part: WirePart, path: str) -> WirePart | None:
    kind = part.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest(f"Missing required parameter: '{path}.type'.", param=f"{path}.type")
    if kind in _TEXTS:
        return {"type": "input_text", "text": checked(part.get(_TEXTS[kind]), str, f"{path}.{_TEXTS[kind]}")}
    if kind in _IMAGES:
        read = _read_image(part, path)
    elif kind == "input_audio":
        read = _read_sound(part, path)
    elif kind in _ELSEWHERE:
        raise Unsupported(f"Invalid value for '{path}': {_ELSEWHERE[kind]}.", param=path)
    else:
        log.info("a part of type '%.60s' is left out of a message", kind)
        return None
    _to_part(read, path)  # so that what cannot be read is told with its place
    return read


def _read_image(part: WirePart, path: str) -> WirePart:
    source, detail = part.get("image_url"), part.get("detail")
    if isinstance(source, dict):  # chat completions' form
        detail = source.get("detail")
        source = source.get("url")
    if source is None and part.get("file_id") is not None:
        raise Unsupported("There are no uploaded files here; send 'image_url'.", param=f"{path}.file_id")
    if source is None:
        raise InvalidRequest(f"Missing required parameter: '{path}.image_url'.", param=f"{path}.image_url")
    return {
        "type": "input_image",
        "image_url": checked(source, str, f"{path}.image_url"),
        "detail": checked("auto" if detail is None else detail, str, f"{path}.detail"),
    }


def _read_sound(part: WirePart, path: str) -> WirePart:
    sound = checked(part.get("input_audio"), dict[str, Union[str, None]], f"{path}.input_audio")
    if sound.get("format") not in (None, *SOUNDS):
        name = f"{path}.input_audio.format"
        raise InvalidRequest(f"Invalid value for '{name}': expected one of {', '.join(SOUNDS)}.", param=name)
    return {"type": "input_audio", "input_audio": {"data": sound.get("data") or "", "format": sound.get("format")}}


def _to_part(part: WirePart, path: str) -> Part:
    kind = part.get("type")
    if kind == "input_image":
        return read_source(part["image_url"], "image", path, part.get("detail"))
    if kind == "input_audio":
        return read_base64(part["input_audio"]["data"], "audio", path)
    return TextPart(part["text"])
