"""`dmr load`, `export`, `package` and `purge` with a server."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cli.conftest import Run
from cli.scripted_server import Reply, ScriptedServer
from unit.store.gguf_bytes import gguf_bytes

from dmr.cli.address import Address
from dmr.cli.transport import Transport

LOADED = {"type": "success", "message": "Model loaded successfully", "id": "sha256:1", "tags": ["docker.io/ai/m:v1"]}
NAME = "docker.io/ai/m:v1"


def test_load_sends_the_archive_and_prints_the_names(dmr: Run, server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "m.tar").write_bytes(b"tar" * 1000)
    server.on("POST /models/load", LOADED)
    result = dmr("load", str(tmp_path / "m.tar"))
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{NAME}\n", "")
    (sent,) = server.asked
    assert (sent.path, sent.body, sent.headers["Content-Type"]) == ("/models/load", b"tar" * 1000, "application/x-tar")


def test_load_of_a_pipe_is_streamed_under_the_given_name(dmr: Run, server: ScriptedServer) -> None:
    server.on("POST /models/load", LOADED)
    assert dmr("load", "-", "--tag", "m:v1", input=b"tar" * 100_000).exit_code == 0
    (sent,) = server.asked
    assert sent.path == "/models/load?reference=docker.io%2Fai%2Fm%3Av1"
    assert sent.headers["Transfer-Encoding"] == "chunked"
    assert sent.body == b"tar" * 100_000


def test_a_model_without_names_is_told_by_its_id(dmr: Run, server: ScriptedServer) -> None:
    server.on("POST /models/load", {**LOADED, "tags": []})
    assert dmr("load", input=b"tar").stdout == "sha256:1\n"


def test_load_takes_one_source(dmr: Run, tmp_path: Path) -> None:
    (tmp_path / "m.tar").touch()
    assert dmr("load", str(tmp_path / "m.tar"), "-i", str(tmp_path / "m.tar")).exit_code == 2
    assert dmr("load", str(tmp_path / "none.tar")).exit_code == 2


def test_load_tells_what_the_server_says(dmr: Run, server: ScriptedServer) -> None:
    server.on("POST /models/load", Reply(b"error while loading model: bad tar\n", 400, "text/plain"))
    assert dmr("load", input=b"tar").stderr == "Error: error while loading model: bad tar\n"


def test_export_writes_a_file_when_all_has_come(dmr: Run, server: ScriptedServer, tmp_path: Path) -> None:
    whole = Reply(b"tar" * 1000, content_type="application/x-tar")
    server.on("GET /models/ai%2Fm/export", whole)
    target = tmp_path / "m.tar"
    assert dmr("export", "ai/m", "-o", str(target)).exit_code == 0
    assert target.read_bytes() == whole.body
    assert dmr("export", "ai/m").stdout_bytes == whole.body


def test_an_archive_comes_in_large_pieces(server: ScriptedServer) -> None:
    """Byte by byte, a gigabyte would take hours."""
    server.on("GET /models/m/export", Reply(b"x" * 4_000_000, content_type="application/x-tar"))
    transport = Transport(Address(server.url, is_local=True))
    with transport.stream("GET", "/models/m/export") as pieces:
        sizes = [len(piece) for piece in pieces]
    transport.close()
    assert sum(sizes) == 4_000_000
    assert len(sizes) < 4_000


def test_half_an_archive_is_not_kept(dmr: Run, server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET /models/m/export", Reply(pieces=[b"tar" * 1000], drop=True))
    target = tmp_path / "m.tar"
    target.write_bytes(b"the one before")
    result = dmr("export", "m", "-o", str(target))
    assert result.exit_code == 1
    assert "closed the connection" in result.stderr
    assert [path.read_bytes() for path in tmp_path.glob("m.tar*")] == [b"the one before"]


def test_export_of_an_unknown_model(dmr: Run) -> None:
    assert dmr("export", "nosuch").stderr.startswith("Error: no such model: nosuch")


def test_a_place_that_cannot_be_written(dmr: Run, server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET /models/m/export", Reply(b"tar"))
    result = dmr("export", "m", "-o", str(tmp_path / "none" / "m.tar"))
    assert result.exit_code == 1
    assert "cannot be written: No such file or directory" in result.stderr


def test_package_sends_an_archive_with_all_files(dmr: Run, server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "w.gguf").write_bytes(gguf_bytes())
    (tmp_path / "LICENSE").write_bytes(b"Free.")
    server.on("POST /models/load", LOADED)
    result = dmr("package", "--gguf", str(tmp_path / "w.gguf"), "-l", str(tmp_path / "LICENSE"), "m:v1")
    assert (result.exit_code, result.stdout) == (0, f"{NAME}\n"), result.stderr
    (sent,) = server.asked
    assert parse_qs(urlsplit(sent.path).query) == {"reference": [NAME]}
    assert sent.headers["Content-Length"] == str(len(sent.body))
    with tarfile.open(fileobj=io.BytesIO(sent.body)) as archive:
        contents = [opened.read() for member in archive if (opened := archive.extractfile(member))]
    assert gguf_bytes() in contents
    assert b"Free." in contents


def test_package_pushes_what_it_made(dmr: Run, server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "w.gguf").write_bytes(gguf_bytes())
    server.on("POST /models/load", LOADED)
    server.on(
        "POST /models/docker.io%2Fai%2Fm:v1/push", Reply(b'{"type":"success","message":"Model pushed successfully"}\n')
    )
    result = dmr("package", "--gguf", str(tmp_path / "w.gguf"), "--push", "m:v1")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{NAME}\n", "Model pushed successfully\n")


def test_package_of_another_model_sends_the_wishes_and_the_projector(
    dmr: Run, server: ScriptedServer, tmp_path: Path
) -> None:
    projector = b"GGUF" + b"p" * 100
    (tmp_path / "p.gguf").write_bytes(projector)
    (tmp_path / "t.jinja").write_text("{{ x }}")
    digest = f"sha256:{hashlib.sha256(projector).hexdigest()}"
    server.on(f"POST /api/blobs/{digest}", Reply(b"", 201))
    server.on("POST /models/base/repackage", Reply(b'{"message":"ok"}', 201))
    server.on("GET /models/docker.io%2Fai%2Fm:v1", {"id": "sha256:1", "tags": [NAME]})
    flags = ["--mmproj", str(tmp_path / "p.gguf"), "--chat-template", str(tmp_path / "t.jinja")]
    result = dmr("package", "--from", "base", *flags, "--context-size", "64", "m:v1")
    assert (result.exit_code, result.stdout) == (0, f"{NAME}\n"), result.stderr
    blob, wish = [asked for asked in server.asked if asked.method == "POST"]
    assert blob.body == projector
    assert wish.json == {"target": NAME, "context_size": 64, "chat_template": "{{ x }}", "mmproj": digest}


def test_package_from_an_unknown_model(dmr: Run) -> None:
    assert dmr("package", "--from", "nosuch", "m").stderr.startswith("Error: no such model: nosuch")


def test_package_checks_the_files_before_anything_is_sent(dmr: Run, server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "w.gguf").write_bytes(b"no model")
    result = dmr("package", "--gguf", str(tmp_path / "w.gguf"), "m")
    assert (result.exit_code, result.stdout, server.asked) == (1, "", [])
    assert "w.gguf" in result.stderr


def test_purge_tells_when_models_are_in_use(dmr: Run, server: ScriptedServer) -> None:
    server.on("DELETE /models/purge", Reply(b"smollm2 is in use\n", 409), Reply(b""))
    assert dmr("purge", "--yes").stderr == "Error: smollm2 is in use\n"
    assert dmr("purge", "--force").exit_code == 0
    assert [asked.path for asked in server.asked] == ["/models/purge", "/models/purge?force=true"]
