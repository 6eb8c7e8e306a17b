"""What a result has to say about where it was measured."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]


class Machine(msgspec.Struct, frozen=True):
    cpu: str
    num_cores: int
    memory_gib: float
    kernel: str


class Versions(msgspec.Struct, frozen=True):
    dmr: str  # the commit; "+" behind it: the working tree had changes
    llama_cpp: str


def read_machine() -> Machine:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    uname = os.uname()
    return Machine(
        _first(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo")) or uname.machine,
        os.cpu_count() or 1,
        round(memory / 2**30, 1),
        f"{uname.sysname} {uname.release}",
    )


def read_versions() -> Versions:
    commit = _git("rev-parse", "--short=9", "HEAD") or "unknown"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "dmr", "server", "csrc", "third_party")
    llama_cpp = _first(r"^# llama\.cpp commit: ([0-9a-f]+)$", ROOT / "third_party" / "llama_cpp.txt")
    if os.environ.get("LLAMA_CPP_DIR"):
        llama_cpp = "out of LLAMA_CPP_DIR"
    return Versions(commit + ("+" if changed else ""), llama_cpp or "unknown")


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


class CpuTimes(msgspec.Struct, frozen=True):
    """Of all cores together, in ticks since the machine started."""

    busy: int
    stolen: int  # what the machine beneath this one gave to others
    total: int

    def since(self, earlier: CpuTimes) -> tuple[float, float]:
        """(busy, stolen) as parts of all the time there was."""
        total = max(1, self.total - earlier.total)
        return (self.busy - earlier.busy) / total, (self.stolen - earlier.stolen) / total


def read_cpu_times(stat: Path = Path("/proc/stat")) -> CpuTimes:
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, stat.read_text().splitlines()[0].split()[1:9])
    busy = user + nice + system + irq + softirq
    return CpuTimes(busy, steal, busy + idle + iowait + steal)


def _first(pattern: str, file: Path) -> str:
    found = re.search(pattern, file.read_text(errors="replace"), re.MULTILINE)
    return found[1].strip() if found else ""


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
