"""Looks for models with GGUF files on the hub, the most downloaded ones first."""

from __future__ import annotations

import contextlib
import functools

import msgspec

from dmr.errors import RegistryError
from dmr.store.hugging_face.access import find_endpoint, find_token
from dmr.store.hugging_face.choice import choose
from dmr.store.hugging_face.client import Hub
from dmr.store.hugging_face.names import DEFAULT_REVISION, HubModel
from dmr.store.pull import RegistryOptions
from dmr.store.registry.transport import BRIEF, Transport
from dmr.store.search_types import Found, Measure, backends_of, shortened

SOURCE = "HuggingFace"
PREFIX = "hf.co/"
MAX_RESULTS = 1000  # of one request
_BASE_MODEL = "base_model:"


class _Listed(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    likes: int = 0
    downloads: int = 0
    tags: list[str] = []
    pipeline_tag: str | None = msgspec.field(default=None, name="pipeline_tag")
    last_modified: str | None = None
    created_at: str | None = None
    private: bool = False


def search_hugging_face(
    term: str, limit: int, options: RegistryOptions, transport: Transport
) -> tuple[list[Found], Measure]:
    """Raises RegistryError, Unauthorized: the hub does not answer, or not in its own way."""
    token = find_token(options.environ, options.token)
    hub = Hub(find_endpoint(options.environ), token, transport, BRIEF)
    query = {"filter": "gguf", "sort": "downloads", "direction": "-1", "limit": str(min(limit, MAX_RESULTS))}
    answer = hub.find({**query, "search": term} if term else query)
    if not isinstance(answer, list):
        raise RegistryError("The hub's answer cannot be understood: it is no list.")
    found = []
    for entry in answer:
        with contextlib.suppress(msgspec.ValidationError):
            listed = msgspec.convert(entry, _Listed)
            if not listed.private:
                found.append(_found(listed))
    return found[:limit], functools.partial(_measure, hub)


def _found(listed: _Listed) -> Found:
    tags = {tag.lower() for tag in listed.tags}
    return Found(
        name=PREFIX + listed.id,
        description=shortened(_description(listed)),
        downloads=listed.downloads,
        stars=listed.likes,
        source=SOURCE,
        official=False,
        updated_at=listed.last_modified or listed.created_at or "",
        backend=backends_of(has_gguf=True, has_safetensors="safetensors" in tags),
    )


def _description(listed: _Listed) -> str:
    """The hub gives none in lists: what it is for, and what it was made of."""
    bases = [tag.removeprefix(_BASE_MODEL) for tag in listed.tags if tag.startswith(_BASE_MODEL)]
    base = next((name.rpartition(":")[2] for name in bases), "")
    return ", ".join(filter(None, (listed.pipeline_tag, base))) or "AI model"


def _measure(hub: Hub, found: Found) -> Found:
    """The size of what a pull by this very name brings."""
    model = HubModel(found.name.removeprefix(PREFIX))
    choice = choose(hub.list_files(model.repository, DEFAULT_REVISION), model)
    files = (*choice.weights.files, *([choice.projector] if choice.projector else ()))
    return msgspec.structs.replace(found, size=sum(file.size for file in files))
