"""What is free, from files as the kernel writes them."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from dmr.memory.free_memory import Free, free_memory

GIB = 1 << 30
MIB = 1 << 20


def write(root: Path, **files: str | int) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 8 GiB to be had and no control groups."""
    write(tmp_path, proc__meminfo=f"MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable: {8 * GIB // 1024} kB\n")
    return tmp_path


def add_group(root: Path, version: int, path: str, limit: str | int, usage: int, cached: int = 0) -> None:
    """A group at `path`, whose statistics call so many bytes `cached`."""
    v1 = version == 1
    top = "sys/fs/cgroup/memory" if v1 else "sys/fs/cgroup"
    folder = root / top / path.lstrip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(f"{limit}\n")
    (folder / ("memory.usage_in_bytes" if v1 else "memory.current")).write_text(f"{usage}\n")
    total = "total_" if v1 else ""
    (folder / "memory.stat").write_text(f"cache 5\n{total}inactive_file {cached}\n{total}active_file 0\n")


def join(root: Path, version: int, path: str, mounted: str = "/") -> None:
    """This process is in the group `path`; of the tree, the part under `mounted` is to be seen."""
    if version == 1:
        cgroup = f"12:cpu,cpuacct:/elsewhere\n5:memory:{path}\n"
        mount = f"32 31 0:29 {mounted} /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n"
    else:
        cgroup = f"0::{path}\n"
        mount = f"32 31 0:29 {mounted} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
    write(root, proc__self__cgroup=cgroup, proc__self__mountinfo="21 1 8:1 / / rw - ext4 /dev/root rw\n" + mount)


def test_what_the_kernel_calls_available(root: Path) -> None:
    assert free_memory(root=root) == Free(8 * GIB, "the machine's memory")


def test_nobody_tells(tmp_path: Path) -> None:
    assert free_memory(root=tmp_path) is None


@pytest.mark.parametrize("version", [1, 2])
def test_a_groups_limit_less_what_is_used_and_cannot_be_taken_away(root: Path, version: int) -> None:
    add_group(root, version, "/box/inner", GIB, 700 * MIB, cached=300 * MIB)
    join(root, version, "/box/inner")
    assert free_memory(root=root) == Free(GIB - 400 * MIB, "the memory of its control group")


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_all_groups_counts(root: Path, version: int) -> None:
    add_group(root, version, "/box", 2 * GIB, GIB)
    add_group(root, version, "/box/inner", 4 * GIB, 100 * MIB)
    join(root, version, "/box/inner")
    assert free_memory(root=root) == Free(GIB, "the memory of its control group")


@pytest.mark.parametrize(("version", "unlimited"), [(1, 9223372036854771712), (2, "max")])
def test_a_group_without_a_limit_does_not_count(root: Path, version: int, unlimited: str | int) -> None:
    add_group(root, version, "/box", unlimited, GIB)
    join(root, version, "/box")
    assert free_memory(root=root) == Free(8 * GIB, "the machine's memory")


@pytest.mark.parametrize("path", ["/docker/abc", "/docker/abc/inner", "/../../other"])
def test_in_a_container_its_own_part_of_the_tree_is_all_there_is(root: Path, path: str) -> None:
    add_group(root, 1, "/", GIB, 100 * MIB)
    join(root, 1, path, mounted="/docker/abc")
    assert free_memory(root=root) == Free(GIB - 100 * MIB, "the memory of its control group")


def test_more_used_than_allowed_leaves_nothing(root: Path) -> None:
    add_group(root, 2, "/box", GIB, 2 * GIB)
    join(root, 2, "/box")
    assert free_memory(root=root) == Free(0, "the memory of its control group")


def test_mapped_weights_are_not_free_for_who_wants_to_keep_them(root: Path, tmp_path: Path) -> None:
    weights = tmp_path / "a model.gguf"
    weights.write_bytes(b"")
    maps = [
        f"7f0000000000-7f0080000000 r--s 00000000 fe:00 7 {weights}",
        f"7f1000000000-7f1040000000 r--s 80000000 fe:00 7 {weights}",
        "7f2000000000-7f2fffffffff rw-p 00000000 00:00 0",
        "7f3000000000-7f3fffffffff r-xp 00000000 fe:00 9 /usr/lib/libc.so",
    ]
    write(root, proc__self__maps="\n".join(maps) + "\n")
    assert free_memory([str(weights)], root) == Free(5 * GIB, "the machine's memory")
    assert free_memory([str(tmp_path / "other.gguf")], root) == Free(8 * GIB, "the machine's memory")


def test_the_address_space_has_room_for_what_is_mapped_already(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2 * GIB, 2 * GIB))
    write(root, proc__self__status=f"Name: x\nVmSize: {GIB // 1024} kB\n", proc__self__maps="")
    assert free_memory(["x"], root) == Free(GIB, "the address space (ulimit -v)")


def test_this_machine_answers() -> None:
    free = free_memory()
    assert free is not None
    assert 0 < free.num_bytes < 1 << 50
