"""A Hugging Face hub on loopback, with the routes that models need, and with what can go wrong there."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback_registry import LoopbackServer, send

Files = dict[str, bytes]
LARGE = (".gguf", ".safetensors")  # of these the hub tells the SHA-256


class LoopbackHub(LoopbackServer):
    """`files` by path are those of the branch main; the tree is given in pages of two."""

    def __init__(self) -> None:
        self.repository = "Org/Tiny-GGUF"
        self.branches: dict[str, Files] = {"main": {}}
        self.token = ""  # that is asked for
        self.is_gated = False  # its files, not its list
        self.limits: list[dict[str, str]] = []  # headers of the next answers, which are 429
        self.lfs: dict[str, Any] = {}  # told instead of what is true
        self.cut_after: list[int] = []  # bytes after which the next files break off
        self.bytes_sent: Counter[str] = Counter()
        self.hold = threading.Event()  # files wait for it
        self.hold.set()
        self.num_open = self.max_open = 0  # files that are being sent at the same time
        self.found: list[dict[str, Any]] = []  # by /api/models
        self.commits: list[list[dict[str, Any]]] = []  # that were pushed
        self.uploaded: Files = {}  # by SHA-256
        self._lock = threading.Lock()
        super().__init__()

    @property
    def files(self) -> Files:
        return self.branches["main"]

    @files.setter
    def files(self, files: Files) -> None:
        self.branches["main"] = files

    def commit_of(self, revision: str) -> str:
        names = sorted(self.branches[revision].items())
        return hashlib.sha1(repr(names).encode()).hexdigest()

    def answer(self, handler: BaseHTTPRequestHandler, headers: dict[str, str]) -> None:
        url = urlsplit(handler.path)
        api = f"/api/models/{self.repository}"
        if self.limits:
            send(handler, 429, **self.limits.pop(0))
        elif url.path == "/api/models":
            send(handler, 200, json.dumps(self.found[: int(parse_qs(url.query)["limit"][0])]).encode())
        elif url.path.startswith("/lfs-store/"):
            self._store_large(handler, headers)
        elif self.token and headers.get("authorization") != f"Bearer {self.token}":
            self._deny(handler, url.path)
        elif url.path.startswith(f"{api}/revision/"):
            self._revision(handler, unquote(url.path.removeprefix(f"{api}/revision/")))
        elif url.path.startswith(f"{api}/tree/"):
            self._tree(handler, url.path.rpartition("/")[2], int(parse_qs(url.query).get("cursor", ["0"])[0]))
        elif url.path.startswith(f"/{self.repository}/resolve/"):
            commit, _, path = url.path.removeprefix(f"/{self.repository}/resolve/").partition("/")
            self._file(handler, commit, unquote(path), headers)
        elif handler.command == "POST":
            self._push(handler, url.path, headers)
        else:
            send(handler, 404, b'{"error":"Repository not found"}', X_Error_Code="RepoNotFound")

    def _deny(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        """As the hub does: who is not let in cannot tell a private repository from none."""
        is_known = self.repository in path
        if not self.is_gated:
            send(handler, 401, b'{"error":"Invalid username or password."}', X_Error_Code="RepoNotFound")
        elif path.startswith(f"/{self.repository}/resolve/") or not is_known:
            message = f"Access to model {self.repository} is restricted."
            send(handler, 401, b"{}", X_Error_Code="GatedRepo", X_Error_Message=message)
        else:
            self.token, token = "", self.token
            self.answer(handler, {})
            self.token = token

    def _revision(self, handler: BaseHTTPRequestHandler, revision: str) -> None:
        known = {**{name: self.commit_of(name) for name in self.branches}}
        commit = known.get(revision) or next((value for value in known.values() if value == revision), None)
        if commit is None:
            send(handler, 404, b'{"error":"Invalid rev id"}', X_Error_Code="RevisionNotFound")
        else:
            send(handler, 200, json.dumps({"id": self.repository, "sha": commit}).encode())

    def _files_of(self, commit: str) -> Files:
        return next(files for name, files in self.branches.items() if commit in (name, self.commit_of(name)))

    def _tree(self, handler: BaseHTTPRequestHandler, commit: str, begin: int) -> None:
        files = self._files_of(commit)
        listed: list[dict[str, Any]] = [self._entry(files, name) for name in sorted(files)[begin : begin + 2]]
        folders = {name.rpartition("/")[0] for name in sorted(files)[begin : begin + 2]} - {""}
        listed += [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in folders]
        more = {}
        if begin + 2 < len(files):
            path = f"/api/models/{self.repository}/tree/{commit}?recursive=true&cursor={begin + 2}"
            more["Link"] = f'<http://{self.host}{path}>; rel="next"'
        send(handler, 200, json.dumps(listed).encode(), **more)

    def _entry(self, files: Files, name: str) -> dict[str, Any]:
        data = files[name]
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": oid}
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), **self.lfs}
        return entry

    def _file(self, handler: BaseHTTPRequestHandler, commit: str, name: str, headers: dict[str, str]) -> None:
        data = self._files_of(commit).get(name)
        if data is None:
            send(handler, 404, b"{}", X_Error_Code="EntryNotFound")
            return
        with self._lock:
            self.num_open += 1
            self.max_open = max(self.max_open, self.num_open)
        try:
            self.hold.wait(20)
            self._send_file(handler, name, data, headers)
        finally:
            with self._lock:
                self.num_open -= 1

    def _send_file(self, handler: BaseHTTPRequestHandler, name: str, data: bytes, headers: dict[str, str]) -> None:
        begin = int(headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        part = data[begin:]
        handler.send_response(206 if begin else 200)
        handler.send_header("Content-Length", str(len(part)))
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        if self.cut_after:
            part = part[: self.cut_after.pop(0)]
            handler.close_connection = True
        self.bytes_sent[name] += len(part)
        handler.wfile.write(part)

    # --- pushing: which files are large, where these go, and the commit ---

    def _push(self, handler: BaseHTTPRequestHandler, path: str, headers: dict[str, str]) -> None:
        body = handler.rfile.read(int(headers["content-length"]))
        api = f"/api/models/{self.repository}"
        if path == "/api/repos/create":
            self._create(handler, json.loads(body))
        elif path.startswith(f"{api}/preupload/"):
            told = [self._mode(file) for file in json.loads(body)["files"]]
            send(handler, 200, json.dumps({"files": told}).encode())
        elif path == f"/{self.repository}.git/info/lfs/objects/batch":
            placed = [self._place(one) for one in json.loads(body)["objects"]]
            send(handler, 200, json.dumps({"objects": placed}).encode())
        elif path.startswith("/lfs-verify"):
            send(handler, 200 if json.loads(body)["oid"] in self.uploaded else 404)
        elif path.startswith(f"{api}/commit/"):
            self._commit(handler, path.rpartition("/")[2], body)
        else:
            send(handler, 404, b"{}", X_Error_Code="RepoNotFound")

    def _create(self, handler: BaseHTTPRequestHandler, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        send(handler, 409 if name == self.repository else 200, b'{"error":"You already created this model repo"}')
        self.repository = name

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        sample = base64.b64decode(file["sample"])
        is_large = file["path"].endswith(LARGE) or b"\0" in sample
        return {"path": file["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.uploaded:
            return wanted
        base = f"http://{self.host}"
        upload = {"href": f"{base}/lfs-store/{wanted['oid']}", "header": {}}
        verify = {"href": f"{base}/lfs-verify", "header": {}}
        if wanted["size"] > 1 << 20:  # in parts, as S3 wants it
            size = 1 << 20
            numbers = range(-(-wanted["size"] // size))
            parts = {f"{number + 1:05}": f"{base}/lfs-store/{wanted['oid']}/{number}" for number in numbers}
            upload = {"href": f"{base}/lfs-store/{wanted['oid']}", "header": {"chunk_size": str(size), **parts}}
        return {**wanted, "actions": {"upload": upload, "verify": verify}}

    def _store_large(self, handler: BaseHTTPRequestHandler, headers: dict[str, str]) -> None:
        oid, _, part = handler.path.removeprefix("/lfs-store/").partition("/")
        body = handler.rfile.read(int(headers["content-length"]))
        if handler.command == "POST":  # the end of an upload in parts
            parts = json.loads(body)["parts"]
            self.uploaded[oid] = b"".join(self.uploaded.pop(f"{oid}/{one['partNumber'] - 1}") for one in parts)
            send(handler, 200, b"{}")
        else:
            self.uploaded[f"{oid}/{part}" if part else oid] = body
            send(handler, 200, b"", ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def _commit(self, handler: BaseHTTPRequestHandler, revision: str, body: bytes) -> None:
        operations = [json.loads(line) for line in body.splitlines()]
        self.commits.append(operations)
        files = self.branches[unquote(revision)]
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.uploaded[value["oid"]]
        send(handler, 200, b'{"success":true}')
