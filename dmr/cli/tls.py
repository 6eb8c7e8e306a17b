"""How the certificate of a server behind https is checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from dmr.errors import InvalidRequest

_TRUE = ("1", "t", "true", "y", "yes", "on")


class Tls(msgspec.Struct, frozen=True, omit_defaults=True):
    """`ca_cert` is the file of an authority to be trusted beside none other; empty = those of the system."""

    skip_verify: bool = False
    ca_cert: str = ""

    def pool_options(self) -> dict[str, Any]:
        """Arguments of urllib3's pools."""
        options: dict[str, Any] = {"cert_reqs": "CERT_NONE"} if self.skip_verify else {}
        return {**options, "ca_certs": self.ca_cert} if self.ca_cert else options


def read_tls(environ: Mapping[str, str] = os.environ) -> tuple[bool, Tls]:
    """Whether an address without a scheme means https, and the rest, from the variables that upstream has."""
    skip_verify = _is_set(environ, "MODEL_RUNNER_TLS_SKIP_VERIFY")
    return _is_set(environ, "MODEL_RUNNER_TLS"), Tls(skip_verify, environ.get("MODEL_RUNNER_TLS_CA_CERT", "").strip())


def _is_set(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").strip().strip("\"'").lower() in _TRUE


def with_https(address: str) -> str:
    """The address with https for its scheme. Raises `InvalidRequest` if it has another one."""
    scheme, separator, rest = address.strip().strip("\"'").partition("://")
    if separator and scheme.lower() != "https":
        raise InvalidRequest(f"{address} and TLS contradict each other: leave out {scheme}://, or say https.")
    return f"https://{rest if separator else scheme}"
