"""How the certificate of a server behind https is checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dmr.config import AUTO_CERTIFICATES
from dmr.errors import InvalidRequest

_TRUE = ("1", "t", "true", "y", "yes", "on")


class Tls(msgspec.Struct, frozen=True, omit_defaults=True):
    """`ca_cert` is the file of an authority to be trusted beside none other; empty = those of the system."""

    skip_verify: bool = False
    ca_cert: str = ""

    def pool_options(self, *, is_local: bool = False) -> dict[str, Any]:
        """Arguments of urllib3's pools. A server of this machine may have an authority that was made here.

        Raises:
            InvalidRequest: the file of the authority cannot be used.
        """
        if self.skip_verify:
            return {"cert_reqs": "CERT_NONE"}
        own = Path(AUTO_CERTIFICATES).expanduser() / "ca.crt"
        if not self.ca_cert and not (is_local and own.exists()):
            return {}
        import ssl

        from urllib3.util.ssl_ import create_urllib3_context

        context = create_urllib3_context()
        try:
            if self.ca_cert:
                context.load_verify_locations(self.ca_cert)
            else:
                context.load_default_certs()
                context.load_verify_locations(own)
        except OSError as error:  # so is an SSLError
            reason = "it holds no certificates in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
            raise InvalidRequest(f"{self.ca_cert or own} cannot be used for TLS: {reason}.") from None
        return {"ssl_context": context}


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
