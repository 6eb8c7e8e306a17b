"""What a name of the hub means: `hf.co/organisation/repository[:quantization][@revision]`."""

from __future__ import annotations

import re

import msgspec

from dmr.errors import InvalidReference
from dmr.store.reference import DEFAULT_TAG, HUB_HOSTS, REVISION_MARK, fold_revision, parse_reference

DEFAULT_REVISION = "main"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class HubModel(msgspec.Struct, frozen=True):
    """`repository` keeps its case, which the hub minds; `quantization` is empty if none was asked for."""

    repository: str
    quantization: str = ""
    revision: str = DEFAULT_REVISION


def parse_hub_name(text: str) -> HubModel | None:
    """What a user wants from the hub; None for a name of another registry.

    Raises:
        InvalidReference: the hub can have no such model, or the store not hold its name.
    """
    if text.strip().partition("/")[0].lower() not in HUB_HOSTS:
        return None
    if parse_reference(text).digest:
        raise InvalidReference(f"'{text[:100]}' has a digest, which the hub does not know: name a revision after '@'.")
    repository, _, tag = fold_revision(text.strip()).partition("/")[2].partition(":")
    parts = repository.split("/")
    if len(parts) != 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise InvalidReference(f"'{text[:100]}' is no model of this hub: expected hf.co/organisation/repository.")
    quantization, _, revision = tag.partition(REVISION_MARK)
    return HubModel(
        repository,
        "" if quantization.lower() == DEFAULT_TAG else quantization,
        revision.replace(REVISION_MARK, "/") or DEFAULT_REVISION,
    )
