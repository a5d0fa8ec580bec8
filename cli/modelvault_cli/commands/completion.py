"""`completion`: the script that a shell needs."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from modelvault.errors import InvalidRequest
from modelvault_cli.frame import Globals, command, pass_globals


@command(
    "completion",
    "modelvault completion bash >> ~/.bashrc",
    "modelvault completion zsh >> ~/.zshrc",
    "modelvault completion fish > ~/.config/fish/completions/modelvault.fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_globals
def completion(options: Globals, shell: str) -> None:
    """Print the completion script for SHELL: commands, options, names of models and tags."""
    from modelvault_cli.main import COMPLETE, cli

    if options.json:
        raise InvalidRequest("usage", "a completion script is no JSON document", "leave --json out")
    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(cli, {}, "modelvault", COMPLETE).source())
