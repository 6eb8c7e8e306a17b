"""The way to a registry: plain or over TLS, with certificates that are checked or not, direct or through a proxy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from certificates import Certificates, make_certificates
from loopback_proxy import leading_to
from loopback_registry import LoopbackRegistry, running
from transfer_models import bring

from dmr.errors import RegistryError
from dmr.store.pull import RegistryOptions
from dmr.store.registry.proxies import Proxy, proxy_for
from dmr.store.store import ModelStore

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"), "registry.test")


@pytest.fixture
def secure(certificates: Certificates, registry: LoopbackRegistry, name: str) -> Iterator[LoopbackRegistry]:
    """The same registry over TLS."""
    with running(LoopbackRegistry()) as server:
        server.use_tls(certificates.certificate, certificates.key)
        server.blobs, server.manifests = registry.blobs, registry.manifests
        yield server


def address(registry: LoopbackRegistry) -> str:
    return f"{registry.host}/test/model:v1"


def test_an_authority_of_ones_own_is_trusted_when_it_is_named(
    secure: LoopbackRegistry, certificates: Certificates, target: ModelStore
) -> None:
    with pytest.raises(RegistryError, match=r"local issuer.*DMR_CA_FILE"):
        bring(target, address(secure))
    bring(target, address(secure), RegistryOptions(certificates=str(certificates.authority)))
    assert target.verify(address(secure)) == []


def test_ssl_cert_file_names_authorities_too(
    secure: LoopbackRegistry, certificates: Certificates, target: ModelStore
) -> None:
    bring(target, address(secure), RegistryOptions(environ={"SSL_CERT_FILE": str(certificates.authority)}))
    assert target.get(address(secure))


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_a_file_without_certificates_is_told(secure: LoopbackRegistry, target: ModelStore, text: str) -> None:
    path = target.root.with_suffix(".pem")
    if text:
        path.write_text(text)
    with pytest.raises(RegistryError, match=rf"DMR_CA_FILE={path} cannot be used: (No such file|it holds no)"):
        bring(target, address(secure), RegistryOptions(certificates=str(path)))


def test_insecure_means_that_no_certificate_is_checked(secure: LoopbackRegistry, target: ModelStore) -> None:
    bring(target, address(secure), RegistryOptions(insecure=True))
    assert target.get(address(secure))


def test_insecure_does_not_reach_where_the_registry_leads_to(
    secure: LoopbackRegistry, certificates: Certificates, target: ModelStore
) -> None:
    with running(LoopbackRegistry()) as elsewhere:
        elsewhere.use_tls(certificates.certificate, certificates.key)
        secure.redirect_to = f"https://{elsewhere.host}"
        with pytest.raises(RegistryError, match=r"certificate|issuer"):
            bring(target, address(secure), RegistryOptions(insecure=True))


def test_a_certificate_for_another_host_is_no_good(
    secure: LoopbackRegistry, certificates: Certificates, target: ModelStore
) -> None:
    options = RegistryOptions(certificates=str(certificates.authority))
    with pytest.raises(RegistryError, match="not valid for 'localhost'"):
        bring(target, address(secure).replace("127.0.0.1", "localhost"), options)


def test_plain_http_goes_through_a_proxy(registry: LoopbackRegistry, name: str, target: ModelStore) -> None:
    with leading_to(registry.host) as proxy:
        environ = {"HTTP_PROXY": f"http://me:pass%20word@{proxy.host}"}
        bring(target, "registry.test/test/model:v1", RegistryOptions(insecure=True, environ=environ))
    assert target.get("registry.test/test/model:v1")
    assert "GET http://registry.test/v2/test/model/manifests/v1 HTTP/1.1" in proxy.lines
    assert all("authorization: Basic bWU6cGFzcyB3b3Jk" in headers.replace("A", "a") for headers in proxy.headers)


def test_tls_goes_through_a_proxy_unread(
    secure: LoopbackRegistry, certificates: Certificates, target: ModelStore
) -> None:
    with leading_to(secure.host) as proxy:
        options = RegistryOptions(
            environ={"https_proxy": proxy.host, "NO_PROXY": "other.test"}, certificates=str(certificates.authority)
        )
        bring(target, "registry.test/test/model:v1", options)
    assert target.get("registry.test/test/model:v1")
    assert {line.rpartition(" ")[0] for line in proxy.lines} == {"CONNECT registry.test:443"}


def test_a_proxy_that_is_not_there_is_told(target: ModelStore) -> None:
    options = RegistryOptions(environ={"HTTPS_PROXY": "http://127.0.0.1:9"})
    with pytest.raises(RegistryError, match=r"registry\.test cannot be reached: the proxy failed: .*refused\."):
        bring(target, "registry.test/test/model:v1", options)
    options = RegistryOptions(environ={"ALL_PROXY": "socks5://me:secret@127.0.0.1:9"})
    with pytest.raises(RegistryError, match=r"The proxy 'socks5://127\.0\.0\.1:9' cannot be used"):
        bring(target, "registry.test/test/model:v1", options)


@pytest.mark.parametrize(
    ("url", "exempt", "is_direct"),
    [
        ("https://registry.test/v2/", "", False),
        ("https://registry.test/v2/", "*", True),
        ("https://registry.test/v2/", "other.test, registry.test", True),
        ("https://registry.test/v2/", "test", True),
        ("https://registry.test/v2/", ".test", True),
        ("https://registry.test/v2/", "*.test", True),
        ("https://registry.test/v2/", ".registry.test", False),
        ("https://myregistry.test/v2/", "registry.test", False),
        ("https://registry.test/v2/", "REGISTRY.test:443", True),
        ("https://registry.test:5000/v2/", "registry.test:443", False),
        ("http://registry.test/v2/", "registry.test:80", True),
        ("https://10.1.2.3/v2/", "10.0.0.0/8", True),
        ("https://11.1.2.3/v2/", "10.0.0.0/8", False),
        ("https://10.1.2.3:5000/v2/", "10.1.2.3", True),
        ("https://[fd00::1]/v2/", "fd00::/8", True),
        ("https://registry.test/v2/", "10.0.0.0/99 [x :y", False),
        ("https://localhost:5000/v2/", "", True),
        ("https://127.0.0.9:5000/v2/", "", True),
        ("https://[::1]:5000/v2/", "", True),
    ],
)
def test_what_needs_no_proxy(url: str, exempt: str, is_direct: bool) -> None:
    environ = {"HTTPS_PROXY": "proxy.test:3128", "HTTP_PROXY": "proxy.test:3128", "NO_PROXY": exempt}
    assert proxy_for(url, environ) == (None if is_direct else Proxy("http://proxy.test:3128"))
