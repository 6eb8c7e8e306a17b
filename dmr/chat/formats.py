"""The formats of JSON Schema that can be checked. Others are notes for readers."""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Callable, Mapping

_TIME = re.compile(
    r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)", re.ASCII | re.IGNORECASE
)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_DURATION = re.compile(r"P(?=[0-9T])(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=[0-9])(\d+H)?(\d+M)?(\d+S)?)?)", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE | re.ASCII)
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_URI_CHARACTERS = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_POINTER = re.compile(r"(/([^~/]|~[01])*)*", re.DOTALL)


def _is_date(text: str) -> bool:
    if not _DATE.fullmatch(text):
        return False
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_date_time(text: str) -> bool:
    return text[10:11] in ("T", "t") and _is_date(text[:10]) and _TIME.fullmatch(text[11:]) is not None


def _is_hostname(text: str) -> bool:
    return len(text) <= 253 and all(_LABEL.fullmatch(label) for label in text.split("."))


def _is_email(text: str) -> bool:
    local, at, domain = text.rpartition("@")
    return bool(at) and len(local) <= 64 and _LOCAL.fullmatch(local) is not None and _is_hostname(domain)


def _is_address(kind: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            kind(text)
        except ValueError:
            return False
        return "%" not in text  # no zone

    return check


def _is_uri_reference(text: str) -> bool:
    return _URI_CHARACTERS.fullmatch(text) is not None and not _BROKEN_ESCAPE.search(text)


FORMATS: Mapping[str, Callable[[str], bool]] = {
    "date": _is_date,
    "time": lambda text: _TIME.fullmatch(text) is not None,
    "date-time": _is_date_time,
    "duration": lambda text: _DURATION.fullmatch(text) is not None,
    "uuid": lambda text: _UUID.fullmatch(text) is not None,
    "email": _is_email,
    "hostname": _is_hostname,
    "ipv4": _is_address(ipaddress.IPv4Address),
    "ipv6": _is_address(ipaddress.IPv6Address),
    "uri": lambda text: _is_uri_reference(text) and _SCHEME.match(text) is not None,
    "uri-reference": _is_uri_reference,
    "json-pointer": lambda text: _POINTER.fullmatch(text) is not None,
}
