"""A finished request as it is told, and what is cut out of its texts."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from dmr_server.docker_configure import WireConfiguration

MAX_MEDIA = 100  # characters of an image or a sound
MAX_TEXT = 1 << 20  # characters of a body
MAX_AGENT = 256  # characters

_MEDIA_KEYS = frozenset({"data", "file_data", "b64_json"})


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """Docker Model Runner's fields, and after them ours. What is empty is left out."""

    id: str
    model: str  # as it was asked for
    method: str
    url: str
    timestamp: int  # Unix seconds of its end
    status_code: int
    request: str = ""
    response: str = ""
    error: str = ""
    user_agent: str = ""
    origin: str = ""
    backend: str = ""  # where it was answered, if not here
    duration_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ModelRecords(msgspec.Struct, frozen=True):
    """The last records of one model; `model` is its id, `config` its configuration."""

    count: int
    model: str
    config: WireConfiguration
    records: list[Record]


class Stored(NamedTuple):
    """A record in the journal."""

    sequence: int
    model_id: str
    data: bytes

    @property
    def record(self) -> Record:
        return msgspec.json.decode(self.data, type=Record)


def shortened(body: bytes) -> str:
    """A body as text, without its images and sounds and not longer than `MAX_TEXT`."""
    text = body.decode(errors="replace")
    if len(text) > MAX_MEDIA:
        try:
            value = msgspec.json.decode(body)
            changed = _without_media(value)
            text = msgspec.json.encode(changed).decode() if changed is not value else text
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    return _cut(text, MAX_TEXT)


def _without_media(value: Any, key: str = "") -> Any:
    """The same value if there is nothing to cut."""
    if isinstance(value, str):
        is_media = key in _MEDIA_KEYS or value.startswith("data:")
        return _cut(value, MAX_MEDIA) if is_media else value
    if isinstance(value, dict):
        changed = {name: _without_media(each, name) for name, each in value.items()}
        return changed if any(changed[name] is not each for name, each in value.items()) else value
    if isinstance(value, list):
        inner = "data" if key == "images" else key
        cut = [_without_media(each, inner) for each in value]
        return cut if any(new is not old for new, old in zip(cut, value, strict=True)) else value
    return value


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}...[truncated {len(text) - length} chars]"
