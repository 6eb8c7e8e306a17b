"""Docker Hub's catalogue of models: the repositories of one namespace, the most pulled ones first."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import msgspec
import urllib3

from dmr.errors import RegistryError
from dmr.store.manifest import GGUF_TYPE, MODELPACK_GGUF_TYPE, SAFETENSORS_TYPE, parse_manifest
from dmr.store.pull import RegistryOptions, find_manifest
from dmr.store.reference import DEFAULT_NAMESPACE, parse_reference
from dmr.store.registry.transport import BRIEF, Transport
from dmr.store.search_types import Found, Measure, backends_of, shortened

ENDPOINT_VARIABLE = "DMR_HUB_ENDPOINT"
DEFAULT_ENDPOINT = "https://hub.docker.com"
SOURCE = "Docker Hub"
PAGE_SIZE = 100
MAX_PAGES = 50
MAX_PAGE_BYTES = 16 << 20


class _Repository(msgspec.Struct, frozen=True):
    name: str
    namespace: str = DEFAULT_NAMESPACE
    description: str | None = None
    is_private: bool = False
    star_count: int = 0
    pull_count: int = 0
    last_updated: str | None = None


class _Page(msgspec.Struct, frozen=True):
    results: list[_Repository]
    next: str | None = None


def search_docker_hub(
    term: str, limit: int, options: RegistryOptions, transport: Transport
) -> tuple[list[Found], Measure]:
    """Raises RegistryError: the hub does not answer, or not in its own way."""
    url = _first_page(options.environ)
    origin, found = urlsplit(url)[:2], list[Found]()
    for _ in range(MAX_PAGES):
        page = _read_page(url, transport)
        found += [_found(one) for one in page.results if not one.is_private and _matches(one, term)]
        if not page.next or len(found) >= limit:
            break
        url = urljoin(url, page.next)
        if urlsplit(url)[:2] != origin:
            raise RegistryError("The hub's catalogue goes on somewhere else.")
    return found[:limit], functools.partial(_measure, options, transport)


def _first_page(environ: Mapping[str, str]) -> str:
    endpoint = (environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT).rstrip("/")
    return f"{endpoint}/v2/repositories/{DEFAULT_NAMESPACE}/?page_size={PAGE_SIZE}&ordering=-pull_count"


def _read_page(url: str, transport: Transport) -> _Page:
    with transport.open("GET", url, {"Accept": "application/json"}, patience=BRIEF) as response:
        if response.status == 429:
            raise RegistryError("Docker Hub takes no more requests for now (rate limit); try again later.")
        if response.status != 200:
            raise RegistryError(f"Docker Hub answered with status {response.status}.")
        try:
            return msgspec.json.decode(response.read(MAX_PAGE_BYTES), type=_Page)
        except (msgspec.MsgspecError, urllib3.exceptions.HTTPError, RecursionError) as error:
            raise RegistryError(f"Docker Hub's catalogue cannot be understood: {error}.") from error


def _matches(repository: _Repository, term: str) -> bool:
    return term.lower() in f"{repository.name}\n{repository.description or ''}".lower()


def _found(repository: _Repository) -> Found:
    text = f"{repository.name} {repository.description or ''}".lower()
    is_for_others = "safetensors" in text or "vllm" in text
    return Found(
        name=f"{repository.namespace}/{repository.name}",
        description=shortened(repository.description or ""),
        downloads=repository.pull_count,
        stars=repository.star_count,
        source=SOURCE,
        official=repository.namespace == DEFAULT_NAMESPACE,
        updated_at=repository.last_updated or "",
        backend=backends_of("gguf" in text or not is_for_others, is_for_others),
    )


def _measure(options: RegistryOptions, transport: Transport, found: Found) -> Found:
    """By the manifest of its default tag, which also tells surely who can run it."""
    raw, _ = find_manifest(parse_reference(found.name), options, transport, BRIEF)
    manifest = parse_manifest(raw)
    types: set[Any] = {layer.media_type for layer in manifest.layers}
    backend = backends_of(bool(types & {GGUF_TYPE, MODELPACK_GGUF_TYPE}), SAFETENSORS_TYPE in types)
    size = sum(layer.size for layer in manifest.layers)
    return msgspec.structs.replace(found, size=size, backend=found.backend if backend == "unknown" else backend)
