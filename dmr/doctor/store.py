"""Whether the store can be read, and whether its models are whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dmr.doctor.finding import Finding, failure, ok, warning
from dmr.errors import DmrError, Unsupported
from dmr.store.store import ModelStore


def check_store(models_path: Path, *, deep: bool) -> Iterator[Finding]:
    """Each model's files are there; `deep`: and are hashed, which takes seconds for each gigabyte."""
    if not models_path.exists():
        yield ok("store", f"{models_path} is not there yet; the first model makes it")
        return
    store = ModelStore(models_path)
    try:
        names = store.names()
    except (DmrError, OSError) as error:
        yield failure("store", _text(error), "Move the folder away, or set MODELS_PATH to another one.")
        return
    broken = 0
    for name in names:
        reason = _damage(store, name, deep)
        if reason:
            broken += 1
            yield failure("store", f"{name}: {reason}", f"Run 'dmr rm {name}', then pull or import it again.")
    whole = len(names) - broken
    how = "whole, by their digests" if deep else "there with all files ('dmr doctor --deep' hashes them)"
    if whole:
        yield ok("store", f"{whole} {'model is' if whole == 1 else 'models are'} {how}")
    elif not names:
        yield ok("store", f"{models_path} holds no model yet")
    usage = store.usage()
    lost = usage.reclaimable + usage.unfinished
    if lost > 2**30:
        yield warning(
            "store", f"{lost / 2**30:.1f} GiB belong to no model", "It goes by itself after a week without use."
        )


def _damage(store: ModelStore, name: str, deep: bool) -> str:
    """Why a model cannot be used; empty = it can."""
    try:
        if deep:
            damaged = store.verify(name)
            return f"damaged or missing: {', '.join(damaged)}" if damaged else ""
        store.get(name)
        store.files(name)
    except Unsupported:  # kept, but not run: its files are for others
        return ""
    except (DmrError, OSError) as error:
        return _text(error)
    return ""


def _text(error: Exception) -> str:
    return error.message if isinstance(error, DmrError) else str(error)
