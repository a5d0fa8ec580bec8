"""Revocations."""

from __future__ import annotations

from sqlalchemy import ColumnElement, insert, select, update

from modelvault.adapters.ledger_sql import admission, rows
from modelvault.adapters.ledger_sql.room import Room, of_model
from modelvault.adapters.ledger_sql.schema import leases, revocations
from modelvault.catalog import Revocation
from modelvault.errors import InvalidRequest
from modelvault.record import Entry


class Revocations(Room):
    """The part of `ports.ledger.Ledger` that keeps revocations; documented there."""

    def revoke(self, revocation: Revocation, entry: Entry) -> int:
        """Returns how many running leases it ended."""
        hit = _hit(revocation)
        with self._database.write() as write:
            write.run(insert(revocations).values(rows.revocation_values(revocation)))
            ended = write.run(
                update(leases)
                .where(hit, leases.c.ended_at.is_(None), leases.c.expires_at > revocation.at)
                .values(ended_at=revocation.at, end_reason="revoked")
            )
            write.append(entry)
        return ended

    def revoked(self, *, subject: str, version: str, at: int) -> Revocation | None:
        """One that stands, or None."""
        row = self._first(select(revocations).where(admission.standing(subject, version, at)))
        return None if row is None else rows.revocation_row(row)


def _hit(revocation: Revocation) -> ColumnElement[bool]:
    if revocation.kind == "principal":
        return leases.c.subject == revocation.target
    if revocation.kind == "lease":
        return leases.c.id == revocation.target
    name, _, version = revocation.target.rpartition("@")
    tenant, _, model = name.partition("/")
    if not (tenant and model and version.isascii() and version.isdecimal()):
        raise InvalidRequest("bad_target", "not a version", "name it as tenant/model@7")
    return of_model(leases, tenant, model) & (leases.c.version == int(version))
