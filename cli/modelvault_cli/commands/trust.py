"""`trust`: the keys that are believed, of this vault and of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelvault_cli.commands import arguments, plan
from modelvault_cli.frame import NAMED_PATH, Globals, command, group, pass_globals

if TYPE_CHECKING:
    from modelvault.record import TrustFile
    from modelvault_cli.documents import Trust

trust = group("trust", "Export, update and pin trust files: whose keys are believed.")


@command(
    "export",
    "modelvault trust export trust.json",
    "modelvault trust export trust.json --home ~/.modelvault",
)
@click.argument("file", type=NAMED_PATH)
@pass_globals
def export(options: Globals, file: Path) -> None:
    """Write the vault's trust file, as it is pinned here, to a new FILE.

    Whoever gets it believes what those keys sign: hand it on by a way that nobody can meddle with,
    and compare its digest (sha256, printed here) where you can.
    """
    from modelvault.client.pins import write_new
    from modelvault_cli.output import emit

    with options.session() as session:
        held = session.trust
    write_new(file, held.to_bytes())
    document = _document(held, str(file))
    emit(options, document, [f"wrote {file}", *_lines(document)])


@command(
    "pin",
    "modelvault trust pin eu-trust.json",
    "modelvault trust pin eu-trust.json --dry-run",
)
@click.argument("file", type=NAMED_PATH)
@arguments.dry_run
@pass_globals
def pin(options: Globals, file: Path, dry_run: bool) -> None:
    """Let another vault, by its trust file FILE, give versions to this home and get them from it.

    The file must come from that vault's admin by a way that nobody can meddle with: compare the
    digest that is printed. A served vault's brokers take theirs from [copies] trusted of the
    deployment file.
    """
    from modelvault.client.pins import read_trust
    from modelvault_cli.output import emit

    other = read_trust(file)
    document = _document(other, str(file))
    with options.session() as session:
        if dry_run:
            plan.tell(options, "trust", other.vault, f"trust vault {other.vault} by {file}")
            return
        session.pin_trust(other)
    emit(options, document, [f"pinned {file}", *_lines(document)])


def _document(held: TrustFile, file: str) -> Trust:
    import hashlib

    from modelvault_cli.documents import Trust, TrustedKey

    return Trust(
        vault=held.vault,
        serial=held.serial,
        sha256=hashlib.sha256(held.to_bytes()).hexdigest(),
        file=file,
        keys=tuple(
            TrustedKey(purpose=key.purpose, keyid=key.keyid, retired=key.retired)
            for key in held.keys
        ),
    )


def _lines(document: Trust) -> list[str]:
    from modelvault_cli.output import fields

    named = {
        "vault": document.vault,
        "serial": str(document.serial),
        "sha256": document.sha256,
    }
    return fields(named)


for each in (export, pin):
    trust.add_command(each)
