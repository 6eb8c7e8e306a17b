"""The engine that is built in: whether it loads, what it computes on, and whether it uses what the processor can do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmr.doctor.finding import Finding, failure, ok, warning

TIMEOUT = 60.0  # seconds; a driver of a GPU may take long to wake up
# A process of its own: a driver that crashes ends that one.
_COMMAND = (
    sys.executable,
    "-c",
    "import json; from dmr import _core; print(json.dumps([_core.build_info(), list(_core.devices())]))",
)
# What the kernel calls a feature of x86 processors, and what ggml does. Without these ggml is slow or does not run.
_FEATURES = {
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "amx_int8": "AMX_INT8",
}
_BASE = ("avx2", "fma", "f16c")


def check_engine(command: Sequence[str] = _COMMAND, root: Path = Path("/")) -> Iterator[Finding]:
    """Back ends, devices and the processor. `root`: where `proc` is."""
    try:
        told = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=True, text=True)
        build, devices = json.loads(told.stdout)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [f"it ended with {error.returncode}"])[-1]
        yield failure(
            "engine", f"The engine cannot be loaded: {reason}", "Install dmr again, for this Python and processor."
        )
        return
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        yield failure("engine", f"The engine does not answer: {error}", "Look whether a GPU's driver hangs.")
        return
    yield ok("engine", f"llama.cpp {build['llama_cpp_commit']}, a {build['flavour']} build, {build['compiler']}")
    yield from _devices(devices)
    yield _processor(build, _processor_flags(root))


def _devices(devices: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for device in devices:
        size = f", {device['total_bytes'] / 2**30:.1f} GiB" if device["total_bytes"] else ""
        yield ok("device", f"{device['name']}: {device['description']} ({device['kind']}{size})")
    if not devices:
        yield failure("device", "The engine finds nothing to compute on", "Install dmr again: its CPU part is missing.")


def _processor(build: Mapping[str, Any], flags: frozenset[str]) -> Finding:
    if not flags:
        return ok("processor", "This system does not tell what its processor can do")
    able = {flag: name for flag, name in _FEATURES.items() if flag in flags}
    used = set(build["cpu_features"])
    unused = [name for name in able.values() if name not in used]
    if missing := [flag for flag in _BASE if flag not in flags]:
        return warning(
            "processor",
            f"The processor has no {', '.join(missing)}: models will be slow",
            "Look whether a virtual machine hides them (its processor should be 'host').",
        )
    if unused:
        return warning(
            "processor",
            f"The processor has {', '.join(unused)}, which this {build['flavour']} build does not use",
            "Build dmr on this machine ('make build'), or install the portable wheel, which chooses at start.",
        )
    return ok("processor", f"Everything of it is used: {', '.join(able.values())}")


def _processor_flags(root: Path) -> frozenset[str]:
    """Of the first processor, as Linux on x86 tells them; empty elsewhere."""
    try:
        with (root / "proc/cpuinfo").open() as file:
            line = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(line.partition(":")[2].split())
