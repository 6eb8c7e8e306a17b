"""Pictures and sounds as requests bring them: data URIs, plain base64, addresses. What is in them the engine finds out.

Nothing is unpacked here. A file's size is bounded before it is decoded.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Literal, Union

from dmr.errors import InvalidRequest, PayloadTooLarge, Unsupported
from dmr.types import MediaLink, MediaPart

MAX_BYTES = 64 << 20  # of one file
DETAILS: Mapping[str, str] = {"auto": "auto", "low": "low", "high": "high", "original": "high"}
SOUNDS = ("wav", "mp3", "flac")

Kind = Literal["image", "audio"]
Media = Union[MediaPart, MediaLink]

# RFC 2397; what stands between the type and `;base64` are its parameters.
_DATA_URI = re.compile(r"data:([^;,]{0,100})((?:;[^;,]{0,100}){0,8}),", re.IGNORECASE)
_REMOTE = re.compile(r"https?:", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}):")
_NO_TYPES = ("", "application/octet-stream")


def read_source(source: str, kind: Kind, param: str, detail: str | None = None) -> Media:
    """A data URI, or an address that the service may fetch.

    Raises:
        InvalidRequest: naming `param`; Unsupported: an address of another kind.
    """
    look = read_detail(detail, param)
    if source[:5].lower() == "data:":
        return MediaPart(kind, _of_data_uri(source, kind, param), look)
    if _REMOTE.match(source):
        return MediaLink(kind, source, look, param)
    scheme = _SCHEME.match(source)
    if scheme:
        raise Unsupported(
            f"Invalid value for '{param}': '{scheme[1]}:' is not read here; send a data URI or an http(s) URL.",
            param=param,
        )
    raise InvalidRequest(f"Invalid value for '{param}': expected a data URI or an http(s) URL.", param=param)


def read_base64(text: str, kind: Kind, param: str) -> MediaPart:
    """A file in base64. Raises InvalidRequest, PayloadTooLarge."""
    return MediaPart(kind, decode(text, param))


def read_detail(detail: str | None, param: str) -> str:
    """How closely a picture is to be looked at. Raises InvalidRequest."""
    look = DETAILS.get("auto" if detail is None else detail)
    if look is None:
        raise InvalidRequest(f"Invalid value for '{param}': 'detail' is one of {', '.join(DETAILS)}.", param=param)
    return look


def decode(text: str, param: str) -> bytes:
    """Strict base64, in which only line ends are passed over. Raises InvalidRequest, PayloadTooLarge."""
    if len(text) > MAX_BYTES // 3 * 4 + 4:
        raise PayloadTooLarge(
            f"'{param}' is larger than {MAX_BYTES} bytes, which is the limit of one file.", param=param
        )
    plain = text.replace("\r", "").replace("\n", "")
    try:
        data = base64.b64decode(plain, validate=True)
    except (binascii.Error, ValueError):
        data = None
    if data is None or len(plain) % 4:  # older Pythons take any padding
        raise InvalidRequest(f"Invalid value for '{param}': it is not valid base64.", param=param)
    if not data:
        raise InvalidRequest(f"Invalid value for '{param}': the file is empty.", param=param)
    return data


def is_sound(data: bytes) -> bool:
    """Whether a file is a WAV, MP3 or FLAC file, as its first bytes say."""
    if data[:4] == b"RIFF":
        return data[8:12] == b"WAVE"
    return data[:4] == b"fLaC" or data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] >= 0xE0)


def _of_data_uri(uri: str, kind: Kind, param: str) -> bytes:
    head = _DATA_URI.match(uri)
    if head is None:
        raise InvalidRequest(f"Invalid value for '{param}': it is no data URI.", param=param)
    media_type, parameters = head[1].strip().lower(), head[2].lower()
    if not parameters.endswith(";base64"):
        raise Unsupported(f"Invalid value for '{param}': a data URI has to be in base64.", param=param)
    if media_type not in _NO_TYPES and not media_type.startswith(f"{kind}/"):
        raise InvalidRequest(f"Invalid value for '{param}': a file of type '{media_type}' is no {kind}.", param=param)
    return decode(uri[head.end() :], param)
