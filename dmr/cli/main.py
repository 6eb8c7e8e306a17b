"""The `dmr` command."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import click

from dmr.cli.address import DEFAULT_ADDRESS
from dmr.cli.archives import export_command, load_command
from dmr.cli.bench import bench_command
from dmr.cli.completion import completion_command
from dmr.cli.config import config_command
from dmr.cli.configure import configure_command
from dmr.cli.context import context_command
from dmr.cli.doctor import doctor_command
from dmr.cli.group import Commands
from dmr.cli.import_file import import_command
from dmr.cli.keys import keys_command
from dmr.cli.launch import launch_command
from dmr.cli.logs import logs_command
from dmr.cli.models import list_command, rm_command, tag_command
from dmr.cli.package import package_command
from dmr.cli.purge import purge_command
from dmr.cli.requests import requests_command
from dmr.cli.run import run_command
from dmr.cli.running import df_command, ps_command, unload_command
from dmr.cli.search import search_command
from dmr.cli.serve import serve_command
from dmr.cli.show import inspect_command, show_command
from dmr.cli.status import status_command
from dmr.cli.transfer import pull_command, push_command
from dmr.cli.verify import verify_command
from dmr.cli.version import version_command

_EPILOG = """\
\b
Examples:
  dmr serve                               start the server
  dmr import smollm2.gguf smollm2         put a model file into the store
  dmr run smollm2 "Why is the sky blue?"  one answer on stdout
  dmr run smollm2                         a chat

\b
Shell completion (for zsh and fish put their name in place of bash):
  eval "$(dmr completion bash)"
"""


@click.group(cls=Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--server",
    metavar="URL",
    envvar="MODEL_RUNNER_HOST",
    default=DEFAULT_ADDRESS,
    show_default=True,
    show_envvar=True,
    help="Where the server is; HOST:PORT will do, and so will unix:///PATH.",
)
@click.option("--api-key", metavar="KEY", envvar="DMR_API_KEY", show_envvar=True, help="A key that the server knows.")
@click.option(
    "--tls-ca",
    metavar="FILE",
    envvar="MODEL_RUNNER_TLS_CA_CERT",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="Trust the authority in this file (PEM), and no other.",
)
@click.version_option(package_name="dmr", message="dmr %(version)s")
def cli(server: str, api_key: str | None, tls_ca: Path | None) -> None:
    """Run language models and serve them to others."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # one character that the terminal does not know must not end a chat


for _command in (
    serve_command,
    config_command,
    keys_command,
    configure_command,
    run_command,
    search_command,
    pull_command,
    push_command,
    list_command,
    inspect_command,
    show_command,
    tag_command,
    import_command,
    package_command,
    load_command,
    export_command,
    rm_command,
    purge_command,
    verify_command,
    ps_command,
    unload_command,
    df_command,
    bench_command,
    logs_command,
    requests_command,
    launch_command,
    context_command,
    completion_command,
    status_command,
    doctor_command,
    version_command,
):
    cli.add_command(_command)


def main() -> None:
    """Entry point of the `dmr` script."""
    cli(prog_name="dmr")
