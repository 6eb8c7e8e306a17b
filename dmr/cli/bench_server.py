"""`dmr bench MODEL`: the figures of a running server."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Union

import click
import msgspec

from dmr.bench.figures import LevelFigures, level_figures
from dmr.bench.level import Level, Workload
from dmr.bench.load import LoadClient, Outcome
from dmr.bench.prompts import PromptMaker, sample_text
from dmr.cli.server_api import CHAT_PATH, COMPLETIONS_PATH, ServerApi
from dmr.cli.transport import ServerError
from dmr.cli.values import format_rate, format_seconds, format_table, printable

_HEADER = (
    *("CONCURRENCY", "REQUESTS", "FAILED", "OUTPUT TOK/S", "PROMPT TOK/S", "CACHED"),
    *("TTFT P50", "P95", "ITL P50", "P95", "P99", "TOTAL"),
)
_LEAST_REQUESTS = 8
_REQUESTS_PER_USER = 4


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. The names are those of the options."""

    concurrency: tuple[int, ...]
    prompt: Union[str, None]  # of a chat; None: prompts of random tokens
    prompt_tokens: int
    output_tokens: int
    requests: Union[int, None]  # of each level; None with `duration`: no limit, else by the level's concurrency
    duration: Union[float, None]  # seconds of each level
    shared_prefix: int
    warmup: int
    seed: int
    timeout: float  # seconds of a request

    def num_requests(self, concurrency: int) -> int | None:
        if self.requests is None and self.duration is None:
            return max(_LEAST_REQUESTS, _REQUESTS_PER_USER * concurrency)
        return self.requests


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` prints."""

    model: str
    server: str
    prompt: Union[str, None]
    prompt_tokens: Union[int, None]  # None: `prompt` has what it has
    output_tokens: int
    shared_prefix_tokens: int
    seed: int
    interrupted: bool  # Ctrl-C: the last level is incomplete, and others may be missing
    results: tuple[LevelFigures, ...]


def measure(server: ServerApi, model: str, plan: Plan) -> Report:
    """Load the model, then run each level; Ctrl-C ends it early.

    Raises:
        ModelNotFound, ServerNotRunning, ServerError: also when no request succeeds.
    """
    server.get_model(model, dict[str, Any])
    results: list[LevelFigures] = []
    interrupted = False
    try:
        server.preload(model)
        client = LoadClient(server.address.url, server.headers, timeout=plan.timeout)
        workload, next_prefix = _workload(server, model, plan)
        if plan.warmup:
            _run(Level(client, workload, 1, num_requests=plan.warmup), [])
        for concurrency in plan.concurrency:
            next_prefix()
            with _progress(concurrency, plan) as report:
                level = Level(
                    client,
                    workload,
                    concurrency,
                    num_requests=plan.num_requests(concurrency),
                    duration=plan.duration,
                    report=report,
                )
                _run(level, results)
    except KeyboardInterrupt:
        interrupted = True
    return Report(
        model=model,
        server=server.address.url,
        prompt=plan.prompt,
        prompt_tokens=plan.prompt_tokens if plan.prompt is None else None,
        output_tokens=plan.output_tokens,
        shared_prefix_tokens=plan.shared_prefix,
        seed=plan.seed,
        interrupted=interrupted,
        results=tuple(results),
    )


def _run(level: Level, results: list[LevelFigures]) -> None:
    """Add the level's figures to `results`, also when Ctrl-C ends it. Raises ServerError: nothing has succeeded yet."""
    try:
        asyncio.run(level.run())
    finally:
        if level.outcomes:
            results.append(level_figures(level.concurrency, level.outcomes))
    if all(figures.failures == figures.requests for figures in results):
        raise ServerError(f"No request succeeded: {level.outcomes[0].error}")


def _workload(server: ServerApi, model: str, plan: Plan) -> tuple[Workload, Callable[[], None]]:
    """What is asked, and what gives the next prompts another shared prefix."""
    wishes = {"model": model, "max_tokens": plan.output_tokens, "ignore_eos": True, "temperature": 0}
    if plan.prompt is not None:
        body = {**wishes, "messages": [{"role": "user", "content": plan.prompt}]}
        return Workload(lambda: body, CHAT_PATH), lambda: None
    token_ids = server.tokenize(model, sample_text())
    prompts = PromptMaker(token_ids, plan.seed, plan.prompt_tokens, plan.shared_prefix)

    def make_body() -> Mapping[str, Any]:
        return {**wishes, "prompt": prompts.make()}

    return Workload(make_body, COMPLETIONS_PATH), prompts.change_prefix


@contextlib.contextmanager
def _progress(concurrency: int, plan: Plan) -> Iterator[Callable[[Outcome], None]]:
    """A line on stderr that counts the requests of a level, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _outcome: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=2) as progress:
        task = progress.add_task(f"concurrency {concurrency}", total=plan.num_requests(concurrency))
        yield lambda _outcome: progress.advance(task)


def show(report: Report) -> None:
    """The report as a table on stdout; on stderr what failed."""
    asked = "a chat" if report.prompt_tokens is None else f"{report.prompt_tokens} prompt tokens"
    if report.shared_prefix_tokens:
        asked += f" ({report.shared_prefix_tokens} of them shared)"
    click.echo(printable(f"{report.model} at {report.server}: {asked}, {report.output_tokens} output tokens"))
    click.echo("\n" + format_table(_HEADER, [_row(level) for level in report.results]))
    if len(report.results) > 1:
        click.echo("\n" + _fastest(report.results))
    errors = {error: level.concurrency for level in report.results for error in level.errors}
    for error, concurrency in errors.items():
        click.echo(f"Failed with concurrency {concurrency}: {printable(error)}", err=True)
    if report.interrupted:
        click.echo("Interrupted: the last level is incomplete.", err=True)


def _row(level: LevelFigures) -> tuple[str, ...]:
    ttft, gap = level.ttft_seconds, level.inter_token_seconds
    cached = level.cached_tokens / level.prompt_tokens if level.prompt_tokens else 0.0
    return (
        str(level.concurrency),
        str(level.requests),
        str(level.failures),
        format_rate(level.output_tokens_per_second),
        format_rate(level.prompt_tokens_per_second),
        f"{100 * cached:.0f}%",
        *(format_seconds(value) for value in (ttft.p50, ttft.p95, gap.p50, gap.p95, gap.p99, level.seconds)),
    )


def _fastest(results: tuple[LevelFigures, ...]) -> str:
    first, best = results[0], max(results, key=lambda level: level.output_tokens_per_second)
    line = f"Fastest: {format_rate(best.output_tokens_per_second)} output tok/s with concurrency {best.concurrency}"
    if best is first or not first.output_tokens_per_second:
        return line + "."
    ratio = best.output_tokens_per_second / first.output_tokens_per_second
    return f"{line}, {ratio:.2f} times that of {first.concurrency}."
