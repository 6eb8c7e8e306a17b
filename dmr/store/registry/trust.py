"""Whose certificates are believed: the system's authorities, and one file of one's own."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import urllib3
from urllib3.util.ssl_ import create_urllib3_context

from dmr.errors import RegistryError

FILE_VARIABLE, OWN_VARIABLE = "SSL_CERT_FILE", "DMR_CA_FILE"


def trusting_context(certificates: str, environ: Mapping[str, str]) -> ssl.SSLContext:
    """Certificates are checked. SSL_CERT_FILE stands in place of the system's file, `certificates` beside it.

    Raises:
        RegistryError: one of the files cannot be used.
    """
    context = create_urllib3_context()
    context.load_default_certs()
    for variable, path in ((FILE_VARIABLE, environ.get(FILE_VARIABLE, "")), (OWN_VARIABLE, certificates)):
        if path:
            _load(context, path, variable)
    return context


def blind_context() -> ssl.SSLContext:
    """Whoever answers is believed. No warning is given: the user has asked for it."""
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    context = create_urllib3_context(cert_reqs=ssl.CERT_NONE)
    context.check_hostname = False
    return context


def _load(context: ssl.SSLContext, path: str, variable: str) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if type(error) is not ssl.SSLError else "it holds no certificates in PEM form"
        raise RegistryError(f"{variable}={path} cannot be used: {reason}.") from error
