"""`hold`: a model as files in a folder that others share, for as long as its lease."""

from __future__ import annotations

from pathlib import Path

import click

from modelvault_cli.commands import arguments
from modelvault_cli.frame import NAMED_PATH, Globals, command, pass_globals


@command(
    "hold",
    "modelvault hold minilm:prod /mnt/models --purpose inference",
    "modelvault hold modelvault://minilm:prod /mnt/models -p inference --json",
)
@arguments.reference
@click.argument("folder", type=NAMED_PATH)
@arguments.purpose
@arguments.files
@arguments.ticket
@pass_globals
def hold(
    options: Globals,
    reference: str,
    folder: Path,
    purpose: str,
    files: tuple[str, ...],
    ticket: str | None,
) -> None:
    """Fill FOLDER with a model for others to open, and keep its lease until asked to end.

    FOLDER is an empty folder that is memory: a tmpfs, or in a pod an emptyDir with medium: Memory
    that its containers share. Once the model is there, so is the file .modelvault/held, which a
    startup probe can look for. At the end (SIGTERM, Ctrl-C), and when the lease is revoked or runs
    out, that file is removed, then the model's; who has one open keeps it, so let a liveness probe
    of theirs look for .modelvault/held, too. What a holder left that was killed is wiped by the
    next one in FOLDER.

    For a single program, `modelvault run` is the better one: it ends the program itself.
    """
    from contextlib import suppress

    from modelvault.running.hold import Hold
    from modelvault_cli.documents import Copied, FileSize
    from modelvault_cli.output import counted, emit, progress, size, talk

    held = Hold(folder)  # before the session, which has secrets
    with options.session() as session, held:
        model = session.hold(
            reference,
            purpose=purpose,
            files=files or None,
            ticket=ticket,
            on_revoked=held.on_revoked,
        )
        with progress(model.name) as tell:
            held.fill(model, tell)
        talk(
            f"{model.name} is in {folder}: {counted(len(model.files), 'file')}, {size(model.size)}"
        )
        with suppress(SystemExit):  # SIGTERM: as it should end
            held.wait(model)
        sizes = {entry.path: entry.size for entry in model.manifest.files}
        document = Copied(
            model=model.name.rpartition("@")[0],
            version=model.manifest.version,
            folder=str(folder),
            files=tuple(FileSize(path, sizes[path]) for path in model.files),
            size=model.size,
        )
    emit(options, document, [f"{folder} is empty again"])
