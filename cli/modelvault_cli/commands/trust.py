"""`trust`: the keys that are believed, of this vault and of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from modelvault.errors import InvalidRequest
from modelvault_cli.commands import arguments, plan
from modelvault_cli.commands.service import server_parts
from modelvault_cli.frame import NAMED_PATH, Globals, command, group, pass_globals

if TYPE_CHECKING:
    from modelvault.record import TrustFile
    from modelvault_cli.documents import Trust

trust = group("trust", "Export, update, pin and renew trust files: whose keys are believed.")


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
    """Trust another vault, by its trust file FILE.

    It may give versions to this home and get them from it. The file must come from that vault's
    admin by a way that nobody can meddle with: compare the digest that is printed. A served vault's
    brokers take theirs from [copies] trusted of the deployment file.
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


@command("pins", "modelvault trust pins", "modelvault trust pins --json")
@pass_globals
def pins(options: Globals) -> None:
    """List the other vaults that are pinned.

    Those may give to this home and get from it. A served vault's stand in [copies] trusted of its
    deployment file.
    """
    from modelvault_cli.documents import PinnedVault, Pins
    from modelvault_cli.output import emit, table

    with options.session() as session:
        found = tuple(
            PinnedVault(vault=each.vault, serial=each.serial, sha256=_digest(each))
            for each in session.pinned_trust()
        )
    rows = [(each.vault, str(each.serial), each.sha256) for each in found]
    emit(options, Pins(pins=found), table(("VAULT", "SERIAL", "SHA256"), rows))


@command("unpin", "modelvault trust unpin 5c1e09f3d2a84b7690e1c6b3f8a7d254")
@click.argument("vault")
@arguments.dry_run
@pass_globals
def unpin(options: Globals, vault: str, dry_run: bool) -> None:
    """Trust another VAULT, by its id, no longer.

    It gives no more versions to this home, nor gets them from it. What was copied stays, on both
    sides. For a served vault take its trust file out of [copies] trusted of the deployment file,
    and restart the brokers.
    """
    from modelvault_cli.documents import Unpinned
    from modelvault_cli.output import emit

    with options.session() as session:
        if dry_run:
            plan.tell(options, "trust", vault, f"trust vault {vault} no longer")
            return
        session.unpin_trust(vault)
    emit(options, Unpinned(vault=vault), [f"vault {vault} isn't trusted any more"])


@command(
    "update",
    "modelvault trust update successor.json --profile prod",
    "modelvault trust update eu-successor.json --file trusted/eu.json",
)
@click.argument("successor", type=NAMED_PATH)
@click.option(
    "--file", "pinned", type=NAMED_PATH, metavar="FILE",
    help="The pinned trust file; the profile's or MODELVAULT_TRUST without it.",
)  # fmt: skip
@arguments.dry_run
@pass_globals
def update(options: Globals, successor: Path, pinned: Path | None, dry_run: bool) -> None:
    """Put the SUCCESSOR of a pinned trust file in its place.

    It must be signed by a key of the one that is pinned, be of the same vault, and newer: so it may
    come by any way. Where somebody has skipped one, take them one after the other.
    """
    from modelvault.artifact import trust as trusting
    from modelvault.client import pins as pinning
    from modelvault.wiring import succession
    from modelvault_cli.output import emit

    envelope = pinning.read_successor(successor)
    path = pinned or succession.pinned_file(options.profile)
    if dry_run:
        made = trusting.successor(envelope, pinning.read_trust(path))
        effect = f"replace {path} by its successor, serial {made.serial}"
        plan.tell(options, "trust", made.vault, effect)
        return
    made = pinning.update_trust(path, envelope)
    document = _document(made, str(path))
    emit(options, document, [f"{path} is up to date", *_lines(document)])


@command(
    "rotate",
    "modelvault trust rotate manifest successor.json --home ~/.modelvault",
    "modelvault trust rotate log next.json --deployment broker.toml --hcvault-token-file token",
)
@click.argument("purpose", type=click.Choice(["manifest", "record", "log", "bundle"]))
@click.argument("successor", type=NAMED_PATH)
@click.option("--deployment", type=NAMED_PATH, metavar="FILE", help="Of a served vault.")
@click.option(
    "--hcvault-token-file", "token_file", type=NAMED_PATH, metavar="FILE",
    help="With --deployment: an administrator's token at HashiCorp Vault or OpenBao.",
)  # fmt: skip
@arguments.yes
@arguments.dry_run
@pass_globals
def rotate(
    options: Globals,
    purpose: Literal["manifest", "record", "log", "bundle"],
    successor: Path,
    deployment: Path | None,
    token_file: Path | None,
    yes: bool,
    dry_run: bool,
) -> None:
    """Exchange the vault's signing key for PURPOSE.

    The vault's own trust file is replaced by one that names the new key, and the same, signed by a
    key of the old one, goes to the new file SUCCESSOR: hand that to every client, for `modelvault
    trust update`. The old key still vouches for what it signed. Stop the brokers (or the home's
    other programs) first, and start them afterwards: what is signed in between isn't believed. Cut
    off, it can be run again.
    """
    from modelvault.wiring import succession
    from modelvault_cli.output import confirm, emit

    if (deployment is None) != (token_file is None):
        raise InvalidRequest(
            "usage", "--deployment and --hcvault-token-file belong together", "give both, or none"
        )
    if dry_run:
        effect = f"exchange the {purpose} key and write {successor}"
        plan.tell(options, "trust", str(deployment or options.home or "the home"), effect)
        return
    confirm(f"Exchange the {purpose} key? Clients need the new trust file then.", yes=yes)
    if deployment is None or token_file is None:
        made = succession.at_home(options.home, purpose, successor)
    else:
        with server_parts():
            made = succession.at_deployment(deployment, token_file, purpose, successor)
    document = _document(made, str(successor))
    emit(options, document, [f"wrote {successor}", *_lines(document)])


def _document(held: TrustFile, file: str) -> Trust:
    from modelvault_cli.documents import Trust, TrustedKey

    return Trust(
        vault=held.vault,
        serial=held.serial,
        sha256=_digest(held),
        file=file,
        keys=tuple(
            TrustedKey(purpose=key.purpose, keyid=key.keyid, retired=key.retired)
            for key in held.keys
        ),
    )


def _digest(held: TrustFile) -> str:
    import hashlib

    return hashlib.sha256(held.to_bytes()).hexdigest()


def _lines(document: Trust) -> list[str]:
    from modelvault_cli.output import fields

    named = {
        "vault": document.vault,
        "serial": str(document.serial),
        "sha256": document.sha256,
    }
    return fields(named)


for each in (export, pin, pins, unpin, update, rotate):
    trust.add_command(each)
