"""One flag, and what becomes of it."""

from __future__ import annotations

from typing import NamedTuple, Union

from dmr.runtime_flags.kinds import Kind


class Sets(NamedTuple):
    """It is honoured. `target` is what it sets: a part of the settings or of the request's defaults, and a field."""

    target: str
    kind: Kind
    note: str = ""


class Told(NamedTuple):
    """It says what is so anyway. With `only`, it needs one of these values."""

    note: str
    only: tuple[str, ...] = ()


class Refused(NamedTuple):
    """`takes_value` False: it is a switch."""

    reason: str
    takes_value: bool = True


Effect = Union[Sets, Told, Refused]


class Flag(NamedTuple):
    names: tuple[str, ...]  # the last is the one to write
    effect: Effect

    @property
    def name(self) -> str:
        return self.names[-1]

    @property
    def key(self) -> str:
        """What only one flag can say: another with the same key takes its place."""
        return self.effect.target if isinstance(self.effect, Sets) else self.names[0]

    @property
    def takes_value(self) -> bool:
        effect = self.effect
        if isinstance(effect, Sets):
            return effect.kind.takes_value
        return effect.takes_value if isinstance(effect, Refused) else bool(effect.only)


def sets(names: str, target: str, kind: Kind, note: str = "") -> Flag:
    """`names` with blanks between them."""
    return Flag(tuple(names.split()), Sets(target, kind, note))


def told(names: str, note: str, *only: str) -> Flag:
    return Flag(tuple(names.split()), Told(note, only))


def refused(names: str, reason: str, *, takes_value: bool = True) -> Flag:
    return Flag(tuple(names.split()), Refused(reason, takes_value))
