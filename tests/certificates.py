"""An authority of one's own and a certificate that it has signed, made with the openssl program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650")


class Certificates(NamedTuple):
    authority: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, *hosts: str) -> Certificates:
    """For host names and 127.0.0.1. Skips the test where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    names = ",".join(["IP:127.0.0.1", *(f"DNS:{host}" for host in hosts)])
    authority = ("-keyout", folder / "ca.key", "-out", made.authority, "-subj", "/CN=Test authority")
    _openssl(*authority, "-addext", "keyUsage=critical,keyCertSign")
    signer = ("-CA", made.authority, "-CAkey", folder / "ca.key", "-keyout", made.key, "-out", made.certificate)
    extensions = ("-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE")
    _openssl(*signer, "-subj", "/CN=Test server", *extensions)
    return made


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["openssl", "req", "-x509", *_KEY, *arguments], capture_output=True, text=True, check=False, timeout=30
    )
    if done.returncode != 0:
        pytest.skip(f"openssl makes no such certificates: {done.stderr.strip()[-200:]}")
