"""Other names for models, for clients that ask for names of their own: `claude-*` = `ai/qwen3`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from dmr.errors import InvalidRequest

MAX_LENGTH = 1024  # characters of a pattern, and of the name of a model
DEFAULT_TAG = "latest"


class Alias(msgspec.Struct, frozen=True):
    """`*` in the pattern is any text. Capitals are as good as small letters, and no tag as good as ":latest"."""

    pattern: str
    target: str

    @property
    def is_exact(self) -> bool:
        return "*" not in self.pattern

    def matches(self, name: str) -> bool:
        """Whether a model that is asked for by this name is meant."""
        (wanted, wanted_tag), (asked, asked_tag) = _split(self.pattern), _split(name)
        if not wanted_tag and wanted.endswith("*"):
            return _fits(wanted, name.strip())  # whatever follows, a tag too
        return _fits(wanted, asked) and _fits(wanted_tag or DEFAULT_TAG, asked_tag or DEFAULT_TAG)


def parse_aliases(table: Mapping[str, str]) -> tuple[Alias, ...]:
    """The aliases of a table, the one that goes first in front: names without `*`, then by how much they spell out.

    Raises:
        InvalidRequest: a name cannot be meant, two are the same, or some lead back to themselves; `param` is the key.
    """
    for pattern, target in table.items():
        _check(pattern, target)
    aliases = [Alias(pattern, target) for pattern, target in table.items()]
    _check_doubles(aliases)
    aliases.sort(key=lambda alias: (not alias.is_exact, -len(alias.pattern.replace("*", ""))))
    for alias in aliases:
        _check_end(aliases, alias)
    return tuple(aliases)


def other_names(aliases: Sequence[Alias], name: str) -> Iterator[str]:
    """What else may be meant by a name, the nearest first: its alias's model, that one's alias's, and so on."""
    return _chain(aliases, _match(aliases, name))


def _match(aliases: Sequence[Alias], name: str) -> Alias | None:
    return next((alias for alias in aliases if alias.matches(name)), None)


def _chain(aliases: Sequence[Alias], alias: Alias | None) -> Iterator[str]:
    followed: Alias | None = None
    while alias is not None and alias is not followed:  # "*" may well catch what it stands for
        yield alias.target
        followed, alias = alias, _match(aliases, alias.target)


def _split(name: str) -> tuple[str, str]:
    """Name and tag; the tag is empty if there is none. A colon before a slash is a port's."""
    name = name.strip()
    colon = name.rfind(":")
    return (name, "") if colon <= name.rfind("/") else (name[:colon], name[colon + 1 :])


def _fits(pattern: str, text: str) -> bool:
    """Linear in the text: each part is looked for once, from where the one before it ends."""
    first, *others = pattern.lower().split("*")
    text = text.lower()
    if not others:
        return text == first
    *middle, last = others
    if not text.startswith(first) or not text[len(first) :].endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _check(pattern: str, target: str) -> None:
    for what, name in (("The alias", pattern), (f"The model of the alias '{pattern}'", target)):
        if not name or len(name) > MAX_LENGTH or not name.isprintable() or name != name.strip():
            raise InvalidRequest(
                f"{what} is no name: 1 to {MAX_LENGTH} characters, no blanks around them.", param=pattern
            )
    if "*" in target or re.search(r"\s", target):
        raise InvalidRequest(
            f"The alias '{pattern}' stands for '{target}', which is no model's name: no blanks, no '*'.", param=pattern
        )
    if "*" not in pattern and Alias(pattern, target).matches(target):
        raise InvalidRequest(f"The alias '{pattern}' stands for itself.", param=pattern)


def _check_doubles(aliases: Sequence[Alias]) -> None:
    known: dict[tuple[str, str], str] = {}
    for alias in aliases:
        name, tag = _split(alias.pattern.lower())
        key = (name, tag or ("" if name.endswith("*") else DEFAULT_TAG))
        if key in known:
            raise InvalidRequest(
                f"The aliases '{known[key]}' and '{alias.pattern}' are the same name.", param=alias.pattern
            )
        known[key] = alias.pattern


def _check_end(aliases: Sequence[Alias], start: Alias) -> None:
    path = [start.pattern]
    for name in _chain(aliases, start):
        path.append(name)
        if len(path) > len(aliases) + 1:  # without a circle, each is followed once at most
            raise InvalidRequest(
                f"The alias '{start.pattern}' leads into a circle: {' → '.join(path[:5])} …", param=start.pattern
            )
