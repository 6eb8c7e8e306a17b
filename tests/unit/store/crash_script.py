"""Runs one change of a store again and again in a child that dies before its first step on the disk, its second, ...

Usage: crash_script.py OPERATION FOLDER. Prints one JSON object: how many steps there were, and what went wrong.

A process of its own, with one thread, so that it may fork; PYTHONPATH leads to the tests.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unit.store.archives import digest, manifest_of, tar_of, upstream_archive
from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.errors import DmrError
from dmr.store import housekeeping
from dmr.store.archive import load_archive
from dmr.store.create import create_model
from dmr.store.layout import Layout
from dmr.store.packaging import Package, package_into
from dmr.store.pull import adopt
from dmr.store.reference import parse_reference
from dmr.store.repackage import repackage_model
from dmr.store.store import ModelStore
from dmr.types import NewModel, Repackaging

KILLED = 77
WRITES = ("os.rename", "os.remove", "os.link", "os.rmdir", "os.mkdir", "os.truncate", "os.symlink")
WEIGHTS = gguf_bytes(tensors=[Tensor("weight", data=b"n" * 128)])
CONFIG = b'{"config":{"format":"gguf"}}'
State = Mapping[str, tuple[str, ...]]


def operations(folder: Path) -> dict[str, Callable[[], object]]:
    store = ModelStore(folder / "models")
    layout, files = Layout(store.root), folder / "files"
    package = Package(
        gguf=files / "new.gguf",
        mmproj=files / "mm.gguf",
        chat_template=files / "t.jinja",
        licenses=(files / "t.jinja",),
    )
    return {
        "import": lambda: store.import_gguf(files / "new.gguf", "one"),
        "import_moving": lambda: store.import_gguf(files / "new.gguf", "new", move=True),
        "import_again": lambda: store.import_gguf(files / "one.gguf", "again"),
        "tag": lambda: store.tag("one", "two"),
        "untag": lambda: store.remove("one:v2"),
        "remove": lambda: store.remove("two"),
        "remove_by_id": lambda: store.remove(store.get("one").id, force=True),
        "adopt": lambda: adopt(layout, manifest_of(WEIGHTS, CONFIG), parse_reference("pulled"), 5.0),
        "load": lambda: load_archive(store, io.BytesIO(tar_of(upstream_archive(WEIGHTS))), "one"),
        "package": lambda: package_into(store, package, "full"),
        "repackage": lambda: repackage_model(store, "one", Repackaging("one", context_size=7, chat_template="{{ z }}")),
        "convert": lambda: repackage_model(store, "one", Repackaging("pack", format="cncf")),
        "create": lambda: create_model(
            store, NewModel("two", base="one", system="Be kind."), lambda *_: None, lambda _: None
        ),
        "collect": lambda: housekeeping.collect(layout, 5.0, age=-1e9),
        "purge": store.purge,
    }


def prepare(folder: Path) -> None:
    """Two models that share a template, one with two names, and what others have left lying about."""
    store, files = ModelStore(folder / "models"), folder / "files"
    files.mkdir(parents=True)
    for name, fill in (("one", b"1"), ("two", b"2")):
        (files / f"{name}.gguf").write_bytes(gguf_bytes(tensors=[Tensor("weight", data=fill * 128)]))
    (files / "new.gguf").write_bytes(WEIGHTS)
    (files / "mm.gguf").write_bytes(gguf_bytes({"general.architecture": "clip"}))
    (files / "t.jinja").write_text("{{ x }}")
    store.import_gguf(files / "one.gguf", "one", chat_template=files / "t.jinja")
    store.import_gguf(files / "two.gguf", "two", chat_template=files / "t.jinja")
    store.tag("one", "one:v2")
    for data in (WEIGHTS, CONFIG):  # as a pull has them before its last step
        (store.root / "blobs" / "sha256" / digest(data)[7:]).write_bytes(data)
    bundle = store.root / "bundles" / "sha256" / store.get("two").id[7:] / "model"
    for path in (bundle, store.root / "bundles" / "sha256" / ("0" * 64), store.root / "hub-left"):
        path.mkdir(parents=True)
        (path / "model.gguf").write_bytes(b"x")
    (store.root / "blobs" / "sha256" / ("1" * 64 + ".incomplete")).write_bytes(b"x")


def state_of(folder: Path) -> State:
    return {record.id: record.tags for record in ModelStore(folder / "models").models()}


def run(folder: Path, operation: str, fatal_step: int | None) -> int:
    """The exit status of a child that does it, and dies before that step if there is one."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        if fatal_step is not None:
            sys.addaudithook(reaper(folder / "models", fatal_step))
        operations(folder)[operation]()
        os._exit(0)
    except DmrError as error:
        sys.stderr.write(f"{error}\n")
        os._exit(1)
    finally:
        os._exit(2)


def reaper(root: Path, fatal_step: int) -> Callable[[str, tuple[Any, ...]], None]:
    """Ends the process before its n-th change below `root`."""
    count = 0

    def watch(event: str, details: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event in WRITES
        if event == "open" and isinstance(details[2], int):
            writes = bool(details[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and any(str(root) in str(part) for part in details):
            count += 1
            if count == fatal_step:
                os._exit(KILLED)

    return watch


def check(folder: Path, operation: str, before: State, after: State) -> str:
    """What is wrong after a crash; empty if nothing is."""
    store, state = ModelStore(folder / "models"), state_of(folder)
    if state not in (before, after):
        return f"the state is neither that of before nor that of after: {state}"
    if damaged := [damage for model_id in state for damage in store.verify(model_id)]:
        return f"damaged: {damaged}"
    if run(folder, operation, None) != 0 and state != after:
        return "it cannot be done again"
    if state_of(folder) != after:
        return f"done again, the state is {state_of(folder)}"
    housekeeping.collect(Layout(store.root), 5.0, age=-1e9)
    if damaged := [damage for model_id in after for damage in store.verify(model_id)]:
        return f"the collector took too much: {damaged}"
    usage = store.usage()
    uploads = list((store.root / "uploads").rglob("*/*"))  # those have a day
    return f"left behind: {usage}" if usage.reclaimable or (usage.unfinished and not uploads) else ""


def main(operation: str, root: Path) -> dict[str, Any]:
    now = time.time()
    time.time = lambda: now  # documents hold the second in which they were made
    prepare(root / "template")
    before = state_of(root / "template")
    shutil.copytree(root / "template", root / "whole")
    assert run(root / "whole", operation, None) == 0
    after = state_of(root / "whole")
    problems, step = [], 0
    while True:
        step += 1
        folder = root / str(step)
        shutil.copytree(root / "template", folder)
        status = run(folder, operation, step)
        if status == 0:
            return {"steps": step - 1, "changes": before != after, "problems": problems}
        problem = check(folder, operation, before, after) if status == KILLED else f"it ended with {status}"
        if problem:
            problems.append(f"step {step}: {problem}")


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
