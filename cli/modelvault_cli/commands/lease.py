"""`lease`: who holds keys just now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modelvault.errors import NotFound
from modelvault_cli.commands import arguments, plan
from modelvault_cli.frame import Globals, command, group, pass_globals

if TYPE_CHECKING:
    from modelvault.client.session import Session
    from modelvault.lease import LeaseSummary

_MOST = 1000
lease = group("lease", "List, show and revoke leases.")


@command("list", "modelvault lease list", "modelvault lease list --model minilm --ended --json")
@arguments.model
@click.option("--ended", is_flag=True, help="Also those that are over.")
@click.option("--limit", type=click.IntRange(1, _MOST), default=100, show_default=True)
@pass_globals
def list_leases(options: Globals, model: str | None, ended: bool, limit: int) -> None:
    """List leases, newest first; running ones unless --ended is given."""
    from modelvault_cli.documents import Leases
    from modelvault_cli.output import emit, table, talk

    with options.session() as session:
        leases = session.leases(model, ended=ended, limit=limit)
    rows = (
        (one.id, one.subject, _model(one), one.purpose, one.granted_at, one.expires_at, _state(one))
        for one in leases
    )
    header = ("LEASE", "SUBJECT", "MODEL", "PURPOSE", "GRANTED", "EXPIRES", "STATE")
    emit(options, Leases(leases=leases), table(header, rows))
    if not leases and not options.json:
        talk("no leases" if ended else "no running leases")


@command("show", "modelvault lease show 0f3a…")
@click.argument("lease_id", metavar="LEASE")
@pass_globals
def show(options: Globals, lease_id: str) -> None:
    """Show one lease."""
    from modelvault_cli.documents import LeaseShown
    from modelvault_cli.output import emit, fields, size

    with options.session() as session:
        found = _find(session, lease_id)
    lines = fields(
        {
            "lease": found.id,
            "subject": found.subject,
            "model": _model(found),
            "action": found.action,
            "purpose": found.purpose,
            "bytes": size(found.bytes),
            "granted": found.granted_at,
            "expires": found.expires_at,
            "state": _state(found),
        }
    )
    emit(options, LeaseShown(lease=found), lines)


@command("revoke", "modelvault lease revoke 0f3a… --reason 'job runs wild' --yes")
@click.argument("lease_id", metavar="LEASE")
@click.option("--reason", required=True, metavar="TEXT", help="For the audit log.")
@arguments.yes
@arguments.dry_run
@pass_globals
def revoke(options: Globals, lease_id: str, reason: str, yes: bool, dry_run: bool) -> None:
    """End one lease; its job notices at its next renewal and wipes."""
    from modelvault_cli.documents import Revoked
    from modelvault_cli.output import confirm, emit

    with options.session() as session:
        if dry_run:
            found = _find(session, lease_id)
            plan.plan(options, session, "revoke", _model(found), f"revoke lease {lease_id}")
            return
        confirm(f"Revoke lease {lease_id}?", yes=yes)
        ended = session.revoke("lease", lease_id, reason=reason)
    document = Revoked(kind="lease", target=lease_id, ended=ended)
    emit(options, document, [f"revoked lease {lease_id}"])


def _find(session: Session, lease_id: str) -> LeaseSummary:
    leases = session.leases(ended=True, limit=_MOST)
    found = next((one for one in leases if one.id == lease_id), None)
    if found is None:
        raise NotFound(
            "no_lease",
            f"no lease {lease_id!r} among the last {_MOST:,}",
            "see `modelvault lease list --ended`",
        )
    return found


def _model(one: LeaseSummary) -> str:
    from modelvault.reference import Reference

    return str(Reference(one.tenant, one.model, version=one.version))


def _state(one: LeaseSummary) -> str:
    return f"ended: {one.end_reason}" if one.ended_at else "running"


for _command in (list_leases, show, revoke):
    lease.add_command(_command)
