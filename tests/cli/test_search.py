"""`dmr search` as a user sees it, with a catalogue and a hub on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from cli.conftest import Run
from loopback_catalog import LoopbackCatalog
from loopback_hub import LoopbackHub
from loopback_registry import running

from dmr.cli.search import short_count


@pytest.fixture
def catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackCatalog]:
    with running(LoopbackCatalog()) as server:
        server.add("smollm2", "Tiny\x1b[31m", pull_count=1_200_000, star_count=30)
        monkeypatch.setenv("DMR_HUB_ENDPOINT", f"http://{server.host}")
        monkeypatch.setenv("MODEL_RUNNER_REGISTRY_MIRRORS", server.host)  # so that sizes are asked for there
        yield server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with running(LoopbackHub()) as server:
        server.found = [{"id": "Org/Tiny-GGUF", "downloads": 45_000, "likes": 7, "tags": ["gguf"]}]
        server.files = {"t-Q8_0.gguf": b"x" * 1_500_000}
        monkeypatch.setenv("HF_ENDPOINT", f"http://{server.host}")
        yield server


@pytest.mark.usefixtures("catalog", "hub")
def test_both_hubs_are_shown_in_a_table(lonely_dmr: Run) -> None:
    result = lonely_dmr("search", "--source", "huggingface")
    assert result.stdout == (
        "NAME                 DESCRIPTION  BACKEND    SIZE    DOWNLOADS  STARS  SOURCE\n"
        "hf.co/Org/Tiny-GGUF  AI model     llama.cpp  1.50MB  45.0K      7      HuggingFace\n"
    )


@pytest.mark.usefixtures("catalog", "hub")
def test_nothing_found_is_told(lonely_dmr: Run) -> None:
    result = lonely_dmr("search", "--source", "dockerhub", "xyz")
    assert (result.exit_code, result.stdout) == (0, 'No models found matching "xyz"\n')


@pytest.mark.usefixtures("catalog", "hub")
def test_json_has_upstreams_names(lonely_dmr: Run) -> None:
    (found,) = json.loads(lonely_dmr("search", "--json", "--source", "huggingface").stdout)
    assert found["Name"] == "hf.co/Org/Tiny-GGUF"
    assert set(found) == {
        "Name", "Description", "Downloads", "Stars", "Source", "Official", "UpdatedAt", "Backend", "Size"
    }  # fmt: skip


def test_a_hub_that_fails_is_a_warning(lonely_dmr: Run, catalog: LoopbackCatalog, hub: LoopbackHub) -> None:
    catalog.status = 404
    result = lonely_dmr("search")
    assert result.exit_code == 0
    assert result.stderr == "Warning: dockerhub could not be searched: Docker Hub answered with status 404.\n"
    assert "hf.co/Org/Tiny-GGUF" in result.stdout
    assert "ai/smollm2" not in result.stdout
    result = lonely_dmr("search", "--source", "dockerhub")
    assert (result.exit_code, result.stdout) == (1, "")


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (999, "999"), (45_000, "45.0K"), (1_200_000, "1.2M")])
def test_counts_are_short(number: int, text: str) -> None:
    assert short_count(number) == text


@pytest.mark.parametrize("arguments", [["-n", "0"], ["--source", "else"]])
def test_wrong_usage(lonely_dmr: Run, arguments: list[str]) -> None:
    assert lonely_dmr("search", *arguments).exit_code == 2
