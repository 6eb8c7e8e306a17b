"""Makes a GGUF file of a folder with safetensors, by llama.cpp's own converter in a process of its own.

The converter is installed beside the extension; what it needs (torch, transformers) comes with the extra "convert".
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import dmr
from dmr.errors import InvalidModelFile, InvalidRequest, StoreError, Unavailable, Unsupported
from dmr.store.disk import store_errors
from dmr.store.ggml_tables import WRITABLE_FILE_TYPES
from dmr.store.registry.transport import Cancelled, TransferCancelled
from dmr.store.safetensors_folder import is_text, is_weights
from dmr.store.safetensors_names import keep_ranking_pooler

# What weights can be converted to; "" = 16 bits, as near to the original as they come.
KINDS: Mapping[str, str] = {"": "auto", "F32": "f32", "F16": "f16", "BF16": "bf16", "Q8_0": "q8_0"}
NEEDED_PACKAGES = ("torch", "transformers", "safetensors", "sentencepiece")
INSTALL_HINT = "pip install 'dmr[convert]'"

MAX_SECONDS = 12 * 3600.0
MAX_SILENCE = 1800.0  # seconds in which neither the file nor the converter's log grows
POLL_INTERVAL = 0.2  # seconds between two looks at how far it is
MAX_LOG_BYTES = 16384  # of its end, that are searched for the reason of a failure

if TYPE_CHECKING:
    from dmr.store.draft import Quantize

_SCRIPT = Path("converter", "convert_hf_to_gguf.py")
_LOG = "converter.log"
_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "SYSTEMROOT")

Report = Callable[[int], None]


class Limits(msgspec.Struct, frozen=True):
    """In seconds."""

    total: float = MAX_SECONDS
    silence: float = MAX_SILENCE


LIMITS = Limits()


def find_script() -> Path | None:
    """llama.cpp's converter; None if this build has none."""
    paths = (Path(folder) / _SCRIPT for folder in dmr.__path__)
    return next((path for path in paths if path.is_file()), None)


class Converter:
    """Blocks its caller's thread. Any thread."""

    def __init__(
        self, quantize: Quantize | None = None, command: Sequence[str] | None = None, limits: Limits = LIMITS
    ) -> None:
        """`quantize` makes what the converter does not; `command` is started in its place, with the same arguments."""
        self._quantize = quantize
        self._command = command
        self._limits = limits

    def kind_of(self, text: str) -> str:
        """The kind of weights that is meant, in any case; empty = 16 bits. Raises InvalidRequest: it cannot be made."""
        kind = text.strip().upper()
        kinds = (*KINDS, *(kind for kind in WRITABLE_FILE_TYPES if self._quantize and kind not in KINDS))
        if kind not in kinds:
            raise InvalidRequest(
                f"Safetensors are converted to {', '.join(filter(None, kinds))}, not to {text[:40]!r}.",
                param="quantization",
            )
        return kind

    def check(self) -> None:
        """Raises Unsupported, which says what to do: the converter or what it needs is not installed."""
        if self._command is not None:
            return
        if find_script() is None:
            raise Unsupported(
                "These are safetensors, and this build of dmr has no converter for them. "
                "Pull a repository with GGUF files, or install a released dmr."
            )
        missing = [name for name in NEEDED_PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise Unsupported(
                f"These are safetensors, which must be converted, and for that {', '.join(missing)} must be installed: "
                f"{INSTALL_HINT}. Or take a repository with GGUF files, whose names often end in -GGUF."
            )

    def convert(
        self, folder: Path, target: Path, kind: str, report: Report, cancelled: Cancelled, projector: bool = False
    ) -> None:
        """Write `target`, with the weights of `folder` or, if asked for, its projector. `kind` is one of `kind_of`.

        `report` is told the bytes that are written. No code out of `folder` is run, and nothing is to be fetched.

        Raises:
            InvalidModelFile: with the converter's own reason, or how it ended.
            Unsupported: see `check`.
            StoreError: the disk does not obey.
            Unavailable: no process can be started, or it did not get on.
            TransferCancelled: the process has ended when this is raised.
        """
        self.check()
        if kind in KINDS:
            self._convert(folder, target, KINDS[kind], report, cancelled, projector)
            return
        assert self._quantize is not None, "kind_of knows it"
        full = target.with_name(f"full-{target.name}")
        try:
            self._convert(folder, full, KINDS[""], report, cancelled)
            self._quantize(full, target, WRITABLE_FILE_TYPES[kind], lambda _: report(_size_of(target)), cancelled)
        finally:
            full.unlink(missing_ok=True)

    def _convert(
        self, folder: Path, target: Path, out_type: str, report: Report, cancelled: Cancelled, projector: bool = False
    ) -> None:
        part = target.with_name(f"mmproj-{target.name}") if projector else target  # its own name for a projector
        with store_errors("convert"), _workshop(folder, target) as (clean_folder, environ):
            log = clean_folder.with_name(_LOG)
            arguments = [str(clean_folder), "--outfile", str(target), "--outtype", out_type]
            status = self._run(arguments + (["--mmproj"] if projector else []), environ, log, part, report, cancelled)
            if status != 0 or not part.is_file():
                raise _failure(folder, log, status)
            part.replace(target)

    def _run(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
        target: Path,
        report: Report,
        cancelled: Cancelled,
    ) -> int:
        command = self._command or (sys.executable, "-m", "dmr.store.conversion_process", str(find_script()))
        with log.open("wb") as output, _process([*command, *arguments], environ, output.fileno()) as process:
            start = last_change = time.monotonic()
            seen = (-1, -1)
            while (status := process.poll()) is None:
                if cancelled():
                    raise TransferCancelled
                now, sizes = time.monotonic(), (_size_of(target), _size_of(log))
                if sizes != seen:
                    seen, last_change = sizes, now
                    report(sizes[0])
                if now - start > self._limits.total or now - last_change > self._limits.silence:
                    raise Unavailable("The converter did not get on, and was ended.", retry_after=60.0)
                time.sleep(POLL_INTERVAL)
        return status


@contextlib.contextmanager
def _workshop(folder: Path, target: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder of links to weights and texts, so to no code; and an environment without secrets that says: offline."""
    import tempfile

    with tempfile.TemporaryDirectory(dir=target.parent, prefix="converter-") as workshop:
        clean = Path(workshop, folder.resolve().name)
        clean.mkdir()
        for path in (*folder.iterdir(), *folder.glob("*/*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and (is_weights(name) or is_text(name)):
                (clean / name).parent.mkdir(exist_ok=True)
                (clean / name).symlink_to(path.resolve())
        keep_ranking_pooler(clean)
        environ = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        yield clean, {**environ, **offline, "HOME": workshop, "HF_HOME": workshop, "TMPDIR": workshop}


@contextlib.contextmanager
def _process(command: Sequence[str], environ: Mapping[str, str], output: int) -> Iterator[subprocess.Popen[bytes]]:
    """The running process; nothing is left of it afterwards."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environ)
    except OSError as error:
        raise Unavailable(f"No process can be started: {error}.") from error
    with process:
        try:
            yield process
        finally:
            process.kill()


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _failure(folder: Path, log: Path, status: int) -> Exception:
    """The last line that says something."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, _size_of(log) - MAX_LOG_BYTES))
        lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
        said = [line.removeprefix("ERROR:hf-to-gguf:").strip() for line in lines if line.strip()]
        if said and "No space left on device" in said[-1]:
            return StoreError("The disk is full: the converter could not write the model.")
        if said:
            return InvalidModelFile(f"llama.cpp's converter cannot convert {folder.name}: {said[-1][:300]}")
    return InvalidModelFile(f"llama.cpp's converter cannot convert {folder.name}: it ended with status {status}.")
