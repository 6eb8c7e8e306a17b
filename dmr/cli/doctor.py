"""`dmr doctor`: would a server run well here, and if not, what is to be done?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from dmr.cli.json_output import json_option, print_json
from dmr.cli.server_options import as_variables, server_options
from dmr.cli.values import printable
from dmr.errors import InvalidRequest

if TYPE_CHECKING:
    from dmr.doctor import Finding

_WORDS = {"ok": ("ok", "green"), "warning": ("warn", "yellow"), "failure": ("FAIL", "red")}
_EPILOG = """\
\b
Examples:
  dmr doctor
  dmr doctor --deep            also hash every model, which takes a while
  dmr doctor --offline --json  ask nobody beyond this machine; for programs
"""


@click.command("doctor", short_help="Check this machine, the settings and the store.", epilog=_EPILOG)
@server_options
@click.option("--deep", is_flag=True, help="Hash all files of all models.")
@click.option("--offline", is_flag=True, help="Do not try to reach registries and other engines.")
@json_option
@click.pass_context
def doctor_command(ctx: click.Context, /, deep: bool, offline: bool, as_json: bool, **flags: Any) -> None:
    """Check what a server needs on this machine: settings, engine, memory, disk, port, store, registries.

    Each line is ok, warn or FAIL, with what to do below it. Nothing is changed. The exit status is 1 if anything
    failed; a warning, such as a registry that cannot be reached, leaves it at 0.
    """
    environ = {**os.environ, **as_variables(flags)}
    findings = []
    for finding in _findings(environ, deep=deep, offline=offline):
        findings.append(finding)
        if not as_json:
            _print(finding)
    failed = any(finding.level == "failure" for finding in findings)
    if as_json:
        print_json({"healthy": not failed, "findings": [finding._asdict() for finding in findings]})
    ctx.exit(1 if failed else 0)


def _findings(environ: Mapping[str, str], *, deep: bool, offline: bool) -> Iterator[Finding]:
    """Settings that are wrong are the end: all else would be about settings that nobody wants."""
    from dmr.config.reading import read_effective
    from dmr.doctor.engine import check_engine
    from dmr.doctor.finding import failure, ok
    from dmr.doctor.machine import check_machine
    from dmr.doctor.network import check_port, check_reachable
    from dmr.doctor.store import check_store

    try:
        effective = read_effective(environ)
    except InvalidRequest as error:
        yield failure("settings", error.message, "Put it right; 'dmr config check' looks at a settings file.")
        return
    settings = effective.settings
    yield ok("settings", str(effective.file.path) if effective.file else "no settings file; variables are right")
    yield from check_engine()
    yield from check_machine(settings.models_path)
    yield check_port(settings.host, settings.port)
    yield from check_store(settings.models_path, deep=deep)
    if not offline:
        yield from check_reachable(settings, environ)


def _print(finding: Finding) -> None:
    word, colour = _WORDS[finding.level]
    mark = click.style(f"{word:<4}", fg=colour)
    click.echo(f"{mark}  {finding.check + ':':<11} {printable(finding.message)}")
    if finding.advice:
        click.echo(f"      {'':<11} -> {printable(finding.advice)}")
