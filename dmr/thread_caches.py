"""What glibc keeps of freed memory for each thread: 0.2 MB, which fills up over thousands of requests.

HTTP workers have hundreds of threads that do the same in turn, so their processes would grow for hours by what nobody
uses. It can only be chosen before a process begins; other libraries of C know no such variable and need none.
"""

from __future__ import annotations

from collections.abc import MutableMapping

VARIABLE = "GLIBC_TUNABLES"
NONE = "glibc.malloc.tcache_count=0"


def leave_out(environ: MutableMapping[str, str]) -> None:
    """For the program that is about to begin, unless somebody has chosen otherwise."""
    environ.setdefault(VARIABLE, NONE)


def allow(environ: MutableMapping[str, str]) -> None:
    """For the programs that it starts: theirs are few threads."""
    if environ.get(VARIABLE) == NONE:
        del environ[VARIABLE]
