"""The group of all commands: aliases, and the one place where errors become a line on stderr and an exit status."""

from __future__ import annotations

from typing import Any

import click

from dmr.cli.values import printable
from dmr.errors import DmrError

_ALIASES = {"ls": "list", "stop": "unload"}


class Commands(click.Group):
    """Commands raise `DmrError` for what a user can put right."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _ALIASES.get(cmd_name, cmd_name))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DmrError as error:
            raise click.ClickException(printable(error.message)) from None
        except KeyboardInterrupt:
            ctx.exit(130)  # 128 + SIGINT, as shells report it
