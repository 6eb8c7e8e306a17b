"""All flags, by what they are about and by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dmr.runtime_flags.computing import CONTEXT, CPU
from dmr.runtime_flags.devices import DEVICES, ROPE
from dmr.runtime_flags.flag import Flag
from dmr.runtime_flags.guessing import MULTIMODAL, SPECULATION
from dmr.runtime_flags.sampling import SAMPLING
from dmr.runtime_flags.serving import SERVING


class Group(NamedTuple):
    title: str
    flags: tuple[Flag, ...]


GROUPS: tuple[Group, ...] = (
    Group("Threads", CPU),
    Group("Context and batches", CONTEXT),
    Group("Sampling", SAMPLING),
    Group("Devices and memory", DEVICES),
    Group("Rotary embedding", ROPE),
    Group("Pictures and infill", MULTIMODAL),
    Group("Guesses", SPECULATION),
    Group("Templates, thoughts and server", SERVING),
)
FLAGS: Mapping[str, Flag] = {name: flag for group in GROUPS for flag in group.flags for name in flag.names}
