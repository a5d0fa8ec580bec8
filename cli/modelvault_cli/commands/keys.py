"""`rotate` and `revoke`: keys anew, and an end to what was granted."""

from __future__ import annotations

import click

from modelvault.errors import InvalidRequest
from modelvault_cli.commands import arguments, plan
from modelvault_cli.frame import Globals, command, pass_globals


@command("rotate", "modelvault rotate minilm", "modelvault rotate minilm --dry-run")
@arguments.reference
@arguments.dry_run
@pass_globals
def rotate(options: Globals, reference: str, dry_run: bool) -> None:
    """Give a model a new key version and rewrap its keys under it; older versions are retired.

    No file is touched, and loads go on meanwhile. Run it again if it was interrupted.
    """
    from modelvault.reference import Reference
    from modelvault_cli.documents import RotatedModel
    from modelvault_cli.output import counted, emit

    with options.session() as session:
        if dry_run:
            plan.plan(options, session, "rotate", reference, f"rewrap the keys of {reference}")
            return
        done = session.rotate(reference)
    name = Reference(done.tenant, done.model).name
    document = RotatedModel(model=name, kek_version=done.kek_version, rewrapped=done.rewrapped)
    keys = counted(done.rewrapped, "key")
    line = f"{name}: key version {done.kek_version}, {keys} rewrapped"
    emit(options, document, [line])


@command(
    "revoke",
    "modelvault revoke version minilm@2 --reason 'leaked training data'",
    "modelvault revoke principal local:ci-7 --reason 'runner stolen' --for 7d --yes",
    "modelvault revoke lease 0f3a… --reason 'job runs wild' --yes",
)
@click.argument("kind", type=click.Choice(["principal", "lease", "version"]))
@click.argument("target")
@click.option("--reason", required=True, metavar="TEXT", help="For the audit log.")
@click.option(
    "--for", "for_s", type=arguments.duration, metavar="TIME",
    help="How long it stands, for principals: 90s, 15m, 2h, 7d. Without it: for good.",
)  # fmt: skip
@arguments.yes
@arguments.dry_run
@pass_globals
def revoke(
    options: Globals,
    kind: str,
    target: str,
    reason: str,
    for_s: int | None,
    yes: bool,
    dry_run: bool,
) -> None:
    """Revoke a principal (its id), a lease (its id) or a version (name@7).

    Running leases that it hits end at once; their jobs notice at their next renewal and wipe.
    What a job has decrypted already, a hostile one may have copied.
    """
    from modelvault_cli.documents import Revoked
    from modelvault_cli.output import confirm, counted, emit

    exact = _version(target) if kind == "version" else target
    with options.session() as session:
        if dry_run and kind == "version":
            plan.plan(options, session, "revoke", exact, f"revoke version {exact}")
            return
        if dry_run:
            plan.tell(options, "revoke", exact, f"revoke {kind} {exact}")
            return
        confirm(f"Revoke {kind} {exact}?", yes=yes)
        ended = session.revoke(kind, exact, reason=reason, for_s=for_s)
    document = Revoked(kind=kind, target=exact, ended=ended)
    emit(options, document, [f"revoked {kind} {exact}; {counted(ended, 'running lease')} ended"])


def _version(target: str) -> str:
    from modelvault.reference import Reference

    reference = Reference.parse(arguments.reference_of(target))
    if reference.version is None:
        raise InvalidRequest("bad_reference", f"{target!r} names no version number", "write name@7")
    return f"{reference.tenant}/{reference.model}@{reference.version}"
