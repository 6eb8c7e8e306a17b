"""What a request may make the server fetch: the guards, each against a real server on loopback."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificates

from dmr.service import remote_file
from dmr.service.remote_file import Download, Hosts, Refused, may_connect
from dmr.store.registry.trust import trusting_context

PICTURE = b"\x89PNG whatever"


class Site:
    """A web server. `pages`: path to status, headers and body; `asked`: requests, with their headers."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {"/red.png": (200, {}, PICTURE)}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.hold = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((self.path, dict(self.headers)))
                if self.path == "/slow":
                    site.hold.wait(30)
                status, headers, body = site.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in {"Content-Type": "image/png", "Content-Length": str(len(body)), **headers}.items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.hold.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    it = Site()
    yield it
    it.close()


@pytest.fixture
def named(site: Site) -> Download:
    """The owner of the server has named the site."""
    return Download(Hosts([f"127.0.0.1:{site.port}"]))


def as_public(site: Site, **names: str) -> Download:
    """All public servers may be asked; names lead where the test says, whose ports are changed to that of the site."""

    class Elsewhere(Download):
        def _opened(self, address: str, target: Any) -> socket.socket:
            return super()._opened(address, target._replace(port=site.port))

    return Elsewhere(
        Hosts(["public"]),
        resolve=lambda host, port: [names[host.partition(".")[0]]],
        may_connect=lambda address, is_named: address == "127.0.0.1",
    )


def test_a_file_of_a_host_that_is_named(site: Site, named: Download) -> None:
    site.pages["/red.png?size=1"] = (200, {}, PICTURE)
    assert named.fetch(f"{site.url}/red.png?size=1#part", "image") == PICTURE
    path, headers = site.asked[-1]
    assert path == "/red.png?size=1"
    assert set(headers) == {"Host", "Accept-Encoding", "User-Agent"}


def test_a_file_of_any_public_host(site: Site) -> None:
    assert as_public(site, pictures="127.0.0.1").fetch("http://pictures.example/red.png", "image") == PICTURE
    assert site.asked[0][1]["Host"] == "pictures.example"


def test_no_proxy_is_asked(site: Site, named: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert named.fetch(f"{site.url}/red.png", "image") == PICTURE


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("file:///etc/passwd", "neither http nor https"),
        ("gs://bucket/a.png", "neither http nor https"),
        ("ftp://a.example/a.png", "neither http nor https"),
        ("a.png", "neither http nor https"),
        ("http://", "names no host"),
        ("http:///a.png", "names no host"),
        ("http://a b.example/", "no URL"),
        ("http://a.example\\@b.example/", "no URL"),
        ("http://a.example/\r\nHost: b", "no URL"),
        ("http://a.example:port/", "no URL"),
        ("http://a.example:99999/", "no URL"),
        ("http://[::1/", "no URL"),
        ("http://\ud800.example/", "no URL"),
        ("http://a..example/", "no URL"),
        ("http://user:secret@a.example/", "user name"),
        ("http://user@a.example/", "user name"),
        ("http://@a.example/", "user name"),
        ("http://a.example:22/", "port"),
        ("http://a.example/" + "a" * 9000, "longer"),
        ("http://[fe80::1%25eth0]/", "names no host"),
    ],
)
def test_addresses_that_are_refused_unasked(url: str, told: str) -> None:
    with pytest.raises(Refused, match=told):
        Download(Hosts(["public"]), resolve=_unasked).fetch(url, "image")


def _unasked(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host} was resolved")


@pytest.mark.parametrize("said", [(), ("off",), ("off", "public"), ("b.example",), ("a.example:8080",)])
def test_hosts_that_nobody_allowed(said: tuple[str, ...]) -> None:
    assert Hosts(said).any is bool(set(said) - {"off", "public"})
    if Hosts(said).any:
        with pytest.raises(Refused, match="may not ask"):
            Download(Hosts(said), resolve=_unasked).fetch("http://a.example/a.png", "image")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not may_connect(address, False)
    with pytest.raises(Refused, match="without a public address"):
        Download(Hosts(["public"]), resolve=lambda *_: ["93.184.215.14", address]).fetch("http://a.example/", "image")


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "::ffff:93.184.215.14"])
def test_addresses_that_are(address: str) -> None:
    assert may_connect(address, False)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.0.0.1", True), ("127.0.0.1", True), ("169.254.169.254", False), ("fe80::1", False), ("0.0.0.0", False)],
)
def test_a_host_that_is_named_may_be_inside_but_never_the_metadata_of_the_machine(address: str, expected: bool) -> None:
    assert may_connect(address, True) is expected


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://0/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://localhost/",
        "http://LOCALHOST./",
    ],
)
def test_no_spelling_of_this_machine_leads_to_it(url: str) -> None:
    with pytest.raises(Refused, match=r"public address|cannot be found"):
        Download(Hosts(["public"])).fetch(url, "image")


def test_a_name_that_changes_its_meaning_is_resolved_once(site: Site) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    download = Download(Hosts([f"turning.example:{site.port}"]), resolve=lambda *_: next(answers))
    assert download.fetch(f"http://turning.example:{site.port}/red.png", "image") == PICTURE
    assert next(answers) == ["10.0.0.1"]


def test_what_was_connected_to_is_looked_at_again(site: Site) -> None:
    looks = iter([True, False])
    download = Download(Hosts([f"127.0.0.1:{site.port}"]), may_connect=lambda *_: next(looks))
    with pytest.raises(Refused, match="public address"):
        download.fetch(f"{site.url}/red.png", "image")
    assert site.asked == []


def test_redirections_are_followed(site: Site, named: Download) -> None:
    site.pages["/a"] = (302, {"Location": "/b"}, b"")
    site.pages["/b"] = (307, {"Location": f"{site.url}/red.png"}, b"")
    assert named.fetch(f"{site.url}/a", "image") == PICTURE


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("http://inside.example/red.png", "public address"),
        ("http://10.0.0.1/", "public address"),
        ("file:///etc/passwd", "neither http nor https"),
        ("http://pictures.example:22/", "port"),
        ("http://me:secret@pictures.example/", "user name"),
        ("", "nowhere"),
        ("/a", "one address to another"),
    ],
)
def test_each_redirection_is_looked_at(site: Site, location: str, told: str) -> None:
    site.pages["/a"] = (302, {"Location": location}, b"")
    names = {"pictures": "127.0.0.1", "inside": "10.0.0.1", "10": "10.0.0.1"}
    with pytest.raises(Refused, match=told):
        as_public(site, **names).fetch("http://pictures.example/a", "image")
    assert {path for path, _ in site.asked} == {"/a"}


def test_what_is_no_picture(site: Site, named: Download) -> None:
    cases: list[tuple[int, dict[str, str], str]] = [
        (404, {}, "status 404"),
        (500, {}, "status 500"),
        (206, {}, "status 206"),
        (200, {"Content-Type": "text/html"}, "type 'text/html'"),
        (200, {"Content-Type": "audio/wav"}, "not image"),
        (200, {"Content-Encoding": "gzip"}, "compressed"),
        (200, {"Content-Length": "100000"}, "100000 bytes"),
        (200, {"Content-Length": "200"}, "ended before"),
    ]
    for status, headers, told in cases:
        site.pages["/a"] = (status, headers, b"x" * 100)
        with pytest.raises(Refused, match=told):
            named.fetch(f"{site.url}/a", "image", 1000)


def test_a_type_that_says_nothing_is_taken(site: Site, named: Download) -> None:
    for kind in ("", "application/octet-stream", "IMAGE/PNG; charset=binary"):
        site.pages["/a"] = (200, {"Content-Type": kind}, PICTURE)
        assert named.fetch(f"{site.url}/a", "image") == PICTURE
    site.pages["/a"] = (200, {"Content-Type": "audio/wav"}, PICTURE)
    assert named.fetch(f"{site.url}/a", "audio") == PICTURE


def test_a_body_without_a_length_is_bounded_too(site: Site, named: Download) -> None:
    site.pages["/a"] = (200, {"Content-Length": ""}, b"x" * 2000)
    with pytest.raises(Refused, match="more than 1000 bytes"):
        named.fetch(f"{site.url}/a", "image", 1000)


def test_who_stops_it_need_not_wait(site: Site, named: Download) -> None:
    found: list[object] = []

    def fetch() -> None:
        try:
            found.append(named.fetch(f"{site.url}/slow", "image"))
        except Refused as error:
            found.append(error)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    _until(lambda: bool(site.asked))
    named.stop()
    thread.join(5)
    assert isinstance(found[0], Refused)
    with pytest.raises(Refused, match="not waited for"):
        named.fetch(f"{site.url}/red.png", "image")


def _until(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")


def test_silence_ends_it(site: Site, named: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_file, "SILENCE_TIMEOUT", 0.1)
    with pytest.raises(Refused, match="takes too long"):
        named.fetch(f"{site.url}/slow", "image")


def test_what_speaks_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def talk() -> None:
            connection, _ = server.accept()
            connection.sendall(b"220 mail.example ESMTP\r\n" * 3)
            connection.close()

        threading.Thread(target=talk, daemon=True).start()
        with pytest.raises(Refused, match="no HTTP"):
            Download(Hosts([f"127.0.0.1:{port}"])).fetch(f"http://127.0.0.1:{port}/", "image")
    with pytest.raises(Refused, match="nobody answers"):
        Download(Hosts([f"127.0.0.1:{port}"])).fetch(f"http://127.0.0.1:{port}/", "image")


def test_certificates_are_checked(tmp_path: Path) -> None:
    made = make_certificates(tmp_path, "files.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    site = Site(context)

    def fetch(host: str, authority: str) -> bytes:
        hosts = Hosts([f"{host}:{site.port}"])
        trusts = lambda: trusting_context(authority, {})  # noqa: E731
        download = Download(hosts, trusts, resolve=lambda *_: ["127.0.0.1"])
        return download.fetch(f"https://{host}:{site.port}/red.png", "image")

    try:
        assert fetch("files.example", str(made.authority)) == PICTURE
        with pytest.raises(Refused, match="certificate"):
            fetch("files.example", "")
        with pytest.raises(Refused, match="certificate"):
            fetch("other.example", str(made.authority))
        site.pages["/red.png"] = (302, {"Location": site.url}, b"")
        with pytest.raises(Refused, match="https to what is not"):
            fetch("files.example", str(made.authority))
    finally:
        site.close()
