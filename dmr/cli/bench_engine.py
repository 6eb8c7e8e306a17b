"""`dmr bench --engine FILE`: the figures of the engine alone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Union

import click
import msgspec

from dmr.bench.engine_figures import EngineLevel, EngineNews, EngineOrder, Loaded, Loading, Measured
from dmr.bench.engine_process import run_engine_bench
from dmr.cli.values import format_rate, format_seconds, format_table, printable
from dmr.config import EngineSettings, read_settings

_HEADER = ("CONCURRENCY", "PREFILL TOK/S", "DECODE TOK/S", "STEP P50", "P95", "HOST", "HOST SHARE")


class EnginePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. The names are those of the options."""

    file: Path
    concurrency: tuple[int, ...]
    prompt_tokens: int
    output_tokens: int
    seed: int
    threads: Union[int, None]  # None: as the environment says
    context_size: Union[int, None]

    def settings(self) -> EngineSettings:
        """Those of the environment, but for what is given here. Raises InvalidRequest."""
        given = {"num_threads": self.threads, "context_size": self.context_size}
        chosen = {name: value for name, value in given.items() if value is not None}
        return msgspec.structs.replace(read_settings().engine, **chosen)


class EngineReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    file: str
    description: str
    threads: int  # 0: automatic
    context_size: int
    prompt_tokens: int
    output_tokens: int
    seed: int
    interrupted: bool  # Ctrl-C: levels may be missing
    results: tuple[EngineLevel, ...]


def measure(plan: EnginePlan) -> EngineReport:
    """Run the engine in a process of its own; Ctrl-C ends it early.

    Raises:
        InvalidRequest, InternalError, Unavailable: the engine cannot be loaded, or has failed.
    """
    settings = plan.settings()
    order = EngineOrder(
        weights=(str(plan.file.absolute()),),
        settings=settings,
        concurrency=plan.concurrency,
        prompt_tokens=plan.prompt_tokens,
        output_tokens=plan.output_tokens,
        seed=plan.seed,
    )
    loaded, results, interrupted = Loaded("", 0), list[EngineLevel](), False
    try:
        with _progress(plan) as report, contextlib.closing(run_engine_bench(order)) as stream:
            for news in stream:
                report(news)
                if isinstance(news, Loaded):
                    loaded = news
                elif isinstance(news, Measured):
                    results.append(news.level)
    except KeyboardInterrupt:
        interrupted = True
    return EngineReport(
        file=str(plan.file),
        description=loaded.description,
        threads=settings.num_threads,
        context_size=loaded.context_size,
        prompt_tokens=plan.prompt_tokens,
        output_tokens=plan.output_tokens,
        seed=plan.seed,
        interrupted=interrupted,
        results=tuple(results),
    )


@contextlib.contextmanager
def _progress(plan: EnginePlan) -> Iterator[Callable[[EngineNews], None]]:
    """What is going on, as a line on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _news: None
        return
    from rich.console import Console

    levels = iter(plan.concurrency)
    with Console(stderr=True).status("loading") as status:

        def report(news: EngineNews) -> None:
            if isinstance(news, Loading):
                status.update(f"loading {100 * news.fraction:.0f}%")
            else:
                status.update(f"concurrency {next(levels, plan.concurrency[-1])}")

        yield report


def show(report: EngineReport) -> None:
    """The report as a table on stdout."""
    threads = f"threads: {report.threads or 'automatic'}"
    asked = f"{report.prompt_tokens} prompt tokens, {report.output_tokens} steps, {threads}"
    click.echo(printable(f"{report.file} ({report.description}): {asked}"))
    click.echo("\n" + format_table(_HEADER, [_row(level) for level in report.results]))
    if report.interrupted:
        click.echo("Interrupted: not all levels were measured.", err=True)


def _row(level: EngineLevel) -> tuple[str, ...]:
    decode = level.decode
    return (
        str(level.concurrency),
        format_rate(level.prefill.tokens_per_second),
        format_rate(decode.tokens_per_second),
        format_seconds(decode.step_seconds.p50),
        format_seconds(decode.step_seconds.p95),
        format_seconds(decode.host_seconds_per_step),
        f"{100 * decode.host_share:.1f}%",
    )
