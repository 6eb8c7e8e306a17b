"""Row 17: a registry that somebody names is no way into a private network, and its name means what it first meant."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificates
from loopback_hub import LoopbackHub
from loopback_registry import LoopbackRegistry, running
from transfer_models import bring

from dmr.errors import RegistryError, RegistryNotAllowed
from dmr.store.pull import RegistryOptions
from dmr.store.reference import parse_reference
from dmr.store.registry.reach import PrivateHosts, Reach
from dmr.store.registry.transport import BRIEF, Transport
from dmr.store.store import ModelStore
from dmr.store.transfers import inspect, push

pytestmark = pytest.mark.usefixtures("impatient")
NONE = RegistryOptions(private=())
PUBLIC = "93.184.216.34"
SetNames = Callable[..., None]


@pytest.fixture
def means(monkeypatch: pytest.MonkeyPatch) -> SetNames:
    """`means(name, (addresses now), (addresses then), ...)`: what it resolves to, the last of them for good.

    Without any: nobody knows it.
    """
    known: dict[str, deque[tuple[str, ...]]] = {}
    really = socket.getaddrinfo

    def getaddrinfo(host: str, port: Any, *more: Any, **options: Any) -> list[Any]:
        if host not in known:
            return really(host, port, *more, **options)
        if not known[host]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        now = known[host][0] if len(known[host]) == 1 else known[host].popleft()
        return [entry for address in now for entry in really(address, port, *more, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return lambda name, *answers: known.update({name: deque(answers)})


@pytest.mark.parametrize(
    ("hosts", "url", "expected"),
    [
        (None, "http://10.0.0.7:5000/v2/", True),
        ((), "http://10.0.0.7:5000/v2/", False),
        (("10.0.0.7:5000",), "http://10.0.0.7:5000/v2/", True),
        (("10.0.0.7:5000",), "http://10.0.0.7:5001/v2/", False),
        (("10.0.0.7",), "http://10.0.0.7:5000/v2/", False),
        (("10.0.0.7",), "http://10.0.0.7/v2/", True),
        (("10.0.0.7",), "https://10.0.0.7:443/v2/", True),
        (("10.0.0.7:443",), "https://10.0.0.7/v2/", True),
        (("Registry.LAN",), "https://registry.lan./v2/", True),
        (("registry.lan",), "https://evil.registry.lan/v2/", False),
        (("https://registry.lan/",), "https://registry.lan/v2/", True),
        (("http://registry.lan:5000",), "http://registry.lan:5000/v2/", True),
        (("[fd00:0::7]:5000",), "http://[fd00::7]:5000/v2/", True),
        (("registry.lan:99999", ""), "http://registry.lan:99999/", False),
        (("127.0.0.1",), "http://2130706433/v2/", False),
    ],
)
def test_which_places_a_list_means(hosts: tuple[str, ...] | None, url: str, expected: bool) -> None:
    assert PrivateHosts(hosts).allow(url) is expected


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.1.2.3", "192.168.1.1", "[::1]", "[fd00::1]", "[::ffff:10.0.0.1]", "0.0.0.0", "2130706433"]
)
def test_private_addresses_are_refused_in_every_spelling(host: str) -> None:
    with pytest.raises(RegistryNotAllowed, match="DMR_PRIVATE_REGISTRIES") as caught:
        Reach(PrivateHosts(())).is_private(f"http://{host}:5000/v2/")
    assert f"{host}:5000" in caught.value.message
    assert Reach(PrivateHosts()).is_private(f"http://{host}:5000/v2/")


def test_public_ones_are_not(means: SetNames) -> None:
    means("registry.example", (PUBLIC,))
    assert not Reach(PrivateHosts(())).is_private("https://registry.example/v2/")
    assert not Reach(PrivateHosts(())).is_private(f"https://{PUBLIC}/v2/")


def test_who_may_not_name_it_reaches_nothing(name: str, source: ModelStore, registry: LoopbackRegistry) -> None:
    with pytest.raises(RegistryNotAllowed):
        bring(ModelStore(source.root.parent / "other"), name, NONE)
    with pytest.raises(RegistryNotAllowed):
        bring(source, name, RegistryOptions(private=(), insecure=True))
    with pytest.raises(RegistryNotAllowed):
        push(source, "test/model", name, NONE, lambda _: None)
    with pytest.raises(RegistryNotAllowed):
        inspect(name, "docker.io", NONE)
    assert registry.requests == []


def test_a_name_for_a_private_address_is_one(name: str, target: ModelStore, means: SetNames) -> None:
    means("registry.test", (PUBLIC, "127.0.0.1"))
    with pytest.raises(RegistryNotAllowed, match=r"registry\.test"):
        bring(target, "registry.test/test/model:v1", NONE)


def test_what_is_named_in_the_settings_is_asked(name: str, target: ModelStore, registry: LoopbackRegistry) -> None:
    bring(target, name, RegistryOptions(private=("registry.lan", registry.host)))
    assert target.verify(name) == []


def test_what_the_configuration_names_itself_is_asked(
    name: str, registry: LoopbackRegistry, tmp_path: Path, means: SetNames
) -> None:
    bring(ModelStore(tmp_path / "default", registry.host), "test/model:v1", NONE)
    bring(ModelStore(tmp_path / "mirror"), "test/model:v1", RegistryOptions(mirrors=(registry.host,), private=()))
    inspect("test/model:v1", registry.host, NONE)


def test_so_is_the_hub(tmp_path: Path) -> None:
    with running(LoopbackHub()) as hub:
        store, environ = ModelStore(tmp_path / "store"), {"HF_ENDPOINT": f"http://{hub.host}"}
        with pytest.raises(Exception, match="does not exist"):  # it was asked
            bring(store, "hf.co/nobody/nothing", RegistryOptions(environ=environ, private=()))
        assert hub.requests


def test_an_allowed_registry_is_connected_to_by_its_name(
    registry: LoopbackRegistry, name: str, target: ModelStore, means: SetNames, tmp_path: Path
) -> None:
    """The address is the one that was looked at; the certificate and the header are those of the name."""
    made = make_certificates(tmp_path / "certificates", "registry.test")
    with running(LoopbackRegistry()) as secure:
        secure.use_tls(made.certificate, made.key)
        secure.blobs, secure.manifests = registry.blobs, registry.manifests
        place = f"registry.test:{secure.host.rpartition(':')[2]}"
        # Nobody listens at the first: the next one is tried.
        means("registry.test", ("127.0.0.2", "127.0.0.1"))
        bring(target, f"{place}/test/model:v1", RegistryOptions(private=(place,), certificates=str(made.authority)))
        assert {headers["host"] for _, _, headers in secure.requests} == {place}
    assert target.verify(f"{place}/test/model:v1") == []


@pytest.fixture
def rebound(registry: LoopbackRegistry, name: str, means: SetNames) -> Iterator[str]:
    """A public registry whose name means this machine from the second look on."""
    means("registry.test", (PUBLIC,), ("127.0.0.1",))
    yield f"http://registry.test:{registry.host.rpartition(':')[2]}/v2/"
    assert registry.requests == []


@pytest.mark.parametrize("private", [None, ()])
def test_a_name_that_changes_is_caught(rebound: str, private: tuple[str, ...] | None) -> None:
    transport = Transport(environ={}, private=PrivateHosts(private))
    with (
        pytest.raises(RegistryError, match="turned from a public address to a private one"),
        transport.open("GET", rebound, {}, patience=BRIEF),
    ):
        pass


def test_a_private_registry_does_not_turn_into_what_tells_secrets(means: SetNames) -> None:
    means("registry.test", ("127.0.0.1",), ("169.254.169.254",))
    with (
        pytest.raises(RegistryError, match="link-local"),
        Transport(environ={}).open("GET", "http://registry.test/v2/", {}, patience=BRIEF),
    ):
        pass


def test_a_name_that_nobody_knows_is_told_as_ever(means: SetNames) -> None:
    means("registry.test")
    with (
        pytest.raises(RegistryError, match=r"registry\.test cannot be reached: .*not known"),
        Transport(environ={}, private=PrivateHosts(())).open("GET", "https://registry.test/v2/", {}, patience=BRIEF),
    ):
        pass


def test_where_an_allowed_registry_leads_is_asked_too(
    name: str, target: ModelStore, registry: LoopbackRegistry
) -> None:
    """Token services and stores of files that belong to it need not be named."""
    with running(LoopbackRegistry()) as elsewhere:
        elsewhere.blobs = registry.blobs
        registry.redirect_to = f"http://{elsewhere.host}"
        bring(target, name, RegistryOptions(private=(registry.host,)))
        assert elsewhere.requests
    assert parse_reference(name).registry == registry.host
