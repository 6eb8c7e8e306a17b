"""Keys that let clients in: a TOML file with a table for each, which keeps hashes and not the keys themselves."""

from __future__ import annotations

import datetime
import hashlib
import re
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from dmr.errors import InvalidRequest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

INFERENCE, METRICS, ADMIN = "inference", "metrics", "admin"
SCOPES = (INFERENCE, METRICS, ADMIN)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MIN_KEY_LENGTH = 16  # characters of a key that somebody has thought of
MAX_KEY_LENGTH = 1024
MAX_BYTES = 1 << 20
_PREFIX = "dmr_"
_HASH = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")

Limit = Annotated[int, Meta(ge=0, le=10**9)]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key. Limits of 0 are none; `expires` is in Unix seconds."""

    name: str
    digest: bytes
    scopes: frozenset[str] = frozenset([INFERENCE])
    weight: float = 1.0  # its share of an engine beside those of others
    max_requests: int = 0  # at a time
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    expires: float | None = None

    def allows(self, scope: str) -> bool:
        """Administrators may do everything."""
        return scope in self.scopes or ADMIN in self.scopes

    @property
    def has_limits(self) -> bool:
        return bool(self.max_requests or self.requests_per_minute or self.tokens_per_minute)


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    key: str = ""
    hash: str = ""
    scopes: Annotated[tuple[str, ...], Meta(min_length=1)] = (INFERENCE,)
    weight: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    max_requests: Annotated[int, Meta(ge=0, le=4096)] = 0
    requests_per_minute: Limit = 0
    tokens_per_minute: Limit = 0
    expires: Any = None


def new_key() -> str:
    """A fresh key: 256 bits that nobody can guess."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest_of_key(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file.

    Raises:
        InvalidRequest: it cannot be read, or something in it is wrong; the message names the file and the table.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"The keys file {path} cannot be read: {error.strerror}.", param="DMR_KEYS") from None
    if len(content) > MAX_BYTES:
        raise InvalidRequest(f"The keys file {path} is larger than {MAX_BYTES} bytes.", param="DMR_KEYS")
    return parse_keys(content, str(path))


def parse_keys(content: bytes, where: str) -> tuple[ApiKey, ...]:
    """The keys of a file's content. Raises InvalidRequest, never with a key in its message."""
    try:
        tables = tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InvalidRequest(f"{where} is not UTF-8.", param="DMR_KEYS") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{where} is not TOML: {error}.", param="DMR_KEYS") from None
    keys: dict[bytes, ApiKey] = {}
    for name, table in tables.items():
        key = _key(name, table, f"{where}: [{name}]")
        if key.digest in keys:
            raise InvalidRequest(f"{where}: [{keys[key.digest].name}] and [{name}] are the same key.", param="DMR_KEYS")
        keys[key.digest] = key
    return tuple(keys.values())


def format_key(key: ApiKey) -> str:
    """The table that says the same."""
    default = ApiKey(name="", digest=b"")
    lines = [f"[{key.name}]", f'hash = "sha256:{key.digest.hex()}"']
    lines.append(f"scopes = [{', '.join(f'{chr(34)}{scope}{chr(34)}' for scope in SCOPES if scope in key.scopes)}]")
    for field in ("weight", "max_requests", "requests_per_minute", "tokens_per_minute"):
        if getattr(key, field) != getattr(default, field):
            lines.append(f"{field} = {getattr(key, field)!r}")
    if key.expires is not None:
        moment = datetime.datetime.fromtimestamp(key.expires, datetime.timezone.utc)
        lines.append(f"expires = {moment:%Y-%m-%dT%H:%M:%SZ}")
    return "\n".join(lines) + "\n"


def _key(name: str, fields: object, where: str) -> ApiKey:
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"{where}: a key's name has letters, digits, '_' and '-', 64 at most.", param="DMR_KEYS")
    if not isinstance(fields, dict):
        raise InvalidRequest(f"{where}: write a table with this name, as in [{name}].", param="DMR_KEYS")
    try:
        table = msgspec.convert(fields, _Table)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{where}: {error}.", param="DMR_KEYS") from None
    for scope in table.scopes:
        if scope not in SCOPES:
            raise InvalidRequest(f"{where}: '{scope}' is none of the scopes {', '.join(SCOPES)}.", param="DMR_KEYS")
    return ApiKey(
        name=name,
        digest=_digest(table, where),
        scopes=frozenset(table.scopes),
        weight=table.weight,
        max_requests=table.max_requests,
        requests_per_minute=table.requests_per_minute,
        tokens_per_minute=table.tokens_per_minute,
        expires=_moment(table.expires, where),
    )


def _digest(table: _Table, where: str) -> bytes:
    if bool(table.key) == bool(table.hash):
        raise InvalidRequest(f"{where}: give either 'hash' or 'key'.", param="DMR_KEYS")
    if table.hash:
        found = _HASH.fullmatch(table.hash)
        if found is None:
            raise InvalidRequest(f"{where}: 'hash' is not sha256: and 64 hexadecimal digits.", param="DMR_KEYS")
        return bytes.fromhex(found[1])
    if not MIN_KEY_LENGTH <= len(table.key) <= MAX_KEY_LENGTH or not re.fullmatch(r"[\x21-\x7e]+", table.key):
        raise InvalidRequest(
            f"{where}: 'key' has {MIN_KEY_LENGTH} to {MAX_KEY_LENGTH} printable ASCII characters and no blanks.",
            param="DMR_KEYS",
        )
    return digest_of_key(table.key)


def _moment(value: object, where: str) -> float | None:
    """Unix seconds; a date without a time is that day's beginning, and without a zone it is UTC."""
    if value is None:
        return None
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime.datetime):
        raise InvalidRequest(f"{where}: 'expires' is a date, like 2027-01-31, without quotes.", param="DMR_KEYS")
    return (value if value.tzinfo else value.replace(tzinfo=datetime.timezone.utc)).timestamp()
