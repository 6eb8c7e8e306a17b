"""Memory, processors, open files and the room on the store's disk."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from dmr.doctor.finding import Finding, failure, ok, warning
from dmr.memory.free_memory import free_memory

_GIB = 2**30
LITTLE_MEMORY = 2 * _GIB  # what a model of a billion parameters takes with its context
LITTLE_SPACE = 5 * _GIB  # what a model of seven billion parameters takes on the disk
FEW_FILES = 1024  # a connection and an engine's sockets for each request, and some to spare


def check_machine(models_path: Path, root: Path = Path("/")) -> Iterator[Finding]:
    yield _memory(root)
    yield _processors()
    yield _files()
    yield _space(models_path)


def _memory(root: Path) -> Finding:
    free = free_memory(root=root)
    if free is None:
        return warning("memory", "This system does not tell how much memory is free", "Give engines a size yourself.")
    message = f"{free.num_bytes / _GIB:.1f} GiB free of {free.of}"
    if free.num_bytes < LITTLE_MEMORY:
        return warning(
            "memory", message, "Unload models ('dmr unload --all'), or give the machine or its container more memory."
        )
    return ok("memory", message)


def _processors() -> Finding:
    able = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    message = f"{able} of {os.cpu_count() or able} processors may be used"
    return ok("processors", message)


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = "any number of" if soft == resource.RLIM_INFINITY else str(soft)
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        most = "" if hard == resource.RLIM_INFINITY else f" (at most {hard} here)"
        return warning("files", f"A process may open {told} files only", f"Raise 'ulimit -n' to {FEW_FILES}{most}.")
    return ok("files", f"A process may open {told} files")


def _space(models_path: Path) -> Finding:
    folder = models_path
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return failure("disk", f"{folder} cannot be looked at: {error.strerror}", "Set MODELS_PATH to another folder.")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return failure(
            "disk",
            f"Nothing can be written below {folder}",
            f"Make {models_path} a folder of the user that runs dmr, or set MODELS_PATH to another one.",
        )
    message = f"{free / _GIB:.1f} GiB free for {models_path}"
    if free < LITTLE_SPACE:
        return warning("disk", message, "Remove models ('dmr rm'), or set MODELS_PATH to a larger disk.")
    return ok("disk", message)
