"""Models as their registries have them: read where a request is answered, for nothing of it is kept."""

from __future__ import annotations

from collections.abc import Mapping

from dmr.config import RegistrySettings
from dmr.store.pull import RegistryOptions
from dmr.store.transfers import inspect
from dmr.types import ModelRecord


class RemoteModels:
    """Any thread."""

    def __init__(
        self, settings: RegistrySettings, environ: Mapping[str, str], private: tuple[str, ...] | None = None
    ) -> None:
        """`environ`: where credentials and proxies are looked for.

        `private`: the registries at private addresses that may be asked; None = any.
        """
        self._default_registry = settings.default
        self._options = RegistryOptions(
            settings.insecure, settings.mirrors, None, environ, settings.certificates, private
        )

    def get(self, reference: str) -> ModelRecord:
        """The record that a pull would make, without tags. Waits for the registry.

        Raises:
            InvalidReference, RemoteModelNotFound, Unauthorized, Unsupported, RegistryError, RegistryNotAllowed
            StoreError
        """
        return inspect(reference, self._default_registry, self._options)
