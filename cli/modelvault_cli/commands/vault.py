"""`init` and `gc`: an embedded vault begins, and is kept in order."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import click

from modelvault.errors import InvalidRequest
from modelvault_cli.commands import arguments, plan
from modelvault_cli.frame import Globals, command, pass_globals

if TYPE_CHECKING:
    from modelvault.settings import Settings
    from modelvault_cli.documents import Init


@command(
    "init",
    "modelvault init",
    "modelvault init --home /srv/vault --root-key passphrase",
    "modelvault init --digest sha256   # where only FIPS-approved functions may be used",
)
@click.option(
    "--root-key", "root", type=click.Choice(["file", "passphrase", "keyring"]), default="file",
    show_default=True,
    help="A key file outside the home, a passphrase, or the operating system's keyring.",
)  # fmt: skip
@click.option("--user", metavar="NAME", help="The default identity; your user name without it.")
@click.option(
    "--group", "groups", multiple=True, metavar="NAME", default=("admins",), show_default=True,
    help="The default identity's groups; may be repeated.",
)  # fmt: skip
@click.option(
    "--digest", type=click.Choice(["blake3", "sha256"]), default="blake3", show_default=True,
    help="How ciphertext is hashed.",
)  # fmt: skip
@arguments.dry_run
@pass_globals
def init(
    options: Globals,
    root: Literal["file", "passphrase", "keyring"],
    user: str | None,
    groups: tuple[str, ...],
    digest: Literal["blake3", "sha256"],
    dry_run: bool,
) -> None:
    """Make an embedded vault: keys, ledger, store, policies, and an identity for yourself.

    Keep a copy of the root key in another place: without it nothing in the vault can be read, by
    anybody.
    """
    from modelvault import settings, wiring
    from modelvault_cli.documents import Init
    from modelvault_cli.output import emit

    if options.broker is not None:
        raise InvalidRequest("usage", "a broker has its own vault", "leave --broker out")
    if dry_run:
        _plan(options, settings.read(os.environ, home=options.home), root)
        return
    made = wiring.init(options.home, root=root, user=user, groups=groups, digest_alg=digest)
    document = Init(
        vault=made.vault,
        home=str(made.home),
        root_key=made.root.path or made.root.kind,
        policy_revision=made.policy_revision,
    )
    emit(options, document, _lines(document))


def _plan(
    options: Globals, settings: Settings, root: Literal["file", "passphrase", "keyring"]
) -> None:
    from modelvault.wiring import making
    from modelvault.wiring.home import Home

    home = settings.home
    making.foresee(Home(home), root, settings)
    unchecked = ("whether the system's keyring takes a key",) if root == "keyring" else ()
    effect = f"make a vault in {home}, its root key from a {root}"
    plan.tell(options, "init", str(home), effect, unchecked=unchecked)


def _lines(document: Init) -> list[str]:
    from modelvault_cli.output import fields

    return [
        *fields(
            {
                "vault": document.vault,
                "home": document.home,
                "root key": document.root_key,
                "policies": document.policy_revision,
            }
        ),
        "next: modelvault create NAME, then modelvault push FOLDER NAME:prod",
    ]


@command("gc", "modelvault gc --dry-run", "modelvault gc --yes")
@arguments.yes
@arguments.dry_run
@pass_globals
def gc(options: Globals, yes: bool, dry_run: bool) -> None:
    """Remove versions that were deleted long enough ago, and what dead pushes left."""
    from modelvault_cli.documents import Collected
    from modelvault_cli.output import confirm, counted, emit, size

    with options.session() as session:
        if not dry_run:
            confirm("Remove deleted versions for good?", yes=yes)
        swept = session.gc(dry_run=dry_run)
    document = Collected(
        dry_run=dry_run,
        uploads=swept.uploads,
        versions=swept.versions,
        objects=swept.objects,
        bytes=swept.bytes,
    )
    line = (
        f"{'would remove' if dry_run else 'removed'} {counted(swept.versions, 'version')}, "
        f"{counted(swept.uploads, 'upload')}, {counted(swept.objects, 'object')}, "
        f"{size(swept.bytes)}"
    )
    emit(options, document, [line])
