"""What flags of llama-server mean here: each is honoured, says what is so anyway, or is refused by name.

Which flags there are, and how they are checked, follows Docker Model Runner's list for llama.cpp. None of them ever
becomes an argument of a process.
"""

from dmr.runtime_flags.applying import engine_settings, speculation_of, with_runtime_flags
from dmr.runtime_flags.flag import Flag, Refused, Sets, Told
from dmr.runtime_flags.parsing import FlagValues, flags_without, merged_flags, read_flags, split_flags
from dmr.runtime_flags.table import FLAGS, GROUPS, Group

__all__ = [
    "FLAGS",
    "GROUPS",
    "Flag",
    "FlagValues",
    "Group",
    "Refused",
    "Sets",
    "Told",
    "engine_settings",
    "flags_without",
    "merged_flags",
    "read_flags",
    "speculation_of",
    "split_flags",
    "with_runtime_flags",
]
