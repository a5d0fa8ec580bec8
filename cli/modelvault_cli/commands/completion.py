"""`completion`: the script that a shell needs."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from modelvault.errors import InvalidRequest
from modelvault_cli.frame import Globals, command, pass_globals

_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@command(
    "completion",
    "modelvault completion bash >> ~/.bashrc",
    "modelvault completion zsh >> ~/.zshrc",
    "modelvault completion fish > ~/.config/fish/completions/modelvault.fish",
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@pass_globals
def completion(options: Globals, shell: str) -> None:
    """Print the completion script for SHELL: commands, options, names of models and tags."""
    from modelvault_cli.main import COMPLETE, cli

    if options.json:
        raise InvalidRequest("usage", "a completion script is no JSON document", "leave --json out")
    click.echo(_SHELLS[shell](cli, {}, "modelvault", COMPLETE).source())
