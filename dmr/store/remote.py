"""What a registry tells of a model that is not here: its manifest and its config, without the weights."""

from __future__ import annotations

import urllib3

from dmr.errors import RegistryError
from dmr.store.digest import digest_of
from dmr.store.manifest import Manifest, mmproj_layer
from dmr.store.model_config import parse_config
from dmr.store.pull import RegistryOptions, check_manifest, find_manifest
from dmr.store.reference import Reference
from dmr.store.registry.client import Repository
from dmr.store.registry.transport import BRIEF, Transport
from dmr.types import ModelRecord


def inspect_model(reference: Reference, options: RegistryOptions, transport: Transport) -> ModelRecord:
    """The record that a pull would make, without tags and without the texts that are layers of their own.

    Raises:
        RemoteModelNotFound, Unauthorized, RegistryError, Unsupported, StoreError, TransferCancelled
    """
    raw, repositories = find_manifest(reference, options, transport, BRIEF)
    manifest = check_manifest(raw)
    stored = parse_config(_read_config(repositories[0], manifest), manifest)
    return ModelRecord(
        id=digest_of(raw),
        tags=(),
        created=stored.created,
        config=stored.config,
        size=sum(blob.size for blob in manifest.blobs),
        has_mmproj=mmproj_layer(manifest) is not None,
    )


def _read_config(repository: Repository, manifest: Manifest) -> bytes:
    config = manifest.config
    try:
        with repository.blob(config.digest) as response:
            raw = response.read(config.size + 1)
    except urllib3.exceptions.HTTPError as error:
        raise RegistryError(f"The model's config broke off: {error}.") from error
    if digest_of(raw) != config.digest:
        raise RegistryError(f"The registry sent other bytes than those of the model's config {config.digest}.")
    return raw
