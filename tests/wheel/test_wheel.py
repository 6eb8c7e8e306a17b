"""A wheel, installed into a clean environment that cannot see this source tree, does what dmr is for.

By default the wheel is made for this machine out of the build tree that is there (seconds), and takes its dependencies
from this environment, so that no network is needed. DMR_TEST_WHEEL=FILE tests that wheel instead, with dependencies
that pip chooses: `make test-wheel` does it with the portable one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import SCRIPT_ANSWER, SCRIPT_COMPLETION, model_file

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
GIVEN = os.environ.get("DMR_TEST_WHEEL")
MAX_WHEEL_SIZE = 100_000_000  # bytes; the limit of the Python package index
LEAKS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MODELS_PATH", "LD_LIBRARY_PATH", "PYTEST_CURRENT_TEST")


def run(*command: str | Path, **environ: str) -> str:
    """What a command prints; its errors fail the test with all that it said."""
    clean = {name: value for name, value in os.environ.items() if name not in LEAKS}
    done = subprocess.run(
        [str(part) for part in command], env={**clean, **environ}, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if GIVEN:
        return Path(GIVEN).resolve(strict=True)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", target]
    command += ["-C", f"build-dir={ROOT / 'build' / 'native'}", "-C", "cmake.define.DMR_PORTABLE=OFF", ROOT]
    run(*command)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs of the clean environment are."""
    environment = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    if GIVEN:
        run(*install, wheel)
    else:
        run(*install, "--no-index", "--no-deps", wheel)
        # A folder that a .pth file names comes last on the path; .pth files in it (our editable install) do nothing.
        site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file("tiny-script", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def smoke(bin_folder: Path, model: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run(bin_folder / "python", "-I", Path(__file__).with_name("smoke.py"), model))
    return told


def members(wheel: Path) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.infolist()


def test_every_module_comes_from_the_wheel(smoke: dict[str, Any]) -> None:
    assert smoke["prefix"] != sys.prefix
    for name, file in smoke["modules"].items():
        assert file.startswith(smoke["prefix"] + "/"), name


def test_a_model_generates(smoke: dict[str, Any]) -> None:
    assert smoke["text"] == SCRIPT_COMPLETION


def test_the_build_says_what_it_is(smoke: dict[str, Any]) -> None:
    info = smoke["build_info"]
    assert info["flavour"] == ("portable" if GIVEN else "native")
    assert "CPU" in info["backends"]
    if not os.environ.get("LLAMA_CPP_DIR"):  # somebody's own checkout
        assert (
            f"# llama.cpp commit: {info['llama_cpp_commit']}\n" in (ROOT / "third_party" / "llama_cpp.txt").read_text()
        )


def test_the_requirements_are_met(bin_folder: Path) -> None:
    assert "No broken requirements" in run(bin_folder / "python", "-m", "pip", "check")


def test_the_command_line_is_there(bin_folder: Path, smoke: dict[str, Any]) -> None:
    assert "serve" in run(bin_folder / "dmr", "--help")
    versions = run(bin_folder / "dmr", "--server", "127.0.0.1:1", "version")
    assert smoke["build_info"]["version"] in versions
    assert smoke["build_info"]["llama_cpp_commit"] in versions


@pytest.fixture
def server(bin_folder: Path, model: Path, tmp_path: Path) -> Iterator[str]:
    """Address of a `dmr serve` with one model in its store."""
    environ = {"MODELS_PATH": str(tmp_path / "models"), "DMR_THREADS": "1"}
    run(bin_folder / "dmr", "import", "--offline", model, "tiny", **environ)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    clean = {name: value for name, value in os.environ.items() if name not in LEAKS}
    command = [str(bin_folder / "dmr"), "serve", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**clean, **environ}, cwd="/", stdout=log, stderr=log)
    address = f"127.0.0.1:{port}"
    try:
        wait_until_running(bin_folder / "dmr", address, process, tmp_path / "log")
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_until_running(dmr: Path, address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while subprocess.run([dmr, "--server", address, "status"], capture_output=True, check=False).returncode != 0:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_it_serves_and_answers(bin_folder: Path, server: str) -> None:
    assert run(bin_folder / "dmr", "--server", server, "run", "tiny", "Count!").strip() == SCRIPT_ANSWER


def test_attention_is_ours_in_the_library_for_this_processor(bin_folder: Path) -> None:
    asked = "from dmr import _core; print(_core.use_own_kernels(True))"
    assert run(bin_folder / "python", "-c", asked).strip() == "True"


def test_nothing_is_in_the_wheel_twice_or_as_a_link(wheel: Path) -> None:
    files = [member for member in members(wheel) if not member.is_dir()]
    assert len({member.filename for member in files}) == len(files)
    assert all(member.external_attr >> 28 in (0, 0o10) for member in files), "something is not a regular file"
    libraries = [(member.CRC, member.file_size) for member in files if ".so" in member.filename]
    assert len(set(libraries)) == len(libraries), "two libraries are the same"


def test_the_wheel_holds_the_packages_the_licences_and_nothing_else(wheel: Path) -> None:
    names = {member.filename for member in members(wheel)}
    roots = {name.partition("/")[0].removesuffix(".dist-info").partition("-")[0] for name in names}
    assert roots == {"dmr", "dmr_server"}
    bundled = {path.name for path in (ROOT / "third_party" / "licences").iterdir()}
    licences = {name.rpartition("/")[2] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "llama_cpp.LICENSE", *bundled}
    assert [name for name in names if "/sboms/" in name], "it has no bill of materials"
    assert not [name for name in names if name.endswith((".a", ".h", ".cpp", ".pyc", ".cmake"))]
    assert wheel.stat().st_size < MAX_WHEEL_SIZE


@pytest.mark.skipif(not GIVEN, reason="only the portable wheel ships libraries of its own: make test-wheel")
def test_the_portable_wheel_brings_a_back_end_for_every_processor(wheel: Path, smoke: dict[str, Any]) -> None:
    libraries = {Path(member.filename).name for member in members(wheel) if member.filename.endswith(".so")}
    assert {"libllama.so", "libggml.so", "libggml-base.so"} <= libraries
    assert len([name for name in libraries if name.startswith("libggml-cpu")]) > 1
    folder = Path(smoke["modules"]["dmr._core"]).parent
    for name in libraries:
        linked = run("ldd", folder / name)
        assert "not found" not in linked, name
        ours = [
            line.split("=>")[1].split()[0] for line in linked.splitlines() if "libggml" in line or "libllama" in line
        ]
        assert all(Path(path).parent == folder for path in ours if path.startswith("/")), linked
