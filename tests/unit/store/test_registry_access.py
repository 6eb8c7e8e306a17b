"""Who we are to a registry, where it may send us, and what it must not make us do."""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import make_certificates
from loopback_registry import LoopbackRegistry, running
from transfer_models import bring

from dmr.errors import RegistryError, Unauthorized
from dmr.store.pull import RegistryOptions
from dmr.store.registry.client import Repository
from dmr.store.registry.credentials import HUB_KEY, Credentials, find_credentials
from dmr.store.registry.transport import Transport, _check_redirect
from dmr.store.store import ModelStore

pytestmark = pytest.mark.usefixtures("impatient")
ME = Credentials("me", "secret")
AUTH = b64encode(b"me:secret").decode()


def config(folder: Path, **content: object) -> dict[str, str]:
    """A user's folder of Docker settings, as an environment."""
    (folder / "config.json").write_text(json.dumps(content))
    return {"DOCKER_CONFIG": str(folder), "PATH": f"{folder}:/bin:/usr/bin"}


def heaviest(registry: LoopbackRegistry) -> str:
    return max(registry.blobs, key=lambda digest: len(registry.blobs[digest]))


# --- credentials -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("registry", "key"),
    [
        ("docker.io", HUB_KEY),
        ("docker.io", "docker.io"),
        ("docker.io", "registry-1.docker.io"),
        ("registry.test:5000", "registry.test:5000"),
        ("registry.test", "https://registry.test"),
        ("registry.test", "https://Registry.test/v1/"),
    ],
)
def test_a_login_is_found_by_any_spelling_of_its_host(registry: str, key: str, tmp_path: Path) -> None:
    assert find_credentials(registry, config(tmp_path, auths={key: {"auth": AUTH}})) == ME
    assert find_credentials(f"other.{registry}", config(tmp_path, auths={key: {"auth": AUTH}})) is None


@pytest.mark.parametrize(
    "entry",
    [{"auth": AUTH}, {"username": "me", "password": "secret"}, {"auth": b64encode(b"me:secret\0\0").decode()}],
)
def test_shapes_of_a_login(entry: dict[str, str], tmp_path: Path) -> None:
    assert find_credentials("registry.test", config(tmp_path, auths={"registry.test": entry})) == ME


@pytest.mark.parametrize("content", ["", "[]", "{", '{"auths": []}', '{"auths": {"registry.test": {"auth": "*"}}}'])
def test_a_damaged_file_of_logins_is_no_login(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    assert find_credentials("registry.test", {"DOCKER_CONFIG": str(tmp_path)}) is None


@pytest.mark.parametrize("prefix", [("DOCKER_USERNAME", "DOCKER_PASSWORD"), ("DOCKER_HUB_USER", "DOCKER_HUB_PASSWORD")])
def test_variables_are_for_the_hub_and_go_first(prefix: tuple[str, str], tmp_path: Path) -> None:
    environ = {**config(tmp_path, auths={HUB_KEY: {"auth": b64encode(b"a:b").decode()}})}
    environ |= dict(zip(prefix, ME, strict=True))
    assert find_credentials("docker.io", environ) == ME
    assert find_credentials("registry.test", environ) is None


def test_a_helper_of_one_registry_goes_before_the_one_for_all(tmp_path: Path) -> None:
    for name, user in (("one", "me"), ("all", "somebody")):
        helper = tmp_path / f"docker-credential-{name}"
        helper.write_text(f'#!/bin/sh\nread key\necho "{{\\"Username\\":\\"{user}\\",\\"Secret\\":\\"secret\\"}}"\n')
        helper.chmod(0o755)
    environ = config(tmp_path, credsStore="all", credHelpers={"registry.test": "one"})
    assert find_credentials("registry.test", environ) == ME
    assert find_credentials("other.test", environ) == Credentials("somebody", "secret")


@pytest.mark.parametrize("helper", ["missing", "../evil", "fails", "babbles"])
def test_a_helper_that_is_no_help_leaves_the_file(helper: str, tmp_path: Path) -> None:
    for name, script in (("fails", "exit 1"), ("babbles", "echo nonsense")):
        path = tmp_path / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\nread key\n{script}\n")
        path.chmod(0o755)
    environ = config(tmp_path, credsStore=helper, auths={"registry.test": {"auth": AUTH}})
    assert find_credentials("registry.test", environ) == ME


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_a_token_that_expires_is_fetched_anew(
    name: str, target: ModelStore, registry: LoopbackRegistry, tmp_path: Path
) -> None:
    registry.user, registry.token_uses = "me:secret", 3
    registry.cut_after = [1 << 18] * 8
    bring(target, name, RegistryOptions(environ=config(tmp_path, auths={registry.host: {"auth": AUTH}})))
    assert target.verify(name) == []
    assert len(registry.tokens) > 2


def test_an_identity_token_is_changed_for_one_of_the_registry(
    name: str, target: ModelStore, registry: LoopbackRegistry, tmp_path: Path
) -> None:
    registry.user, registry.refresh_token = "me:secret", "refresh"
    entry = {"identitytoken": "refresh"}
    bring(target, name, RegistryOptions(environ=config(tmp_path, auths={registry.host: entry})))
    entry["identitytoken"] = "stale"
    with pytest.raises(Unauthorized):
        bring(target, name, RegistryOptions(environ=config(tmp_path, auths={registry.host: entry})))


@pytest.mark.parametrize("realm", ["", "ftp://x/token", "nonsense"])
def test_a_token_service_that_makes_no_sense_is_told(
    name: str, target: ModelStore, registry: LoopbackRegistry, realm: str
) -> None:
    registry.user, registry.realm = "me:secret", realm or "/token"
    with pytest.raises(RegistryError, match="no usable token service"):
        bring(target, name)


# --- where it leads --------------------------------------------------------------------------------------------------


@pytest.fixture
def secure(registry: LoopbackRegistry, name: str, tmp_path: Path) -> Iterator[tuple[LoopbackRegistry, RegistryOptions]]:
    """The same registry over TLS, and the options that trust it."""
    made = make_certificates(tmp_path / "certificates")
    with running(LoopbackRegistry()) as server:
        server.use_tls(made.certificate, made.key)
        server.blobs, server.manifests = registry.blobs, registry.manifests
        environ = config(tmp_path, auths={server.host: {"auth": AUTH}})
        yield server, RegistryOptions(environ=environ, certificates=str(made.authority))


def test_secrets_do_not_go_over_plain_http(
    secure: tuple[LoopbackRegistry, RegistryOptions], target: ModelStore, registry: LoopbackRegistry
) -> None:
    server, options = secure
    server.user, server.realm = "me:secret", f"http://{registry.host}/token"
    with pytest.raises(RegistryError, match="over plain http"):
        bring(target, f"{server.host}/test/model:v1", options)
    assert registry.count("GET", "/token") == 0


def test_a_redirect_does_not_lead_out_of_tls(
    secure: tuple[LoopbackRegistry, RegistryOptions], target: ModelStore, registry: LoopbackRegistry
) -> None:
    server, options = secure
    server.redirect_to = f"http://{registry.host}"
    with pytest.raises(RegistryError, match="redirects from https to plain http"):
        bring(target, f"{server.host}/test/model:v1", options)
    assert registry.requests == []


METADATA = ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]"]  # what clouds tell machines about themselves


@pytest.mark.parametrize("host", METADATA)
def test_no_registry_is_asked_at_a_link_local_address(host: str, target: ModelStore) -> None:
    with pytest.raises(RegistryError, match="link-local"):
        Repository(Transport(), host, "test/model").manifest("v1")


@pytest.mark.parametrize("host", METADATA)
def test_redirects_token_services_and_uploads_lead_to_none_either(
    host: str, name: str, target: ModelStore, registry: LoopbackRegistry
) -> None:
    registry.redirect_to = f"http://{host}"
    with pytest.raises(RegistryError, match="link-local"):
        bring(target, name)
    registry.redirect_to, registry.user, registry.realm = "", "me:secret", f"http://{host}/token"
    with pytest.raises(RegistryError, match="link-local"):
        bring(target, name)
    repository = Repository(Transport(), registry.host, "test/model", insecure=True)
    with pytest.raises(RegistryError, match="link-local"):
        repository._upload_address(f"http://{host}/take")


def test_what_is_public_does_not_lead_to_a_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"registry.example": "93.184.216.34", "inside.example": "10.0.0.7", "other.example": "93.184.216.35"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_: [(0, 0, 0, "", (known[host], 0))])
    repository = Repository(Transport(), "https://registry.example", "test/model")
    with pytest.raises(RegistryError, match=r"private address inside\.example"):
        repository._upload_address("https://inside.example/take")
    with pytest.raises(RegistryError, match=r"private address inside\.example"):
        repository._check_realm("https://inside.example/token")
    with pytest.raises(RegistryError, match=r"private address inside\.example"):
        _check_redirect(
            "https://registry.example/v2/", "https://registry.example/v2/", "https://inside.example/blob", False
        )
    assert repository._upload_address("https://other.example/take") == "https://other.example/take"
    repository._check_realm("https://other.example/token")


def test_a_resumed_download_keeps_its_range_through_redirects(
    name: str, target: ModelStore, registry: LoopbackRegistry
) -> None:
    with running(LoopbackRegistry()) as elsewhere:
        elsewhere.blobs = registry.blobs
        elsewhere.cut_after = [1 << 20, 1 << 20]
        registry.redirect_to = f"http://{elsewhere.host}"
        bring(target, name)
        assert elsewhere.bytes_sent[heaviest(registry)] == len(registry.blobs[heaviest(registry)])


def test_redirects_in_a_circle_are_given_up(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    registry.redirect_to = f"http://{registry.host}"
    with pytest.raises(RegistryError, match="more than 10 times"):
        bring(target, name)
