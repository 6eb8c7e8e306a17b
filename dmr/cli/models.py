"""`dmr list`, `dmr rm`, `dmr tag`: the models in the store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from dmr.cli.json_output import json_option, print_json
from dmr.cli.server import complete_model, connect, connect_elsewhere, find_models, pass_models
from dmr.cli.values import format_table, human_duration, printable
from dmr.errors import InvalidReference

if TYPE_CHECKING:
    from dmr.cli.replies import Model, ServedModels
    from dmr.cli.server import Models

_UNTAGGED = "<none>"
_HEADER = ("MODEL NAME", "PARAMETERS", "QUANTIZATION", "ARCHITECTURE", "MODEL ID", "CREATED", "CONTEXT", "SIZE")


def display_name(tag: str) -> str:
    """A tag without the parts that are the default; text that is no reference stays as it is."""
    from dmr.store.reference import parse_reference

    try:
        return parse_reference(tag).display
    except InvalidReference:
        return tag


def short_id(model_id: str) -> str:
    return model_id.removeprefix("sha256:")[:12]


@click.command("list", short_help="List the models in the store (alias: ls).")
@click.argument("model", required=False, shell_complete=complete_model)
@json_option
@click.option("--openai", "as_served", is_flag=True, help="Print what GET /engines/v1/models tells, as JSON.")
@click.option("--openaiurl", "other", metavar="URL", help="List the models of another server, as http://HOST/v1.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the first 12 hex digits of each ID.")
@click.pass_context
def list_command(
    ctx: click.Context, model: str | None, as_json: bool, as_served: bool, other: str | None, quiet: bool
) -> None:
    """List the models in the store: all, or those that MODEL means (a name, with or without its tag, or an ID)."""
    from dmr.cli.replies import Model, ServedModels

    if as_served or other is not None:
        if model is not None or quiet:
            raise click.UsageError("All that are served are listed: leave out MODEL and --quiet.")
        server = connect(ctx) if other is None else connect_elsewhere(ctx, other)
        if as_served or as_json:
            print_json(server.served_models(dict[str, Any]))
        else:
            click.echo(format_table(("MODEL NAME", "CREATED"), _served_rows(server.served_models(ServedModels))))
        return
    models = find_models(ctx)
    if as_json:
        objects = models.list_models(dict[str, Any])
        print_json([o for o in objects if _selected(o.get("id", ""), o.get("tags", ()), model)])
        return
    chosen = [m for m in models.list_models(Model) if _selected(m.id, m.tags, model)]
    if quiet:
        click.echo("".join(f"{short_id(m.id)}\n" for m in chosen), nl=False)
    else:
        click.echo(format_table(_HEADER, _rows(chosen, model)))


@click.command("rm", short_help="Remove models.")
@click.argument("models", nargs=-1, required=True, shell_complete=complete_model)
@click.option("-f", "--force", is_flag=True, help="Remove a model given by its ID even if it has several tags.")
@json_option
@pass_models
def rm_command(store: Models, /, models: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Remove MODELS: each a tag, or with its last tag or by its ID the model itself. Stops at the first failure."""
    done: list[dict[str, str]] = []
    try:
        for model in models:
            actions = _remove(store, model, force)
            done += actions
            if not as_json:
                for what, name in (item for action in actions for item in action.items()):
                    click.echo(f"{what}: {name}")
    finally:
        if as_json:
            print_json(done)


@click.command("tag", short_help="Give a model another name.")
@click.argument("source", shell_complete=complete_model)
@click.argument("target")
@json_option
@pass_models
def tag_command(models: Models, source: str, target: str, as_json: bool) -> None:
    """Let TARGET be a name of the model SOURCE, too. TARGET moves here if it was another model's."""
    from dmr.store.reference import parse_reference

    reference = parse_reference(target)
    if reference.digest:
        raise InvalidReference(f"{target} has a digest, which cannot be chosen: leave out the part from '@' on.")
    models.tag_model(source, f"{reference.registry}/{reference.repository}", reference.tag)
    if as_json:
        print_json({"source": source, "target": str(reference)})
    else:
        click.echo(f'Model "{printable(source)}" tagged successfully with "{printable(target)}"')


def _remove(store: Models, model: str, force: bool) -> list[dict[str, str]]:
    from dmr.cli.transport import ServerError

    try:
        return store.remove_model(model, force=force)
    except ServerError as error:
        if not error.status:
            raise
        raise ServerError(f"removing {model} failed with status {error.status}: {error.message}") from None


def _selected(model_id: str, tags: Iterable[str], wanted: str | None) -> bool:
    if wanted is None:
        return True
    from dmr.store.reference import looks_like_id

    digits = wanted.removeprefix("sha256:")
    if looks_like_id(wanted) and (model_id.removeprefix("sha256:").startswith(digits) or len(digits) > 12):
        return model_id.removeprefix("sha256:").startswith(digits)
    return any(_tag_matches(tag, wanted) for tag in tags)


def _tag_matches(tag: str, wanted: str) -> bool:
    from dmr.store.reference import parse_reference

    want = parse_reference(wanted)
    try:
        has = parse_reference(tag)
    except InvalidReference:
        return tag == wanted
    if (has.registry, has.repository) != (want.registry, want.repository):
        return False
    any_tag = ":" not in wanted.rpartition("/")[2]
    return any_tag or has.tag == want.tag


def _rows(models: Sequence[Model], wanted: str | None) -> list[tuple[str, ...]]:
    """One row per tag (those that were asked for), by name; a bare name sorts before its variants."""
    rows = []
    for model in models:
        tags = [tag for tag in model.tags if _selected("", (tag,), wanted)] or model.tags
        rows += [_row(display_name(tag), model) for tag in tags] or [_row(_UNTAGGED, model)]
    return sorted(rows, key=lambda row: row[0].split(":"))


def _served_rows(served: ServedModels) -> list[tuple[str, str]]:
    return sorted((model.id, _age(model.created)) for model in served.data)


def _age(created: int) -> str:
    return f"{human_duration(time.time() - created)} ago" if created > 0 else ""


def _row(name: str, model: Model) -> tuple[str, ...]:
    config = model.config
    context = config.context_size or config.gguf.get(f"{config.architecture}.context_length", "")
    return (
        name,
        config.parameters,
        config.quantization,
        config.architecture,
        short_id(model.id),
        _age(model.created),
        str(context),
        config.size,
    )
