"""What a search finds at a catalogue and a hub on loopback, and what it says when one of them does not answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loopback_catalog import LoopbackCatalog
from loopback_hub import LoopbackHub
from loopback_registry import LoopbackRegistry, running
from transfer_models import NOBODY
from unit.store.gguf_bytes import Tensor, gguf_bytes

from dmr.errors import RegistryError
from dmr.store.pull import RegistryOptions
from dmr.store.search import search_models
from dmr.store.search_types import Found
from dmr.store.store import ModelStore
from dmr.store.transfers import push

pytestmark = pytest.mark.usefixtures("impatient")
MODEL = gguf_bytes({"general.architecture": "llama"}, tensors=[Tensor("a")])


@pytest.fixture
def catalog() -> Iterator[LoopbackCatalog]:
    with running(LoopbackCatalog()) as server:
        server.add("smollm2", "Tiny and quick", pull_count=1_200_000, star_count=30, last_updated="2026-01-01")
        server.add("secret", "Tiny", is_private=True)
        server.add("qwen3-vllm", "Big", pull_count=700)
        server.add("gemma3", "The tiny one, in so many words that no table has room for all of them", pull_count=5)
        yield server


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with running(LoopbackHub()) as server:
        tags = ["gguf", "safetensors", "base_model:Org/Tiny", "base_model:quantized:Org/Tiny"]
        server.found = [
            {"id": "Org/Tiny-GGUF", "downloads": 45_000, "likes": 7, "tags": tags, "pipeline_tag": "text-generation"},
            {"id": "Org/None", "private": True},
            {"strange": 1},
            {"id": "Org/Gone-GGUF", "downloads": 3, "tags": ["gguf"]},
        ]
        server.files = {"t-Q4_K_M.gguf": MODEL, "t-Q8_0.gguf": MODEL * 3, "mmproj-F16.gguf": b"123"}
        yield server


@pytest.fixture
def options(catalog: LoopbackCatalog, hub: LoopbackHub, registry: LoopbackRegistry) -> RegistryOptions:
    environ = {"DMR_HUB_ENDPOINT": f"http://{catalog.host}", "HF_ENDPOINT": f"http://{hub.host}"}
    return RegistryOptions(insecure=True, mirrors=(registry.host,), environ=environ)


def names(options: RegistryOptions, term: str = "", limit: int = 32, source: str = "all") -> list[str]:
    return [found.name for found in search_models(term, limit, options, source, 0.0).found]


def test_names_and_descriptions_are_searched(options: RegistryOptions) -> None:
    assert names(options, source="dockerhub") == ["ai/smollm2", "ai/qwen3-vllm", "ai/gemma3"]
    assert names(options, " TINY ", source="dockerhub") == ["ai/smollm2", "ai/gemma3"]
    assert names(options, "nothing", source="dockerhub") == []
    assert names(options, source="huggingface") == ["hf.co/Org/Tiny-GGUF", "hf.co/Org/Gone-GGUF"]


def test_the_hub_is_asked_for_what_can_run_here(options: RegistryOptions, hub: LoopbackHub) -> None:
    names(options, "tiny llama", 5, "huggingface")
    asked = hub.requests[0][1]
    assert asked == "/api/models?filter=gguf&sort=downloads&direction=-1&limit=5&search=tiny+llama"


def test_what_is_found_is_described(
    options: RegistryOptions, registry: LoopbackRegistry, source: ModelStore, hub: LoopbackHub
) -> None:
    push(source, "test/model", f"{registry.host}/ai/smollm2", NOBODY, lambda _: None)
    found = {one.name: one for one in search_models("", 32, options, measuring_seconds=60).found}
    size = source.get("test/model").size
    smol = found["ai/smollm2"]
    assert abs(smol.size - size) < 2000  # the config is no layer
    assert (smol.downloads, smol.stars, smol.source, smol.official) == (1_200_000, 30, "Docker Hub", True)
    assert (smol.backend, smol.updated_at) == ("llama.cpp", "2026-01-01")
    assert found["ai/gemma3"].description == "The tiny one, in so many words that no table ha..."
    assert (found["ai/gemma3"].size, found["ai/qwen3-vllm"].backend) == (0, "vllm")
    assert found["hf.co/Org/Tiny-GGUF"] == Found(
        name="hf.co/Org/Tiny-GGUF",
        description="text-generation, Org/Tiny",
        downloads=45_000,
        stars=7,
        source="HuggingFace",
        official=False,
        updated_at="",
        backend="llama.cpp, vllm",
        size=len(MODEL) + 3,
    )
    assert found["hf.co/Org/Gone-GGUF"].size == 0


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, ["ai/smollm2"]),
        (2, ["ai/smollm2", "hf.co/Org/Tiny-GGUF"]),
        (4, ["ai/smollm2", "ai/qwen3-vllm", "hf.co/Org/Tiny-GGUF", "hf.co/Org/Gone-GGUF"]),
        (5, ["ai/smollm2", "ai/qwen3-vllm", "ai/gemma3", "hf.co/Org/Tiny-GGUF", "hf.co/Org/Gone-GGUF"]),
    ],
)
def test_sources_share_the_places(options: RegistryOptions, limit: int, expected: list[str]) -> None:
    assert names(options, limit=limit) == expected


def test_one_source_that_fails_does_not_hide_the_other(
    options: RegistryOptions, catalog: LoopbackCatalog, hub: LoopbackHub
) -> None:
    catalog.status = 503
    results = search_models("", 32, options, measuring_seconds=0)
    assert [found.source for found in results.found] == ["HuggingFace"] * 2
    assert list(results.errors) == ["dockerhub"]
    assert "503" in results.errors["dockerhub"].message
    hub.limits = [{}] * 9
    with pytest.raises(RegistryError, match=r"Nothing could be searched. dockerhub: .* huggingface: .*rate limit"):
        search_models("", 32, options)


def test_a_catalogue_that_makes_no_sense_is_told(options: RegistryOptions, catalog: LoopbackCatalog) -> None:
    catalog.repositories = [{"name": 1}]
    with pytest.raises(RegistryError, match="cannot be understood"):
        search_models("", 32, options, "dockerhub")
