"""Certificates for TLS: one's own, or an authority and a certificate that are made here with the openssl program.

Files, names and terms are those of Docker Model Runner: ECDSA P-256, ten years for the authority, a year for the
certificate, and a new one when less than 30 days are left.
"""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dmr.config import AUTO_CERTIFICATES, Settings

AUTHORITY_DAYS, SERVER_DAYS = 3650, 365
LEAST_LEFT = 30 * 24 * 3600  # seconds
LOOK_INTERVAL = 10.0  # seconds between two looks at the files
_NAMES = ("localhost", "host.docker.internal", "model-runner.docker.internal", "127.0.0.1", "::1")
_TIMEOUT = 30.0  # seconds for one run of openssl
_AUTHORITY = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"
_SERVER = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"

log = logging.getLogger("dmr.server")


class CertificateFailed(RuntimeError):
    """There is no certificate to be had. The message says what to do."""


class Files(NamedTuple):
    certificate: Path
    key: Path


class TlsContext:
    """What connections are wrapped with. The files are read again when they change: nothing restarts for that."""

    def __init__(self, files: Files, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises CertificateFailed: the files cannot be used."""
        self._files = files
        self._clock = clock
        self._lock = threading.Lock()
        self._state = _state_of(files)
        self._context = _load(files)
        self._looked = clock()

    def current(self) -> ssl.SSLContext:
        with self._lock:
            if self._clock() - self._looked >= LOOK_INTERVAL:
                self._looked = self._clock()
                self._look()
            return self._context

    def _look(self) -> None:
        state = _state_of(self._files)
        if state == self._state:
            return
        self._state = state  # where one of the two is not there yet, it changes again
        try:
            self._context = _load(self._files)
        except CertificateFailed as error:
            log.error("The certificate stays as it was: %s", error)


def files_of(settings: Settings) -> Files:
    """The certificate of these settings; one is made, or renewed, where none is given. Raises CertificateFailed."""
    if settings.tls.cert:
        return Files(Path(settings.tls.cert), Path(settings.tls.key))
    return make_certificate(Path(AUTO_CERTIFICATES).expanduser(), names_of(settings.host))


def names_of(host: str) -> tuple[str, ...]:
    """What a certificate is made out for: names and addresses by which this machine is reached."""
    own = host.strip("[]")
    more = [socket.gethostname(), *([] if own in ("0.0.0.0", "::", "") else [own])]
    return tuple(dict.fromkeys([*_NAMES, *(name for name in more if _is_name(name))]))


def make_certificate(folder: Path, names: Iterable[str]) -> Files:
    """The certificate in `folder`, made or renewed if need be, as is its authority. Raises CertificateFailed."""
    files = Files(folder / "server.crt", folder / "server.key")
    hosts = "\n".join(names) + "\n"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as made:
            if not _is_good(folder / "ca.crt", folder / "ca.key"):
                _make_authority(Path(made))
                _move(Path(made), folder, "ca.key", "ca.crt")
                (folder / "server.crt").unlink(missing_ok=True)
            known = folder / "server.names"
            if not _is_good(*files) or not known.exists() or known.read_text() != hosts:
                _make_server(Path(made), folder, hosts.split())
                (Path(made) / "server.names").write_text(hosts)
                _move(Path(made), folder, "server.key", "server.crt", "server.names")
    except OSError as error:
        raise CertificateFailed(f"No certificate can be made in {folder}: {error.strerror}.") from None
    return files


def _load(files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])

    def no_password() -> str:
        raise CertificateFailed(f"The key {files.key} has a password: give one without.")

    try:
        context.load_cert_chain(files.certificate, files.key, no_password)
    except (OSError, ssl.SSLError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise CertificateFailed(f"{files.certificate} and {files.key} cannot be used for TLS: {reason}.") from None
    return context


def _state_of(files: Files) -> list[tuple[int, int]]:
    try:
        return [(found.st_mtime_ns, found.st_ino) for found in map(os.stat, files)]
    except OSError:
        return []


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Servers that start at the same time make one certificate."""
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _is_good(certificate: Path, key: Path) -> bool:
    """Whether both are there, belong together, and will do for some time."""
    if not certificate.exists() or not key.exists():
        return False
    try:
        _load(Files(certificate, key))
        _openssl("x509", "-noout", "-checkend", str(LEAST_LEFT), "-in", certificate)
    except CertificateFailed:
        return False
    return True


def _make_authority(made: Path) -> None:
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", made / "ca.key")
    config = made / "ca.conf"
    config.write_text(f"[req]\ndistinguished_name=dn\nx509_extensions=v3\nprompt=no\n[dn]\nCN=dmr on {_own_name()}\n")
    with config.open("a") as file:
        file.write(f"[v3]\nsubjectKeyIdentifier=hash\n{_AUTHORITY}")
    term = ("-sha256", "-days", str(AUTHORITY_DAYS))
    _openssl("req", "-x509", "-new", "-config", config, "-key", made / "ca.key", *term, "-out", made / "ca.crt")


def _make_server(made: Path, authority: Path, names: Iterable[str]) -> None:
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", made / "server.key")
    config = made / "server.conf"
    config.write_text("[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=dmr\n")
    _openssl("req", "-new", "-config", config, "-key", made / "server.key", "-out", made / "server.csr")
    extensions = made / "server.ext"
    told = ",".join(f"IP:{name}" if _is_address(name) else f"DNS:{name}" for name in names)
    extensions.write_text(f"authorityKeyIdentifier=keyid\n{_SERVER}subjectAltName={told}\n")
    signer = ("-CA", authority / "ca.crt", "-CAkey", authority / "ca.key", "-set_serial", f"0x{secrets.token_hex(16)}")
    term = ("-sha256", "-days", str(SERVER_DAYS), "-extfile", extensions)
    _openssl("x509", "-req", "-in", made / "server.csr", *signer, *term, "-out", made / "server.crt")


def _move(made: Path, folder: Path, *names: str) -> None:
    for name in names:
        (made / name).chmod(0o644 if name == "ca.crt" else 0o600)
        (made / name).replace(folder / name)


def _openssl(*arguments: str | Path) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise CertificateFailed(
            "TLS needs a certificate, and there is no openssl to make one: install it, or give "
            "MODEL_RUNNER_TLS_CERT and MODEL_RUNNER_TLS_KEY."
        )
    try:
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CertificateFailed(f"openssl makes no certificate: {error}.") from None
    if done.returncode != 0:
        raise CertificateFailed(f"openssl makes no certificate: {done.stderr.strip()[-200:]}")


def _own_name() -> str:
    name = socket.gethostname()
    return name if _is_name(name) else "this machine"


def _is_name(name: str) -> bool:
    return _is_address(name) or bool(re.fullmatch(r"[A-Za-z0-9.-]{1,64}", name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
