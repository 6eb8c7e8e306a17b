"""A real HTTP server on loopback that answers what the test says, and remembers what it was asked."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHAT = "/engines/v1/chat/completions"


@dataclass
class Reply:
    """`body` is sent whole; `pieces` instead are sent as chunks, each at once, and `drop` then cuts the connection."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    pieces: Iterable[bytes] | None = None
    drop: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ScriptedServer:
    """Replies are taken per "METHOD /path" in order; the last one stays. Anything else gets 404 as plain text.

    A request that only loads a model gets those of "PRELOAD /path", if there are any.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.client_left = threading.Event()
        self._replies: dict[str, list[Reply]] = {}
        self._http = _Http(self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def on(self, route: str, *replies: Reply | Any) -> None:
        """Script a route; what is not a `Reply` is sent as JSON."""
        made = [r if isinstance(r, Reply) else Reply(json.dumps(r).encode()) for r in replies]
        self._replies.setdefault(route, []).extend(made)

    def has(self, route: str) -> bool:
        return route in self._replies

    def reply_to(self, route: str) -> Reply:
        replies = self._replies.get(route)
        if not replies:
            return Reply(b"not found\n", 404, "text/plain")
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def wrap(self, context: ssl.SSLContext) -> None:
        """From now on this is TLS."""
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = False  # close() waits for them, so that no socket outlives its test

    def __init__(self, script: ScriptedServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that leave are part of the tests


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    timeout = 20

    def _answer(self) -> None:
        body = self._chunks() if "Transfer-Encoding" in self.headers else self._whole()
        script = self.server.script
        script.asked.append(Asked(self.command, self.path, dict(self.headers), body))
        path = self.path.partition("?")[0]
        is_preload = "X-Preload-Only" in self.headers and script.has(f"PRELOAD {path}")
        self._send(script.reply_to(f"{'PRELOAD' if is_preload else self.command} {path}"))

    def _whole(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_POST = do_DELETE = do_HEAD = _answer  # noqa: N815 (the names that http.server looks for)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.pieces is None:
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body if self.command != "HEAD" else b"")
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._send_pieces(reply)

    def _send_pieces(self, reply: Reply) -> None:
        assert reply.pieces is not None
        try:
            for piece in reply.pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if not reply.drop:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server.script.client_left.set()
        self.close_connection = self.close_connection or reply.drop

    def log_message(self, *_: Any) -> None:
        pass


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(**fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": None}])


def answer(*texts: str, reasoning: str = "", finish_reason: str = "stop", usage: Any = None) -> Reply:
    """A whole streamed chat answer, in the server's order of chunks."""
    pieces = [delta(role="assistant", content="")]
    pieces += [delta(reasoning_content=reasoning)] if reasoning else []
    pieces += [delta(content=text) for text in texts]
    pieces.append(event(choices=[{"index": 0, "delta": {}, "finish_reason": finish_reason}]))
    pieces.append(event(choices=[], usage=usage or {"prompt_tokens": 7, "completion_tokens": len(texts)}))
    return Reply(content_type="text/event-stream", pieces=[*pieces, b"data: [DONE]\n\n"])
