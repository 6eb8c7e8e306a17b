"""Files that go along with a question: images and sounds where the text names them, texts behind it."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from dmr.errors import InvalidRequest

MAX_TEXT_BYTES = 4 << 20
MAX_MEDIA_BYTES = 64 << 20  # which is what servers take

Content = str | list[dict[str, Any]]

_MENTION = r'(?<!\S)@(?:"(?P<quoted>[^"\n]+)"|(?P<plain>\S+))'
# What a terminal types for a file that is dropped on it: an absolute path as a shell would quote it, or a URL.
_DRAGGED = r"""(?<!\S)(?=['"]?(?:/|file:/))(?P<dragged>(?:'[^'\n]*'|"[^"\n]*"|\\.|[^\s'"\\])+)"""
_IMAGES = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"BM", "bmp"))
_SOUNDS = ((b"ID3", "mp3"), (b"\xff\xfb", "mp3"), (b"\xff\xf3", "mp3"), (b"\xff\xf2", "mp3"), (b"fLaC", "flac"))
_MAGIC_BYTES = 12


class _Found(NamedTuple):
    """A file that the text names, and where."""

    path: Path
    start: int
    end: int


def read_question(text: str, images: Sequence[Path] = (), piped: str = "", *, may_be_dragged: bool = False) -> Content:
    """What the user typed, with files, as a message's content.

    `images` come first. An image or sound stands where the text mentions it as @PATH, or, where it `may_be_dragged`, as
    an absolute path; a text's mention stays, and the text follows. What names no file stays as it is typed. What was
    `piped` comes last, and mentions nothing: it may be anybody's.

    Raises:
        InvalidRequest: a file is too large, or neither an image, nor a sound, nor UTF-8 text.
    """
    parts = [_image_part(path, _read(path, MAX_MEDIA_BYTES)) for path in images]
    behind: dict[Path, str] = {}
    seen: set[Path] = set()
    begin = 0
    for found in _named_in(text, may_be_dragged):
        if found.path in seen:
            continue
        seen.add(found.path)
        data = _read(found.path, MAX_MEDIA_BYTES)
        part = _media_part(data)
        if part is None:
            behind[found.path] = _quoted(found.path, data)
            continue
        parts += [*_text_part(text[begin : found.start]), part]
        begin = found.end
    rest = text[begin:]
    whole = "\n\n".join(piece for piece in (rest if rest.strip() else "", *behind.values(), piped) if piece)
    return [*parts, *_text_part(whole)] if parts else whole


def begins_with_file(text: str) -> bool:
    """Whether it begins with an image or sound that was dragged here: else a slash begins a command."""
    return any(found.start == 0 for found in _named_in(text, may_be_dragged=True))


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


def _named_in(text: str, may_be_dragged: bool) -> Iterator[_Found]:
    for match in re.finditer(f"{_MENTION}|{_DRAGGED}" if may_be_dragged else _MENTION, text):
        found = _dragged(match) if may_be_dragged and match["dragged"] else _mentioned(match)
        if found is not None:
            yield found


def _mentioned(match: re.Match[str]) -> _Found | None:
    """Punctuation at the end of a name belongs to the sentence, unless there is such a file."""
    name = match["quoted"] or match["plain"]
    for candidate in (name, name.rstrip(".,;:!?)'\"")):
        path = expanded(candidate)
        if candidate and _is_file(path):
            return _Found(path, match.start(), match.end() - len(name) + len(candidate))
    return None


def _dragged(match: re.Match[str]) -> _Found | None:
    """Only images and sounds: whoever writes of another file by its name does not mean to show it."""
    try:
        (name,) = shlex.split(match["dragged"])
        path = Path(unquote(urlsplit(name).path) if name.startswith("file:/") else name)
        if _is_file(path) and _media_kind(_read(path, _MAGIC_BYTES, whole=False)) is not None:
            return _Found(path, match.start(), match.end())
    except (ValueError, InvalidRequest):  # no closing quote, or no right to read it
        pass
    return None


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


def _read(path: Path, limit: int, *, whole: bool = True) -> bytes:
    """All of it, which may have `limit` bytes; or that many of a file of any size."""
    try:
        with path.open("rb") as opened:
            data = opened.read(limit + 1 if whole else limit)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > limit:
        raise InvalidRequest(f"{path} is larger than {limit >> 20} MiB: send a smaller file.")
    return data


def _media_kind(data: bytes) -> tuple[str, str] | None:
    """("image", "png"), as the first bytes say. None = something else."""
    if data[:4] == b"RIFF" and data[8:12] in (b"WEBP", b"WAVE"):
        return ("image", "webp") if data[8:12] == b"WEBP" else ("audio", "wav")
    for kind, magics in (("image", _IMAGES), ("audio", _SOUNDS)):
        for magic, name in magics:
            if data.startswith(magic):
                return kind, name
    return None


def _media_part(data: bytes) -> dict[str, Any] | None:
    found = _media_kind(data)
    if found is None:
        return None
    kind, name = found
    encoded = base64.b64encode(data).decode()
    if kind == "audio":
        return {"type": "input_audio", "input_audio": {"data": encoded, "format": name}}
    return {"type": "image_url", "image_url": {"url": f"data:image/{name};base64,{encoded}"}}


def _image_part(path: Path, data: bytes) -> dict[str, Any]:
    part = _media_part(data)
    if part is None or part["type"] != "image_url":
        raise InvalidRequest(f"{path} is no image that is known: send PNG, JPEG, GIF, WebP or BMP.")
    return part


def _text_part(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}] if text.strip() else []


def _quoted(path: Path, data: bytes) -> str:
    if len(data) > MAX_TEXT_BYTES:
        raise InvalidRequest(f"{path} is larger than {MAX_TEXT_BYTES // 2**20} MiB: send a part of it.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is neither an image, nor a sound (WAV, MP3, FLAC), nor UTF-8 text.") from None
    ticks = max((len(run) for run in re.findall("`{3,}", text)), default=2) + 1
    fence = "`" * max(3, ticks)
    return f"{path}:\n{fence}\n{text.rstrip()}\n{fence}"
