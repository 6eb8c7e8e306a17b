"""What is shipped is listed, pinned by hash, and has its licence with it."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
THIRD_PARTY = ROOT / "third_party"
LOCK = (THIRD_PARTY / "requirements.txt").read_text()


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, THIRD_PARTY / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("sbom") / "dmr.cdx.json"
    for _ in range(2):
        subprocess.run([sys.executable, THIRD_PARTY / "sbom.py", path, "1.2.3"], check=True)
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_the_bill_names_all_that_is_built_in_and_all_that_is_needed(bill: dict[str, Any]) -> None:
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["version"] == "1.2.3"
    llama, *required = bill["components"]
    assert llama["name"] == "llama.cpp"
    assert {"miniaudio", "stb_image", "nlohmann-json"} <= {each["name"] for each in llama["components"]}
    assert {"falcon", "gunicorn", "msgspec", "numpy"} <= {each["name"] for each in required}
    assert all(each["hashes"] for each in [llama, *required])
    assert "unknown" not in json.dumps(bill)
    names = {"dmr", *(each["bom-ref"] for each in bill["components"])}
    assert {name for entry in bill["dependencies"] for name in (entry["ref"], *entry["dependsOn"])} == names


def test_two_bills_of_the_same_are_equal(bill: dict[str, Any], tmp_path: Path) -> None:
    subprocess.run([sys.executable, THIRD_PARTY / "sbom.py", tmp_path / "again.json", "1.2.3"], check=True)
    assert json.loads((tmp_path / "again.json").read_text()) == bill


def test_each_bundled_licence_is_shipped() -> None:
    texts = {each.text for each in script("sbom").BUNDLED}
    assert texts == {path.name for path in (THIRD_PARTY / "licences").iterdir()}
    assert '"third_party/licences/*.txt"' in (ROOT / "pyproject.toml").read_text()


def test_versions_are_those_of_the_sources() -> None:
    """Where the sources were unpacked; a new pin brings new versions."""
    folders = list((ROOT / "build/third_party").glob("llama.cpp-*"))
    if not folders:
        pytest.skip("llama.cpp was not unpacked here")
    for each in script("sbom").BUNDLED:
        source = folders[0] / each.source
        assert source.is_dir(), f"llama.cpp has no {each.source} any more"
        headers = "".join(path.read_text(errors="replace")[:300_000] for path in source.glob("*.h*"))
        numbers = re.escape(each.version).replace(r"\.", r"\D{1,120}?")
        assert not each.version or re.search(numbers, headers), f"{each.name} is no longer {each.version}"


def test_every_dependency_is_pinned_by_hash() -> None:
    pinned = {each["name"] for each in script("sbom").read_lock(LOCK)}
    declared = {re.split(r"[<>=!~;\[ ]", text)[0] for text in script("lock").declared()}
    assert declared <= pinned, "run `make lock`"


def test_a_lock_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(SystemExit, match="cannot be read"):
        script("sbom").read_lock(LOCK + "\n\n# licence: MIT\nno-version\n")


def test_dependencies_of_other_pythons_are_left_out() -> None:
    wanted = ["tomli>=2; python_version < '3.11'", "click>=8"]
    assert script("lock").fitting(wanted, "3.10") == ["tomli>=2", "click>=8"]
    assert script("lock").fitting(wanted, "3.12") == ["click>=8"]
