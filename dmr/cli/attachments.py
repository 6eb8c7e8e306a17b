"""Files that go along with a question: images as parts of the message, texts inside it."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmr.errors import InvalidRequest

MAX_TEXT_BYTES = 4 * 1024 * 1024
MAX_IMAGE_BYTES = 64 * 1024 * 1024

Content = str | list[dict[str, Any]]

_MENTION = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|(\S+))')
_IMAGE_TYPES = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"BM", "bmp"))


def read_question(text: str, images: Sequence[Path] = (), piped: str = "") -> Content:
    """What the user typed, with the files that it mentions as @PATH, and images, as a message's content.

    A mention of what is no file stays as it is typed. `piped` text comes after it, and mentions nothing: it may be
    anybody's.

    Raises:
        InvalidRequest: a file is too large, or neither an image nor UTF-8 text.
    """
    parts = [_image_part(path, _read(path, MAX_IMAGE_BYTES)) for path in images]
    texts = [text]
    for path in dict.fromkeys(_mentioned(text)):
        data = _read(path, MAX_IMAGE_BYTES)
        if _image_type(data):
            parts.append(_image_part(path, data))
        else:
            texts.append(_quoted(path, data))
    whole = "\n\n".join(piece for piece in (*texts, piped) if piece)
    return [*([{"type": "text", "text": whole}] if whole else []), *parts] if parts else whole


def complete_mention(word: str) -> list[str]:
    """What `@PA`, typed so far, may become; nothing for words that do not begin with @, or for names with blanks."""
    if not word.startswith("@"):
        return []
    folder, slash, start = word[1:].rpartition("/")
    base = expanded(folder + slash) if slash else Path()
    try:
        names = sorted(path.name for path in base.iterdir() if path.name.startswith(start) and " " not in path.name)
    except (OSError, ValueError):
        return []
    shown = [name for name in names if start or not name.startswith(".")]
    return [f"@{folder}{slash}{name}{'/' if (base / name).is_dir() else ' '}" for name in shown]


def _mentioned(text: str) -> list[Path]:
    """Punctuation at the end of a name belongs to the sentence, unless there is such a file."""
    found = []
    for match in _MENTION.finditer(text):
        name = match[1] or match[2]
        for candidate in (name, name.rstrip(".,;:!?)'\"")):
            path = expanded(candidate)
            if candidate and _is_file(path):
                found.append(path)
                break
    return found


def expanded(name: str) -> Path:
    """With the home folder for `~`, if there is such a user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or one with a zero byte
        return False


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as opened:
            data = opened.read(limit + 1)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > limit:
        raise InvalidRequest(f"{path} is larger than {limit // 2**20} MiB: send a smaller file.")
    return data


def _image_type(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for magic, kind in _IMAGE_TYPES if data.startswith(magic)), "")


def _image_part(path: Path, data: bytes) -> dict[str, Any]:
    kind = _image_type(data)
    if not kind:
        raise InvalidRequest(f"{path} is no image that is known: send PNG, JPEG, GIF, WebP or BMP.")
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": address}}


def _quoted(path: Path, data: bytes) -> str:
    if len(data) > MAX_TEXT_BYTES:
        raise InvalidRequest(f"{path} is larger than {MAX_TEXT_BYTES // 2**20} MiB: send a part of it.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is neither an image nor UTF-8 text.") from None
    ticks = max((len(run) for run in re.findall("`{3,}", text)), default=2) + 1
    fence = "`" * max(3, ticks)
    return f"{path}:\n{fence}\n{text.rstrip()}\n{fence}"
