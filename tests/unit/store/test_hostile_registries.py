"""What a registry says with something wrong in it: a pull brings a whole model, or an error of ours and no model."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback_registry import LoopbackRegistry
from mutations import mutated
from transfer_models import bring

from dmr.errors import DmrError, RegistryError
from dmr.store.manifest import MANIFEST_TYPE
from dmr.store.registry.challenge import parse_challenge
from dmr.store.registry.transport import join_address
from dmr.store.store import ModelStore

pytestmark = pytest.mark.usefixtures("impatient")


def tried(store: ModelStore, name: str) -> bool:
    """Whether it could be pulled; what then is in the store can be read, and is undamaged."""
    try:
        bring(store, name)
    except DmrError:
        assert store.names() == []
        return False
    assert store.verify(name) == []
    store.get(name)
    store.remove(name)
    return True


@pytest.mark.parametrize("seed", range(40))
def test_a_manifest_with_something_wrong(seed: int, name: str, registry: LoopbackRegistry, target: ModelStore) -> None:
    (key,) = (key for key in registry.manifests if key.endswith(":v1"))
    good = json.loads(registry.manifests[key][0])
    registry.manifests[key] = json.dumps(mutated(good, random.Random(seed))).encode(), MANIFEST_TYPE
    tried(target, name)
    assert [path for path in target.root.rglob("*") if ".." in path.name] == []


@pytest.mark.parametrize("seed", range(40))
def test_a_config_with_something_wrong(seed: int, name: str, registry: LoopbackRegistry, target: ModelStore) -> None:
    (key,) = (key for key in registry.manifests if key.endswith(":v1"))
    manifest = json.loads(registry.manifests[key][0])
    config = json.dumps(mutated(json.loads(registry.blobs[manifest["config"]["digest"]]), random.Random(seed))).encode()
    manifest["config"].update(digest=registry.add_blob(config), size=len(config))
    registry.manifests[key] = json.dumps(manifest).encode(), MANIFEST_TYPE
    tried(target, name)


def test_the_unchanged_model_can_be_pulled(name: str, target: ModelStore) -> None:
    """Otherwise all of the above would fail for the same reason."""
    assert tried(target, name)


@pytest.mark.parametrize("kind", ["", "text/html", "application/vnd.oci.image.index.v1+json", "x" * 5000])
def test_a_manifest_of_another_kind(kind: str, name: str, registry: LoopbackRegistry, target: ModelStore) -> None:
    for key, (raw, _) in registry.manifests.items():
        registry.manifests[key] = raw[: len(raw) // 2], kind
    assert not tried(target, name)


@given(st.text(max_size=200) | st.from_regex(r'[Bb]earer [a-z]+="[^"]*",? ?([a-z]+=[a-z"\\]*)?', fullmatch=True))
def test_any_challenge_is_read_or_left(header: str) -> None:
    found = parse_challenge(header)
    assert found is None or found.scheme in ("bearer", "basic")


def test_a_long_challenge_is_read_at_once() -> None:
    for part in ('a="\\', "a=" * 3, 'a="b" ' * 2, "a" * 7):
        parse_challenge("Bearer " + part * 100_000)


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "http://[", "ftp://host/x", "//", "http://169.254.169.254/"])
def test_a_realm_that_is_no_place_for_tokens(
    realm: str, name: str, registry: LoopbackRegistry, target: ModelStore
) -> None:
    registry.user, registry.realm = "nobody:nothing", realm
    assert not tried(target, name)


@pytest.mark.parametrize("address", ["http://[", "http://a:b/", "http://[::1", "//[/"])
def test_an_address_that_cannot_be_read(address: str) -> None:
    with pytest.raises(RegistryError, match="cannot be read"):
        join_address("https://registry.example/v2/", address)
