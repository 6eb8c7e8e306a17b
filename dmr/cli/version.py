"""`dmr version`: what is installed here, and what the server is."""

from __future__ import annotations

import importlib
import json
import platform
from typing import TYPE_CHECKING, Any

import click

from dmr.cli.server import pass_server
from dmr.cli.values import printable

if TYPE_CHECKING:
    from dmr.cli.server_api import ServerApi

_ARCHITECTURES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64"}


@click.command("version", short_help="Print the versions of this program, the server and the engine.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@pass_server
def version_command(server: ServerApi, as_json: bool) -> None:
    """Print the versions of this program, of the server, and how the engine in this program was built."""
    client = {"version": _own_version(), "os": platform.system().lower(), "arch": _architecture()}
    remote, build = _server_versions(server), _build_info()
    if as_json:
        click.echo(json.dumps({"client": client, "server": remote, "engine": build}, indent=4))
        return
    lines = ["Client:", f" Version:    {client['version']}", f" OS/Arch:    {client['os']}/{client['arch']}", ""]
    lines += ["Server:", f" Version:    {remote['version'] if remote else '(not reachable)'}"]
    if remote:
        lines.append(f" Engine:     {_engine(remote)}")
    click.echo(printable("\n".join([*lines, "", *_build_lines(build)])))


def _own_version() -> str:
    from importlib import metadata

    try:
        return metadata.version("dmr")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "dev"


def _architecture() -> str:
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def _server_versions(server: ServerApi) -> dict[str, Any] | None:
    from dmr.cli.transport import ServerNotRunning

    try:
        versions = server.get("/version", dict[str, Any])
    except ServerNotRunning:
        return None
    return {"version": "unknown", **versions}


def _engine(versions: dict[str, Any]) -> str:
    number, commit = versions.get("llama_cpp_version", ""), versions.get("llama_cpp_commit", "")
    return " ".join(part for part in ("llama.cpp", str(number), f"({commit})" if commit else "") if part)


def _build_info() -> dict[str, Any] | str:
    """What the native module tells about itself, or why it cannot."""
    try:
        return dict(importlib.import_module("dmr._core").build_info())
    except ImportError as error:
        return f"not usable: {error}"


def _build_lines(build: dict[str, Any] | str) -> list[str]:
    if isinstance(build, str):
        return [f"Engine in this program: {build}".splitlines()[0]]
    lines = ["Engine in this program:"]
    for key, value in build.items():
        shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        lines.append(f" {key.replace('_', ' ') + ':':<19}{shown}".rstrip())
    return lines
