"""`run`: a command with a model's folder in memory."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from modelvault_cli.commands import arguments
from modelvault_cli.frame import Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault.loader.model import Model
    from modelvault.running.holder import Holder, RunFolder

WEIGHTS = ".safetensors"


@command(
    "run",
    "modelvault run minilm:prod --purpose inference -- python embed.py {model}",
    "modelvault run gemma:prod -p inference -- llama-server --model={model}/gemma.gguf",
    "modelvault run minilm@3 -p evaluation -- sh -c 'sha256sum {model}/*'",
    passes_on=True,
)
@arguments.reference
@click.argument("words", metavar="-- COMMAND [ARGS]...", nargs=-1, required=True)
@arguments.purpose
@arguments.files
@click.option(
    "--stream",
    is_flag=True,
    help=f"Leave {WEIGHTS} files out of the folder: COMMAND takes them by modelvault.attach().",
)
@arguments.ticket
@pass_globals
def run(
    options: Globals,
    reference: str,
    words: tuple[str, ...],
    purpose: str,
    files: tuple[str, ...],
    stream: bool,
    ticket: str | None,
) -> int:
    """Run COMMAND with the model as a folder that is in memory only.

    {model} in COMMAND's words becomes the folder's name; COMMAND also finds it in the environment
    variable MODELVAULT_MODEL. The folder is read-only (a COMMAND that writes into it is refused),
    and is there for as long as COMMAND runs; the lease is renewed meanwhile. When it is revoked or
    runs out, COMMAND and all that it started get SIGTERM, and SIGKILL after the grace that the
    policy gives (10 s unless it does).

    Signals are handed on, and the exit code is COMMAND's (128 + the signal that ended it). Failures
    of modelvault itself are 125 (with --json a document on stderr: stdout is COMMAND's), 126 where
    COMMAND can't be executed, 127 where there is no such program.
    """
    from modelvault import settings
    from modelvault.reference import Reference
    from modelvault.running import front

    name = Reference.parse(reference).model
    told = settings.read(os.environ, profile=options.profile)

    def hold(holder: Holder) -> int:
        with ExitStack() as stack:
            session = stack.enter_context(options.session())
            model = stack.enter_context(
                session.hold(
                    reference,
                    purpose=purpose,
                    files=files or None,
                    ticket=ticket,
                    on_revoked=holder.on_revoked,
                )
            )
            shown = [path for path in model.files if not (stream and path.endswith(WEIGHTS))]
            folder = stack.enter_context(holder.folder(model, shown))
            _fill(model, folder, shown)
            if stream:
                stack.enter_context(holder.sharing(model))
            return holder.run(model, folder)

    withheld = [variable for variable in (told.token_variable,) if variable]
    return front.run(words, os.environ, name, hold, withheld, shared=stream)


def _fill(model: Model, folder: RunFolder, paths: list[str]) -> None:
    from modelvault_cli.output import progress

    if paths:
        with progress(model.name) as tell:
            model.fill(folder, *paths, tell=tell)
