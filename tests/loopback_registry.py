"""A registry and a hub on loopback that do what they are told to, mischief included."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

_BLOB = re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>sha256:[0-9a-f]{64})")
_MANIFEST = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)")
SLOW_PIECE = 1 << 16  # bytes
_UPLOAD = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<id>\w*)")


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave, and those that do not speak TLS, are no news."""


class LoopbackServer:
    """What both have in common: an HTTP server in threads, and a record of what was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append((self.command, self.path, headers))
                try:
                    outer.answer(self, headers)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815  # the base class looks for these

            def log_message(self, *_: Any) -> None:
                pass

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler, headers: dict[str, str]) -> None:
        raise NotImplementedError

    def use_tls(self, certificate: Path, key: Path) -> None:
        """To be called before the first request."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        # The handshake is left to the thread that serves the connection.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, method: str, part: str) -> int:
        return sum(asked == method and part in path for asked, path, _ in self.requests)


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    if "Content_Length" not in headers:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


class LoopbackRegistry(LoopbackServer):
    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}  # by "name:reference"
        self.user = ""  # "name:password" that is asked for
        self.scheme = "bearer"
        self.realm = ""  # other than our own
        self.tokens: set[str] = set()
        self.token_uses = 0  # requests after which a token is of no use any more; 0 = never
        self.refresh_token = ""  # that is taken in place of a password
        self._uses: Counter[str] = Counter()
        self.cut_after: list[int] = []  # bytes after which the next blob answers break off
        self.stall_after = 0  # bytes after which blob answers fall silent, until `go_on`
        self.go_on = threading.Event()
        self.failures: list[int] = []  # statuses of the next answers to blob requests
        self.retry_after = "0"  # told with them
        self.upload_failures: list[int] = []  # statuses of the next uploads; 0 = the connection breaks
        self.ignores_ranges = False
        self.lies_about_ranges = False
        self.denies_ranges = False  # 416 for all but the start
        self.wrong_bytes = False
        self.redirect_to = ""  # base address that blobs are redirected to
        self.bytes_sent: Counter[str] = Counter()
        self.seconds_per_mib = 0.0  # how slowly blobs are sent
        self.hold = threading.Event()  # blob answers wait for it
        self.hold.set()
        super().__init__()

    def add_blob(self, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def answer(self, handler: BaseHTTPRequestHandler, headers: dict[str, str]) -> None:
        path = urlsplit(handler.path).path
        if path == "/token":
            self._token(handler, headers)
        elif not self._is_allowed(handler, headers):
            return
        elif match := _UPLOAD.fullmatch(path):
            self._upload(handler, match, headers)
        elif match := _BLOB.fullmatch(path):
            self._blob(handler, match["digest"], headers)
        elif match := _MANIFEST.fullmatch(path):
            self._manifest(handler, match, headers)
        else:
            send(handler, 404)

    def _is_allowed(self, handler: BaseHTTPRequestHandler, headers: dict[str, str]) -> bool:
        if not self.user:
            return True
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind == "Basic" and self.scheme == "basic" and base64.b64decode(value).decode() == self.user:
            return True
        if kind == "Bearer" and value in self.tokens:
            self._uses[value] += 1
            if not self.token_uses or self._uses[value] <= self.token_uses:
                return True
        realm = self.realm or f"http://{self.host}/token"
        challenge = (
            f'Bearer realm="{realm}",service="loopback",scope="x"' if self.scheme == "bearer" else 'Basic realm="x"'
        )
        send(handler, 401, b"{}", WWW_Authenticate=challenge)
        return False

    def _token(self, handler: BaseHTTPRequestHandler, headers: dict[str, str]) -> None:
        kind, _, value = headers.get("authorization", "").partition(" ")
        form = parse_qs(handler.rfile.read(int(headers.get("content-length", 0))).decode())
        is_known = kind == "Basic" and base64.b64decode(value).decode() == self.user
        if not is_known and form.get("refresh_token", [""]) != [self.refresh_token or None]:
            send(handler, 401, b"{}")
            return
        token = f"token-{len(self.tokens)}"
        self.tokens.add(token)
        send(handler, 200, json.dumps({"token": token}).encode())

    def _manifest(self, handler: BaseHTTPRequestHandler, match: re.Match[str], headers: dict[str, str]) -> None:
        key = f"{match['name']}:{match['reference']}"
        if handler.command == "PUT":
            raw = handler.rfile.read(int(headers["content-length"]))
            digest = "sha256:" + hashlib.sha256(raw).hexdigest()
            for name in (key, f"{match['name']}:{digest}"):
                self.manifests[name] = (raw, headers["content-type"])
            send(handler, 201)
        elif key in self.manifests:
            raw, kind = self.manifests[key]
            send(handler, 200, raw, Content_Type=kind)
        else:
            send(handler, 404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}')

    def _upload(self, handler: BaseHTTPRequestHandler, match: re.Match[str], headers: dict[str, str]) -> None:
        if handler.command == "POST":
            send(handler, 202, Location=f"/v2/{match['name']}/blobs/uploads/1?state=a")
            return
        failure = self.upload_failures.pop(0) if self.upload_failures else None
        if failure == 0:
            handler.close_connection = True
            return
        data = handler.rfile.read(int(headers["content-length"]))
        if failure is not None:
            send(handler, failure)
            return
        wanted = parse_qs(urlsplit(handler.path).query)["digest"][0]
        send(handler, 201 if self.add_blob(data) == wanted else 400)

    def _blob(self, handler: BaseHTTPRequestHandler, digest: str, headers: dict[str, str]) -> None:
        data = self.blobs.get(digest)
        if data is None:
            send(handler, 404)
        elif handler.command == "HEAD":
            send(handler, 200, Content_Length=str(len(data)))
        elif self.failures:
            send(handler, self.failures.pop(0), Retry_After=self.retry_after)
        elif self.redirect_to:
            send(handler, 307, Location=f"{self.redirect_to}{handler.path}")
        elif self.denies_ranges and "range" in headers:
            send(handler, 416)
        else:
            self.hold.wait(20)
            self._send_blob(handler, digest, data, headers.get("range", ""))

    def _send_blob(self, handler: BaseHTTPRequestHandler, digest: str, data: bytes, wanted: str) -> None:
        begin = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and not self.ignores_ranges else 0
        if self.wrong_bytes:
            data = bytes(len(data))
        part = data[begin:]
        told = 0 if self.lies_about_ranges else begin
        handler.send_response(206 if begin else 200)
        handler.send_header("Content-Length", str(len(part)))
        if begin:
            handler.send_header("Content-Range", f"bytes {told}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        if self.cut_after:
            part = part[: self.cut_after.pop(0)]
            handler.close_connection = True
        if 0 < self.stall_after < len(part):
            handler.wfile.write(part[: self.stall_after])
            self.go_on.wait(30)
            part = part[self.stall_after :]
        if not self.seconds_per_mib:
            self.bytes_sent[digest] += len(part)
            handler.wfile.write(part)
            return
        # Little is under way at any time, so that what was sent is what has come.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SLOW_PIECE)
        for offset in range(0, len(part), SLOW_PIECE):
            piece = part[offset : offset + SLOW_PIECE]
            handler.wfile.write(piece)
            self.bytes_sent[digest] += len(piece)
            time.sleep(self.seconds_per_mib * len(piece) / (1 << 20))


@contextmanager
def running(server: LoopbackServer) -> Iterator[Any]:
    try:
        yield server
    finally:
        server.close()
