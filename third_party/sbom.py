"""Write the bill of materials of a wheel: CycloneDX 1.6, as JSON.

    python third_party/sbom.py FILE VERSION

What is built into the wheel comes from the pin of llama.cpp and from `BUNDLED`; what pip installs beside it, from the
lock file, with hashes. CMake puts the file into the wheel's .dist-info/sboms (PEP 770). Standard library only, and two
runs give the same bytes.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
LOCK_FILE = HERE / "requirements.txt"
PIN_FILE = HERE / "llama_cpp.txt"


class Bundled(NamedTuple):
    """Something that llama.cpp brings along and that is compiled into the extension, or copied into the wheel."""

    name: str
    version: str  # empty: it has none
    licence: str  # SPDX
    text: str  # its file in third_party/licences
    source: str  # below llama.cpp
    url: str


BUNDLED = (
    Bundled(
        "nlohmann-json", "3.12.0", "MIT", "nlohmann-json.txt", "vendor/nlohmann", "https://github.com/nlohmann/json"
    ),
    Bundled(
        "cpp-httplib",
        "0.58.0",
        "MIT",
        "cpp-httplib.txt",
        "vendor/cpp-httplib",
        "https://github.com/yhirose/cpp-httplib",
    ),
    Bundled(
        "miniaudio",
        "0.11.25",
        "Unlicense OR MIT-0",
        "miniaudio.txt",
        "vendor/miniaudio",
        "https://github.com/mackron/miniaudio",
    ),
    Bundled("stb_image", "2.30", "MIT OR Unlicense", "stb_image.txt", "vendor/stb", "https://github.com/nothings/stb"),
    Bundled(
        "subprocess.h",
        "",
        "Unlicense",
        "subprocess.h.txt",
        "vendor/sheredom",
        "https://github.com/sheredom/subprocess.h",
    ),
    Bundled(
        "xxhash", "0.8.3", "BSD-2-Clause", "xxhash.txt", "vendor/hash/xxhash", "https://github.com/Cyan4973/xxHash"
    ),
    Bundled(
        "sha256", "", "LicenseRef-public-domain", "sha256.txt", "vendor/hash/sha256", "https://github.com/jb55/sha256.c"
    ),
    Bundled("sha1", "", "LicenseRef-public-domain", "sha1.txt", "vendor/hash/sha1", "https://github.com/clibs/sha1"),
    Bundled(
        "rotate-bits", "", "MIT", "rotate-bits.txt", "vendor/hash/rotate-bits", "https://github.com/jb55/rotate-bits.h"
    ),
    Bundled("gguf-py", "", "MIT", "gguf-py.txt", "gguf-py", "https://github.com/ggml-org/llama.cpp"),
)


def read_lock(text: str) -> list[dict[str, Any]]:
    """The components of a lock file: a comment with the licence, then NAME==VERSION with hashes."""
    entry = re.compile(
        r"^# licence: (?P<licence>.+)\n(?P<name>[\w.-]+)==(?P<version>[\w.+!-]+)(?P<rest>(?:.*\\\n)*.*)$"
    )
    components = []
    for block in text.split("\n\n")[1:]:
        found = entry.fullmatch(block.strip())
        if found is None:
            raise SystemExit(f"{LOCK_FILE} has an entry that cannot be read:\n{block}")
        digests = re.findall(r"sha256:(\w{64})", found["rest"])
        components.append(
            {
                "type": "library",
                "bom-ref": f"pkg:pypi/{found['name']}@{found['version']}",
                "name": found["name"],
                "version": found["version"],
                "purl": f"pkg:pypi/{found['name']}@{found['version']}",
                "scope": "required",
                "licenses": [{"license": {"name": found["licence"]}}],
                "hashes": [{"alg": "SHA-256", "content": each} for each in digests],
            }
        )
    return components


def bundled_components() -> list[dict[str, Any]]:
    pin = PIN_FILE.read_text()
    package = re.search(r"^(?P<name>[\w-]+)==(?P<version>\S+) --hash=sha256:(?P<hash>\w{64})", pin, re.MULTILINE)
    commit = re.search(r"^# llama\.cpp commit: (\w+)$", pin, re.MULTILINE)
    if package is None or commit is None:
        raise SystemExit(f"{PIN_FILE} does not hold a pin that can be read.")
    archive = f"pkg:pypi/{package['name']}@{package['version']}"
    llama: dict[str, Any] = {
        "type": "library",
        "bom-ref": "llama.cpp",
        "name": "llama.cpp",
        "version": commit[1],
        "purl": f"pkg:github/ggml-org/llama.cpp@{commit[1]}",
        "licenses": [{"expression": "MIT"}],
        "hashes": [{"alg": "SHA-256", "content": package["hash"]}],
        "properties": [{"name": "dmr:archive", "value": archive}],
        "components": [_bundled(each) for each in BUNDLED],
    }
    return [llama]


def _bundled(each: Bundled) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": f"llama.cpp/{each.source}",
        "name": each.name,
        **({"version": each.version} if each.version else {}),
        "licenses": [{"expression": each.licence}],
        "externalReferences": [{"type": "vcs", "url": each.url}],
    }


def bill(version: str) -> dict[str, Any]:
    own = {
        "type": "application",
        "bom-ref": "dmr",
        "name": "dmr",
        "version": version,
        "purl": f"pkg:pypi/dmr@{version}",
        "licenses": [{"expression": "Apache-2.0"}],
    }
    bundled, required = bundled_components(), read_lock(LOCK_FILE.read_text())
    content = json.dumps([own, bundled, required], sort_keys=True)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {"component": own},
        "components": [*bundled, *required],
        "dependencies": [
            {"ref": "dmr", "dependsOn": ["llama.cpp", *(each["bom-ref"] for each in required)]},
        ],
    }


def main() -> None:
    path, version = Path(sys.argv[1]), sys.argv[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bill(version), indent=2) + "\n")


if __name__ == "__main__":
    main()
