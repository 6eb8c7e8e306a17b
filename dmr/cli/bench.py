"""`dmr bench`: how fast a running server is, or the engine alone."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dmr.cli.server import complete_model, connect
from dmr.cli.values import duration_option

if TYPE_CHECKING:
    from dmr.cli.bench_engine import EnginePlan
    from dmr.cli.bench_server import Plan

MAX_CONCURRENCY = 1024
MAX_ENGINE_CONCURRENCY = 256
_SERVER_ONLY = ("prompt", "requests", "duration", "shared_prefix", "warmup", "timeout")
_ENGINE_ONLY = ("threads", "context_size")
_EPILOG = """\
Prompts are random tokens, and have nothing in common unless --shared-prefix is given; every answer has exactly
--output-tokens tokens. TTFT is the time to the first text of an answer, ITL that between one piece of text and the
next. CACHED is the part of the prompts that the server had computed before; PROMPT TOK/S has it too.

With --engine, PREFILL is the speed at which prompts are computed, DECODE that at which tokens are generated when all
users have their prompts computed. A step computes one token for each of them; HOST is the part of it that is not
spent in native code.

\b
--json prints one object; times are seconds, and what was not measured is null:
  model, server, prompt, prompt_tokens, output_tokens, shared_prefix_tokens, seed, interrupted,
  results: [{concurrency, requests, failures, seconds, prompt_tokens, cached_tokens, output_tokens,
             requests_per_second, prompt_tokens_per_second, output_tokens_per_second,
             ttft_seconds: {p50, p95, p99}, inter_token_seconds: {p50, p95, p99},
             errors: {message: requests}}]

\b
And with --engine (threads 0: automatic; context_size: tokens of KV memory):
  file, description, threads, context_size, prompt_tokens, output_tokens, seed, interrupted,
  results: [{concurrency, prefill: FIGURES, decode: FIGURES}]
  FIGURES: {steps, tokens, seconds, tokens_per_second, step_seconds: {p50, p95, p99},
            host_seconds_per_step, host_share}

\b
Examples:
  dmr bench smollm2
  dmr bench smollm2 --concurrency 8 --prompt-tokens 512 --shared-prefix 384
  dmr bench smollm2 --duration 30s --json > figures.json
  dmr bench --engine smollm2.gguf --concurrency 1,8,64 --threads 2
"""


class Concurrency(click.ParamType[Any, Any]):
    """`1,2,4,8` to a tuple."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers like 1,2,4,8.", param, ctx)
        if not all(1 <= number <= MAX_CONCURRENCY for number in numbers):
            self.fail(f"each number must be in the range 1 to {MAX_CONCURRENCY}.", param, ctx)
        return numbers


@click.command("bench", short_help="Measure how fast a model is served.", epilog=_EPILOG)
@click.argument("model", required=False, shell_complete=complete_model)
@click.option(
    "--engine",
    "file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure the engine alone, with this GGUF file and in a process of its own: no server, no HTTP.",
)
@click.option(
    "--concurrency",
    type=Concurrency(),
    metavar="N,N,...",
    default="1,2,4,8",
    show_default=True,
    help="How many users ask at the same time; each number is a level of its own.",
)
@click.option("--prompt", metavar="TEXT", help="Ask this in a chat, instead of prompts of random tokens.")
@click.option(
    "--prompt-tokens", type=click.IntRange(1, 1 << 20), default=128, show_default=True, help="Of each prompt."
)
@click.option("--output-tokens", type=click.IntRange(1, 1 << 20), default=64, show_default=True, help="Of each answer.")
@click.option("--requests", type=click.IntRange(1), help="Of each level. Default: 4 for each user, 8 at least.")
@click.option(
    "--duration",
    metavar="DURATION",
    callback=duration_option,
    help="How long requests are begun at each level, like 30s; instead of --requests.",
)
@click.option(
    "--shared-prefix",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="So many of the prompt's tokens are the same in all requests of a level.",
)
@click.option("--warmup", type=click.IntRange(0), default=1, show_default=True, help="Requests before the first level.")
@click.option(
    "--seed",
    type=click.IntRange(0, (1 << 32) - 1),
    help="Makes the same prompts again; they may then be cached. Default: another one each time.",
)
@click.option(
    "--timeout",
    metavar="DURATION",
    default="5m",
    show_default=True,
    callback=duration_option,
    help="How long one request may take.",
)
@click.option("--threads", type=click.IntRange(0), help="CPU threads; 0: automatic. With --engine only.")
@click.option(
    "--context-size",
    type=click.IntRange(0),
    help="Tokens of KV memory; 0: as many as are needed. With --engine only.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.pass_context
def bench_command(ctx: click.Context, /, model: str | None, file: Path | None, as_json: bool, **options: Any) -> None:
    """Measure how fast the server answers when several users ask MODEL at the same time.

    Ctrl-C ends it early and prints the figures that there are.
    """
    if (model is None) == (file is None):
        raise click.UsageError("Give the name of a model, or --engine and a file.")
    if options["seed"] is None:
        options["seed"] = secrets.randbits(32)
    if file is not None:
        _bench_engine(ctx, _engine_plan(ctx, file, options), as_json)
    elif model is not None:
        _bench_server(ctx, model, _server_plan(ctx, options), as_json)


def _bench_server(ctx: click.Context, model: str, plan: Plan, as_json: bool) -> None:
    from dmr.cli.bench_server import measure, show

    _tell(ctx, measure(connect(ctx), model, plan), show, as_json)


def _bench_engine(ctx: click.Context, plan: EnginePlan, as_json: bool) -> None:
    from dmr.cli.bench_engine import measure, show

    _tell(ctx, measure(plan), show, as_json)


def _tell(ctx: click.Context, report: Any, show: Callable[[Any], None], as_json: bool) -> None:
    """What was measured, also if only until Ctrl-C."""
    if as_json:
        _print_json(report)
    elif report.results:
        show(report)
    if report.interrupted:
        ctx.exit(130)


def _server_plan(ctx: click.Context, options: dict[str, Any]) -> Plan:
    from dmr.cli.bench_server import Plan

    _refuse(ctx, _ENGINE_ONLY, "is for --engine only")
    if options["requests"] is not None and options["duration"] is not None:
        raise click.UsageError("Give --requests or --duration, not both.")
    for name in ("duration", "timeout"):
        if options[name] is not None and options[name] <= 0:
            raise click.UsageError(f"--{name} must be longer than 0.")
    if options["prompt"] is not None:
        _refuse(ctx, ("prompt_tokens", "shared_prefix"), "goes not with --prompt, which is a text of its own")
    if options["shared_prefix"] >= options["prompt_tokens"]:
        raise click.UsageError("--shared-prefix must be smaller than --prompt-tokens.")
    return Plan(**{name: value for name, value in options.items() if name not in _ENGINE_ONLY})


def _engine_plan(ctx: click.Context, file: Path, options: dict[str, Any]) -> EnginePlan:
    from dmr.cli.bench_engine import EnginePlan

    _refuse(ctx, _SERVER_ONLY, "is for a running server, not for --engine")
    if max(options["concurrency"]) > MAX_ENGINE_CONCURRENCY:
        raise click.UsageError(f"An engine computes {MAX_ENGINE_CONCURRENCY} sequences at a time at most.")
    return EnginePlan(file=file, **{name: value for name, value in options.items() if name not in _SERVER_ONLY})


def _refuse(ctx: click.Context, names: Iterable[str], reason: str) -> None:
    """Wrong usage, if one of the options is given."""
    for name in names:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} {reason}.")


def _print_json(report: Any) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(report), indent=4).decode())
