"""`pull` and `export`: a version onto a disk, as ciphertext or in the clear."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelvault_cli.commands import arguments, plan
from modelvault_cli.commands.between import read_invitation
from modelvault_cli.frame import NAMED_PATH, Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault.manifest import Manifest

_folder = click.argument("folder", type=NAMED_PATH)


@command(
    "pull",
    "modelvault pull minilm:prod ./minilm-sealed",
    "modelvault pull minilm:prod ./minilm-sealed --for invitation.json",
)
@arguments.reference
@_folder
@click.option(
    "--for", "invitation", type=NAMED_PATH, metavar="FILE",
    help="Also the keys, sealed for the vault whose `modelvault invite` wrote FILE.",
)  # fmt: skip
@click.option(
    "--purpose", "-p", default="copy", show_default=True, metavar="NAME", help="With --for."
)
@arguments.ticket
@arguments.dry_run
@pass_globals
def pull(
    options: Globals,
    reference: str,
    folder: Path,
    invitation: Path | None,
    purpose: str,
    ticket: str | None,
    dry_run: bool,
) -> None:
    """Copy a version's ciphertext and its signed documents into a new folder.

    Every byte is checked on its way. Nothing in the folder can be read without a lease. With
    --for, the vault that invited can take it in (`modelvault import`), and nobody else: the policy
    is asked for an export to that vault too.
    """
    from modelvault_cli.output import progress

    invited = None if invitation is None else read_invitation(invitation)
    with options.session() as session:
        if dry_run:
            plan.plan(options, session, "pull", reference, f"copy its ciphertext to {folder}")
            return
        with progress(f"copying {reference}") as advance:
            manifest = session.pull(
                reference, folder, invited=invited, purpose=purpose, ticket=ticket, progress=advance
            )
    _report(options, manifest, folder, "ciphertext and signed documents")


@command(
    "export",
    "modelvault export minilm:prod ./minilm-plain",
    "modelvault export minilm:prod ./tokenizer --file tokenizer.json --ticket OPS-112",
)
@arguments.reference
@_folder
@click.option(
    "--purpose", "-p", default="export", show_default=True, metavar="NAME", help="What for."
)
@arguments.files
@arguments.ticket
@arguments.dry_run
@pass_globals
def export(
    options: Globals,
    reference: str,
    folder: Path,
    purpose: str,
    files: tuple[str, ...],
    ticket: str | None,
    dry_run: bool,
) -> None:
    """Write a version to a disk in the clear, into a new folder that only you can read.

    An action of its own for the policy: who may load a model may not therefore export it.
    """
    from modelvault_cli.output import progress, talk

    with options.session() as session:
        if dry_run:
            effect = f"write its plaintext to {folder}"
            plan.plan(options, session, "export", reference, effect, purpose)
            return
        with progress(f"decrypting {reference}") as advance:
            manifest = session.export(
                reference,
                folder,
                purpose=purpose,
                files=files or None,
                ticket=ticket,
                progress=advance,
            )
    talk("warning: these files are in the clear; the vault protects them no longer")
    _report(options, manifest, folder, "plaintext", only=files)


def _report(
    options: Globals, manifest: Manifest, folder: Path, what: str, only: tuple[str, ...] = ()
) -> None:
    from modelvault.reference import Reference
    from modelvault_cli.documents import Copied, FileSize
    from modelvault_cli.output import emit, size

    files = tuple(
        FileSize(file.path, file.size) for file in manifest.files if not only or file.path in only
    )
    document = Copied(
        model=Reference(manifest.tenant, manifest.model).name,
        version=manifest.version,
        folder=str(folder),
        files=files,
        size=sum(file.size for file in files),
    )
    line = f"{document.model}@{document.version}: {what} of {size(document.size)} in {folder}"
    emit(options, document, [line])
