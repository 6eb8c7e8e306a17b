"""`dmr configure`: how one model is to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dmr.cli.json_output import print_json
from dmr.cli.server import complete_model, pass_server
from dmr.errors import InvalidRequest

if TYPE_CHECKING:
    from dmr.cli.server_api import ServerApi

_MODES = ("completion", "embedding", "reranking")
# What can be taken back: the field of the request, and the one inside of it.
_FIELDS = {
    "context-size": ("context-size", ""),
    "runtime-flags": ("runtime-flags", ""),
    "keep-alive": ("keep_alive", ""),
    "reasoning-budget": ("llamacpp", "reasoning-budget"),
    "speculative": ("speculative", ""),
    "speculative-draft-model": ("speculative", "draft_model"),
    "speculative-num-tokens": ("speculative", "num_tokens"),
    "speculative-min-acceptance-rate": ("speculative", "min_acceptance_rate"),
}
_EPILOG = """\
\b
Examples:
  dmr configure smollm2 --context-size 4096 --keep-alive 1h
  dmr configure smollm2 -- --temp 0.2 --cache-type-k q8_0
  dmr configure smollm2 --unset keep-alive
  dmr configure show smollm2
  dmr configure reset smollm2
"""


class _SetByDefault(click.Group):
    """`dmr configure MODEL` is `dmr configure set MODEL`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["set", *args]
        return super().parse_args(ctx, args)


class _Setting(click.Command):
    """Takes `--think=false` as upstream does, and tells where flags of the engine go."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        try:
            return super().parse_args(ctx, [*map(_spelled, args[:end]), *args[end:]])
        except click.NoSuchOption as error:
            raise click.UsageError(f"{error.message} Runtime flags go after '--'.", ctx) from None


def _spelled(argument: str) -> str:
    name, equals, value = argument.partition("=")
    if name != "--think" or not equals:
        return argument
    return "--think" if click.BOOL.convert(value, None, None) else "--no-think"


@click.group("configure", cls=_SetByDefault, short_help="Say how a model is to run.", epilog=_EPILOG)
def configure_command() -> None:
    """Say how a model is to run: 'dmr configure MODEL' is short for 'dmr configure set MODEL'.

    What is set is kept until it is changed or reset, also when the server starts anew.
    """


@configure_command.command("set", cls=_Setting, short_help="Set what is named; all else stays.")
@click.argument("model", shell_complete=complete_model)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[-- RUNTIME FLAGS]")
@click.option("--context-size", type=int, help="Tokens of context; -1: as many as the model was trained for.")
@click.option("--keep-alive", metavar="DURATION", help="How long the idle model stays loaded: 10m, 0, or -1 for ever.")
@click.option("--mode", type=click.Choice(_MODES), help="What it is for. [default: completion, or as the flags say]")
@click.option("--think/--no-think", default=None, help="Whether the model may think.")
@click.option("--reasoning-budget", type=int, help="Most tokens of a thought; 0: none, -1: any number.")
@click.option("--speculative-draft-model", metavar="MODEL", help="A smaller model that guesses.")
@click.option("--speculative-num-tokens", type=int, help="Most guesses in one step.")
@click.option("--speculative-min-acceptance-rate", type=float, help="How sure a guess must be, 0 to 1.")
@click.option("--unset", type=click.Choice(sorted(_FIELDS)), multiple=True, help="Take one back; may be repeated.")
@click.option("--replace-flags", is_flag=True, help="Drop the runtime flags that were set before.")
@click.option("--hf_overrides", metavar="JSON", help="Of another engine: refused, as it has no effect here.")
@click.option("--gpu-memory-utilization", type=float, help="Of another engine: refused, as it has no effect here.")
@pass_server
def set_command(server: ServerApi, /, model: str, flags: tuple[str, ...], **options: Any) -> None:
    """Set what is named for MODEL; all else stays as it is. It is loaded anew where that takes another engine.

    RUNTIME FLAGS are those of llama-server, after '--'. Each takes the place of the same flag that was set before.
    """
    server.configure(model, _settings(options, flags))


@configure_command.command("show", short_help="Show how models are configured.")
@click.argument("model", required=False, shell_complete=complete_model)
@pass_server
def show_command(server: ServerApi, /, model: str | None) -> None:
    """Print how MODEL is configured, or all models, as JSON."""
    print_json(server.configurations(model))


@configure_command.command("reset", short_help="Forget how models are configured.")
@click.argument("models", nargs=-1, shell_complete=complete_model)
@click.option("--all", "everything", is_flag=True, help="Of all models.")
@click.option("--mode", type=click.Choice(_MODES), help="Only for this.")
@pass_server
def reset_command(server: ServerApi, /, models: tuple[str, ...], everything: bool, mode: str | None) -> None:
    """Go back to the defaults for MODELS."""
    if bool(models) == everything:
        raise click.UsageError("Give the names of models, or --all.")
    count = sum(server.reset_configuration(model, mode) for model in models or (None,))
    click.echo(f"Reset {count} configuration(s)." if count else "Nothing was configured.")


def _settings(options: dict[str, Any], flags: tuple[str, ...]) -> dict[str, Any]:
    """The fields of the request. Raises InvalidRequest: nothing is named, or something twice."""
    named = {
        "context-size": options["context_size"],
        "keep-alive": options["keep_alive"],
        "reasoning-budget": _budget(options["think"], options["reasoning_budget"]),
        "runtime-flags": list(flags) or None,
        "speculative-draft-model": options["speculative_draft_model"],
        "speculative-num-tokens": options["speculative_num_tokens"],
        "speculative-min-acceptance-rate": options["speculative_min_acceptance_rate"],
    }
    named = {name: value for name, value in named.items() if value is not None}
    settings: dict[str, Any] = {"mode": options["mode"]} if options["mode"] else {}
    for name in options["unset"]:
        if name in named or (name == "speculative" and any(other.startswith(name) for other in named)):
            raise InvalidRequest(f"--unset {name} contradicts a value of the same command.")
        _put(settings, name, None)
    for name, value in named.items():
        _put(settings, name, value)
    if options["replace_flags"]:
        if not flags:
            raise InvalidRequest("--replace-flags needs flags after '--'; without any it is --unset runtime-flags.")
        settings["runtime-flags"] = None
        settings["raw-runtime-flags"] = _line(flags)
    foreign = {"hf-overrides": options["hf_overrides"], "gpu-memory-utilization": options["gpu_memory_utilization"]}
    if any(value is not None for value in foreign.values()):
        settings["vllm"] = {name: value for name, value in foreign.items() if value is not None}
    if not settings.keys() - {"mode"}:
        raise InvalidRequest("Nothing is named that could be set; `dmr configure set --help` shows what can be.")
    return settings


def _put(settings: dict[str, Any], name: str, value: Any) -> None:
    field, inner = _FIELDS[name]
    if not inner:
        settings[field] = value
    elif settings.get(field, {}) is not None:
        settings.setdefault(field, {})[inner] = value


def _budget(thinks: bool | None, budget: int | None) -> int | None:
    if thinks is None:
        return budget
    if budget is not None:
        raise InvalidRequest("--think and --reasoning-budget say the same: give one of them.")
    return -1 if thinks else 0


def _line(flags: tuple[str, ...]) -> str:
    import shlex

    return shlex.join(flags)
