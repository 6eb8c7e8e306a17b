"""How much memory there is to be had: what the kernel says, what a control group leaves, what a limit allows."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_UNLIMITED = 1 << 60  # bytes; what version 1 of control groups calls no limit is larger


class Free(NamedTuple):
    num_bytes: int
    of: str  # what they are a part of, as in "1.0 GiB of the machine's memory"


def free_memory(weights: Iterable[str] = (), root: Path = Path("/")) -> Free | None:
    """The least of all that bounds this process; None where nobody tells.

    `weights`: files that are mapped into memory and are to stay there. The kernel counts their pages as free, since it
    could read them from the disk again. `root`: where `proc` and `sys` are.
    """
    mapped = _mapped_bytes(root, set(weights))
    shared = [*_machine(root), *_control_groups(root)]
    bounds = [bound._replace(num_bytes=max(0, bound.num_bytes - mapped)) for bound in shared]
    bounds += _address_space(root)  # what is mapped has its addresses already
    return min(bounds, default=None)


def anonymous_bytes(pid: int, root: Path = Path("/")) -> int:
    """What a process holds that is in no file: the kernel does not count it as free. 0 where nobody tells."""
    fields = _fields(root / "proc" / str(pid) / "status")
    return (fields.get("RssAnon", 0) + fields.get("RssShmem", 0)) * 1024


def _machine(root: Path) -> Iterator[Free]:
    available = _fields(root / "proc/meminfo").get("MemAvailable")
    if available is not None:
        yield Free(available * 1024, "the machine's memory")


def _address_space(root: Path) -> Iterator[Free]:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _fields(root / "proc/self/status").get("VmSize")
    if limit != resource.RLIM_INFINITY and used is not None:
        yield Free(max(0, limit - used * 1024), "the address space (ulimit -v)")


def _mapped_bytes(root: Path, paths: set[str]) -> int:
    """Of these files, what is mapped into this process."""
    if not paths:
        return 0
    real = {str(Path(path).resolve()) for path in paths}
    total = 0
    for line in _lines(root / "proc/self/maps"):
        addresses, *_, path = line.split(maxsplit=5)
        if path in real:
            first, last = addresses.split("-")
            total += int(last, 16) - int(first, 16)
    return total


class _Version(NamedTuple):
    """How the files of one version of control groups are called."""

    limit: str
    usage: str
    cached: tuple[str, str]  # pages of files, which the kernel takes away when it needs them


_VERSION_1 = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_VERSION_2 = _Version("memory.max", "memory.current", ("inactive_file", "active_file"))


def _control_groups(root: Path) -> Iterator[Free]:
    """What each group leaves that this process is in: its own and those above."""
    for version, top, folder in _group_folders(root):
        while True:
            free = _left_in(folder, version)
            if free is not None:
                yield Free(free, "the memory of its control group")
            if folder == top:
                break
            folder = folder.parent


def _left_in(folder: Path, version: _Version) -> int | None:
    """Bytes; None = no limit."""
    limit, usage = _number(folder / version.limit), _number(folder / version.usage)
    if limit is None or usage is None or limit >= _UNLIMITED:
        return None
    counts = _fields(folder / "memory.stat")
    cached = sum(counts.get(name, 0) for name in version.cached)
    return max(0, limit - usage + min(cached, usage))


def _group_folders(root: Path) -> Iterator[tuple[_Version, Path, Path]]:
    """(version, where its tree is mounted, this process's own folder in it)."""
    paths: dict[str, str] = {}  # by controller; "" = version 2
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        paths.update((controller, path) for controller in controllers.split(","))
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        mounted_part, mount_point = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            version, own_path = _VERSION_2, paths.get("")
        elif kind == "cgroup" and "memory" in options.split(","):
            version, own_path = _VERSION_1, paths.get("memory")
        else:
            continue
        if own_path is not None:
            top = root / mount_point.lstrip("/")
            # In a container often only the container's own part of the tree is mounted.
            own = top / own_path.removeprefix(mounted_part if mounted_part != "/" else "").lstrip("/")
            yield version, top, own if ".." not in own_path and own.is_dir() else top


def _fields(path: Path) -> dict[str, int]:
    """Lines such as "MemAvailable:  1234 kB" or "active_file 1234"."""
    fields: dict[str, int] = {}
    for line in _lines(path):
        name, *values = line.replace(":", " ").split()
        if values and values[0].isdecimal():
            fields[name] = int(values[0])
    return fields


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _lines(path: Path) -> list[str]:
    """Empty where there is no such file: another kernel, a closed container."""
    try:
        return [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []
