"""Pin what a release needs at run time, with the hash of each file: write third_party/requirements.txt anew.

    python third_party/lock.py

pip itself resolves, for each platform and each Python that wheels are made for, and nothing is installed.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LOCK_FILE = Path(__file__).with_name("requirements.txt")
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_28_aarch64", "macosx_14_0_arm64")
HEADER = """\
# What dmr needs at run time, and the hash of every file that may be installed: written by third_party/lock.py.
# `pip install --require-hashes --no-deps -r third_party/requirements.txt`, then dmr's wheel with --no-deps.
"""


def declared() -> list[str]:
    """The dependencies of pyproject.toml, as pip takes them."""
    block = re.search(r"^dependencies = \[(.*?)^\]", PYPROJECT.read_text(), re.MULTILINE | re.DOTALL)
    if block is None:
        raise SystemExit("pyproject.toml has no dependencies that can be read.")
    return re.findall(r'^\s*"([^"]+)"', block[1], re.MULTILINE)


def resolve(python: str, platform: str, wanted: list[str]) -> list[dict[str, Any]]:
    """pip's report of what it would install there."""
    versions = [f"manylinux_2_17_{platform.rpartition('_2_28_')[2]}"] if platform.startswith("manylinux") else []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run"]
        command += ["--ignore-installed", "--only-binary", ":all:", "--target", folder, "--report", str(report)]
        command += ["--python-version", python]
        for name in (platform, *versions):
            command += ["--platform", name]
        subprocess.run([*command, *fitting(wanted, python)], check=True)
        installed: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return installed


def fitting(wanted: list[str], python: str) -> list[str]:
    """Those whose condition on the Python holds; pip would look at the one that runs it."""
    fit = []
    for requirement in wanted:
        name, _, condition = requirement.partition(";")
        below = re.search(r"python_version < '3\.(\d+)'", condition)
        if below is None or int(python.partition(".")[2]) < int(below[1]):
            fit.append(name.strip())
    return fit


def licence_of(metadata: dict[str, Any]) -> str:
    """By its SPDX expression, else by what the package says in a line or a classifier.

    Old versions of pip leave the expression out of their report, so the package that is installed here is asked too.
    """
    try:
        expression = importlib.metadata.metadata(metadata["name"]).get("License-Expression")
    except importlib.metadata.PackageNotFoundError:
        expression = None
    classifiers = [text.rpartition(" :: ")[2] for text in metadata.get("classifier", []) if text.startswith("License")]
    told = str(metadata.get("license") or "").strip()
    short = told if told and len(told) < 60 and "\n" not in told else ""
    return str(metadata.get("license_expression") or expression or short or ", ".join(classifiers) or "unknown")


def main() -> None:
    wanted = declared()
    hashes: dict[tuple[str, str], set[str]] = {}
    licences: dict[str, str] = {}
    pythons: dict[tuple[str, str], set[str]] = {}
    for python, platform in itertools.product(PYTHONS, PLATFORMS):
        print(f"resolving for Python {python} on {platform}", file=sys.stderr)
        for item in resolve(python, platform, wanted):
            metadata = item["metadata"]
            key = re.sub(r"[-_.]+", "-", metadata["name"]).lower(), metadata["version"]
            hashes.setdefault(key, set()).add(item["download_info"]["archive_info"]["hashes"]["sha256"])
            pythons.setdefault(key, set()).add(python)
            licences[key[0]] = licence_of(metadata)
    lines = [HEADER]
    for (name, version), found in sorted(hashes.items()):
        marker = condition_of(pythons[name, version])
        lines.append(f"\n# licence: {licences[name]}\n{name}=={version}{marker} \\\n")
        lines.append(" \\\n".join(f"    --hash=sha256:{digest}" for digest in sorted(found)) + "\n")
    LOCK_FILE.write_text("".join(lines))


def condition_of(pythons: set[str]) -> str:
    """Some versions are of some Pythons only."""
    if pythons == set(PYTHONS):
        return ""
    conditions = " or ".join(f"python_version == '{python}'" for python in sorted(pythons, key=PYTHONS.index))
    return f" ; {conditions}"


if __name__ == "__main__":
    main()
