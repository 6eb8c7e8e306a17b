"""An engine beyond this machine, on a loopback port: it answers what it is told to, and remembers what it was asked."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Asked(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class LoopbackEngine:
    """`answer` gives the pieces of a body; each is one chunk, sent before the next is asked for."""

    def __init__(self, secured_by: ssl.SSLContext | None = None) -> None:
        self._scheme = "https" if secured_by is not None else "http"
        self.models = ["far/llama"]
        self.asked: list[Asked] = []
        self.status = 200
        self.headers: dict[str, str] = {"Content-Type": "application/json"}
        self.answer: Callable[[], Iterable[bytes]] = lambda: [b'{"choices":[]}']
        self.breaks_off = False  # after its last piece, instead of ending the answer
        self.client_left = threading.Event()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                engine._serve(self)

            do_POST = do_HEAD = do_GET  # noqa: N815 - http.server's names

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if secured_by is not None:
            self._server.socket = secured_by.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that leave are expected
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.asked.append(Asked(handler.command, handler.path, dict(handler.headers), body))
        if handler.path == "/v1/models":
            page = json.dumps({"object": "list", "data": [{"id": name} for name in self.models]}).encode()
            self._send_head(handler, {"Content-Type": "application/json", "Content-Length": str(len(page))})
            handler.wfile.write(page)
            return
        try:
            self._send_head(handler, {**self.headers, "Transfer-Encoding": "chunked"})
            for piece in self.answer():
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if not self.breaks_off:
                handler.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.client_left.set()
        handler.close_connection = True

    def _send_head(self, handler: BaseHTTPRequestHandler, headers: Mapping[str, str]) -> None:
        handler.send_response(self.status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
