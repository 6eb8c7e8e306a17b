"""`dmr completion`: the script that lets a shell complete commands, options and names of models."""

from __future__ import annotations

import click

_SHELLS = ("bash", "zsh", "fish")
_EPILOG = """\
\b
To have it in each new shell:
  bash   echo 'eval "$(dmr completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(dmr completion zsh)"' >> ~/.zshrc
  fish   dmr completion fish > ~/.config/fish/completions/dmr.fish
"""


@click.command("completion", short_help="Print the script for a shell's completion.", epilog=_EPILOG)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the script that lets SHELL complete commands, options and the names of models."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, shell
    root = ctx.find_root()
    script = kind(root.command, {}, "dmr", "_DMR_COMPLETE")
    click.echo(script.source_template % script.source_vars())
