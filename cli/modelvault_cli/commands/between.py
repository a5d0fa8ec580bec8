"""`copy`, `invite` and `import`: a version from one vault into another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelvault_cli.commands import arguments, plan
from modelvault_cli.frame import NAMED_PATH, Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault.client.copied import Copied
    from modelvault.client.session import Session
    from modelvault.copies import Importing
    from modelvault_cli.documents import CopyMade

_purpose = click.option(
    "--purpose", "-p", default="copy", show_default=True, metavar="NAME", help="What for."
)


@command(
    "copy",
    "modelvault copy minilm:prod minilm:prod --to-profile eu",
    "modelvault copy minilm@7 team/minilm --to-broker https://vault.eu.example",
    "modelvault copy minilm minilm --to-profile eu --dry-run",
)
@arguments.reference
@arguments.target
@arguments.other_vault
@_purpose
@arguments.ticket
@arguments.dry_run
@pass_globals
def copy(
    options: Globals,
    reference: str,
    target: str,
    to_home: Path | None,
    to_broker: str | None,
    to_profile: str | None,
    purpose: str,
    ticket: str | None,
    dry_run: bool,
) -> None:
    """Copy a version into the model TARGET of another vault, as its next version.

    The ciphertext stays as it is, and keys go from broker to broker: nothing that passes through
    here can be read. Each vault's admin must have pinned the other's trust file. The policy is
    asked for an export to that vault here, and for a push there. A tag in TARGET is moved to the
    copy. Run again, it finds the copy that stands, and goes on with one that was cut off.
    --dry-run looks at pins, policies and revocations, and says what it can't see.

    The other vault's settings come from the profile, or from MODELVAULT_TO_BROKER,
    MODELVAULT_TO_TRUST, MODELVAULT_TO_TOKEN_FILE and so on.
    """
    from modelvault.clock import boot_ms
    from modelvault.wiring import other as others
    from modelvault_cli.output import emit, progress

    with (
        options.session() as session,
        others.connect(home=to_home, url=to_broker, profile=to_profile) as other,
    ):
        if dry_run:
            _plan(options, session, other, reference, target, purpose)
            return
        start = boot_ms()
        with progress(f"copying {reference}") as advance:
            made = session.copy(
                reference, other, target, purpose=purpose, ticket=ticket, progress=advance
            )
        document = copy_document(made, boot_ms() - start)
    emit(options, document, [_line(document)])


def _plan(
    options: Globals, session: Session, other: Session, reference: str, target: str, purpose: str
) -> None:
    from modelvault.reference import Reference

    vault, named = other.trust.vault, Reference.parse(target)
    unseen = session.foresee_copy(other, reference)
    reasons = plan.allowed(session, "export", reference, purpose, vault)
    reasons += plan.allowed(other, "push", named.name)
    if named.tag is not None:
        reasons += plan.allowed(other, "tag", named.name)
    effect = f"copy it to {target} of vault {vault}"
    unchecked = (*unseen, *plan.UNCHECKED)
    plan.tell(options, "copy", reference, effect, reasons, unchecked=unchecked)


@command("invite", "modelvault invite minilm:prod invitation.json")
@arguments.target
@click.argument("file", type=NAMED_PATH)
@arguments.dry_run
@pass_globals
def invite(options: Globals, target: str, file: Path, dry_run: bool) -> None:
    """Begin an import into the model TARGET from a vault that can't be reached from here.

    The new FILE holds no secret: take it to the other vault, for `modelvault pull --for`, and bring
    the folder back, for `modelvault import`. It is good for seven days and for one version.
    """
    from modelvault import canonical
    from modelvault.client.pins import write_new
    from modelvault.reference import Reference
    from modelvault_cli.documents import Invited
    from modelvault_cli.output import emit

    with options.session() as session:
        if dry_run:
            name = Reference.parse(target).name
            plan.plan(options, session, "push", name, f"invite another vault to {target}")
            return
        importing = session.invite(target)
    write_new(file, canonical.encode(importing))
    document = Invited(
        model=Reference(importing.tenant, importing.model).name,
        upload=importing.id,
        expires_at=importing.expires_at,
        file=str(file),
    )
    lines = [f"wrote {file}, good until {importing.expires_at}"]
    emit(options, document, [*lines, f"next, there: modelvault pull REFERENCE FOLDER --for {file}"])


@command("import", "modelvault import ./minilm-sealed minilm:prod")
@click.argument("folder", type=NAMED_PATH)
@arguments.target
@arguments.dry_run
@pass_globals
def take_in(options: Globals, folder: Path, target: str, dry_run: bool) -> None:
    """Take in a FOLDER that was pulled for an invitation of this vault, as TARGET's next version.

    TARGET is the model that was named to `modelvault invite`; a tag in it is moved to the new
    version. Run again, it finds the version that stands, and goes on with an import that was cut
    off.
    """
    from modelvault.clock import boot_ms
    from modelvault.reference import Reference
    from modelvault_cli.output import emit, progress

    with options.session() as session:
        if dry_run:
            name = Reference.parse(target).name
            plan.plan(options, session, "push", name, f"take {folder} in as {target}")
            return
        start = boot_ms()
        with progress(f"taking in {folder}") as advance:
            made = session.take_in(folder, target, progress=advance)
        document = copy_document(made, boot_ms() - start)
    emit(options, document, [_line(document)])


def read_invitation(file: Path) -> Importing:
    """What `invite` wrote. Raises NotFound (`no_invitation`), IntegrityError (`bad_document`)."""
    import os

    from modelvault import canonical
    from modelvault.copies import Importing
    from modelvault.errors import NotFound
    from modelvault.record import MAX_RECORD

    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_RECORD + 1)
    except OSError as error:
        raise NotFound(
            "no_invitation",
            f"can't read {file}: {os.strerror(error.errno or 0)}",
            "name the file that `modelvault invite` has written, at the receiving vault",
        ) from None
    return canonical.decode(data, Importing, limit=MAX_RECORD, what=f"invitation {file}")


def copy_document(made: Copied, elapsed_ms: int) -> CopyMade:
    """What a copy or an import made."""
    from modelvault.reference import Reference
    from modelvault_cli.documents import CopyMade

    return CopyMade(
        model=Reference(made.tenant, made.model).name,
        version=made.version,
        tag=made.tag,
        manifest=made.manifest,
        new=made.new,
        source=made.source,
        files=made.files,
        size=made.size,
        elapsed_ms=elapsed_ms,
    )


def _line(document: CopyMade) -> str:
    from modelvault.reference import Reference
    from modelvault_cli.output import seconds, size

    source = document.source
    name = f"{Reference(source.tenant, source.model).name}@{source.version}"
    what = f"{document.model}@{document.version}"
    if not document.new:
        return f"{what} is the copy of {name} already"
    return f"copied {name} to {what}: {size(document.size)} in {seconds(document.elapsed_ms)}"
