"""Leases and what is counted."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import bindparam, func, or_, select, update

from modelvault.adapters.ledger_sql import admission, rows
from modelvault.adapters.ledger_sql.failures import damaged
from modelvault.adapters.ledger_sql.room import Room
from modelvault.adapters.ledger_sql.rows import AnyRow
from modelvault.adapters.ledger_sql.schema import (
    charges,
    entries,
    inserting,
    leases,
    named,
    revocations,
)
from modelvault.adapters.ledger_sql.writing import Write
from modelvault.catalog import Admission, LeaseRow, Limits
from modelvault.errors import AccessDenied, InvalidRequest, NotFound
from modelvault.record import Entry

_INSERT_LEASE = inserting(leases)
_INSERT_CHARGE = inserting(charges)
_OF_LEASE = update(leases).where(leases.c.id == bindparam("lease"))
_LEASE = select(leases).where(leases.c.id == bindparam("lease"))
_PROLONG = _OF_LEASE.values(expires_at=bindparam("until"))
_END = _OF_LEASE.values(ended_at=bindparam("at"), end_reason=bindparam("reason"))


class Leases(Room):
    """The part of `ports.ledger.Ledger` that keeps leases; documented there."""

    def admit(self, lease: LeaseRow, limits: Limits, entry: Entry) -> Admission:
        """Raises AccessDenied (`revoked`, `max_concurrent_leases`, `max_bytes_per_day`), Conflict
        (`lease_ended`, `ask_reused`), NotFound (`no_version`), Unavailable (`policy_moved`)."""
        with self._database.write() as write:
            if admission.plain(write, lease, limits):
                return _admitted(write, lease, entry)
            same = write.one(select(leases).where(leases.c.ask_hash == lease.ask_hash))
            if same is not None:
                admission.check_same_ask(lease, rows.lease_row(same))
            # A repeated ask is checked like a new one: its keys are about to be sealed again.
            admission.check_version(write, lease)
            admission.check_revocations(write, lease, lease.granted_at)
            admission.check_revision(write, lease.revision)
            if same is not None:
                return _repeated(write, same)
            admission.check_slots(write, lease, limits.max_concurrent_leases)
            admission.check_bytes(write, lease, limits.max_bytes_per_day)
            return _admitted(write, lease, entry)

    def lease(self, lease: str) -> LeaseRow:
        """Raises NotFound (`no_lease`)."""
        row = self._first(select(leases).where(leases.c.id == lease))
        if row is None:
            raise no_lease(lease)
        return rows.lease_row(row)

    def leases(
        self, *, tenant: str | None = None, model: str | None = None, running_at: int | None = None,
        limit: int = 100,
    ) -> Sequence[LeaseRow]:  # fmt: skip
        """Newest first."""
        query = select(leases).order_by(leases.c.granted_at.desc(), leases.c.id.desc())
        if tenant is not None:
            query = query.where(leases.c.tenant == tenant)
        if model is not None:
            query = query.where(leases.c.model == model)
        if running_at is not None:
            query = query.where(
                or_(leases.c.ended_at.is_(None), leases.c.ended_at > running_at),
                leases.c.expires_at > running_at,
            )
        return [rows.lease_row(row) for row in self._all(query.limit(rows.page(limit)))]

    def running_leases(self) -> int:
        """How many run now. Read by an index of those that haven't ended."""
        query = select(func.count()).select_from(leases)
        now = self._database.now()
        row = self._first(query.where(leases.c.ended_at.is_(None), leases.c.expires_at > now))
        return int(row[0]) if row else 0

    def extend(self, lease: str, expires_at: int, entry: Entry, *, late_ms: int = 0) -> LeaseRow:
        """Raises AccessDenied (`revoked`, `lease_ended`), NotFound (`no_lease`)."""
        with self._database.write() as write:
            row = rows.lease_row(_found(write, lease))
            admission.check_revocations(write, row, write.now)
            late = row.expires_at <= write.now
            too_late = late and (row.expires_at + late_ms <= write.now or _was_revoked(write, row))
            if row.ended_at is not None or too_late:
                raise AccessDenied(
                    "lease_ended",
                    f"lease {lease} has ended: {row.end_reason or 'expired'}",
                    "load the model again",
                    reason=row.end_reason or "expired",
                )
            if expires_at > row.total_until:
                raise InvalidRequest("over_total", "a lease can't run past its total time")
            write.append(entry, (_PROLONG, {"lease": lease, "until": expires_at}))
        return msgspec.structs.replace(row, expires_at=expires_at)

    def end(self, lease: str, at: int, reason: str, entry: Entry) -> None:
        """Raises NotFound (`no_lease`)."""
        with self._database.write() as write:
            if _found(write, lease).ended_at is None:
                write.append(entry, (_END, {"lease": lease, "at": at, "reason": reason}))

    def usage(self, subject: str, day: str) -> int:
        """Bytes charged to the subject on a UTC day."""
        row = self._first(admission.charge_query(subject, day))
        return int(row[0]) if row else 0


def _found(write: Write, lease: str) -> AnyRow:
    row = write.one(_LEASE, {"lease": lease})
    if row is None:
        raise no_lease(lease)
    return row


def no_lease(lease: str) -> NotFound:
    """There is no such lease."""
    return NotFound("no_lease", f"there is no lease {lease}", "see `modelvault lease list`")


def _repeated(write: Write, row: AnyRow) -> Admission:
    entry = write.one(select(entries).where(entries.c.seq == row.entry_seq))
    if entry is None:
        raise damaged("a lease has no audit entry")
    return Admission(
        lease=rows.lease_row(row), entry_id=entry.id, leaf_hash=entry.leaf_hash, repeated=True
    )


def _admitted(write: Write, lease: LeaseRow, entry: Entry) -> Admission:
    charge = {
        "lease": lease.id,
        "subject": lease.holder,
        "day": admission.day_of(lease.granted_at),
        "bytes": lease.bytes,
    }
    row = rows.lease_values(lease) | {"entry_seq": write.next_seq}
    written = write.append(
        entry,
        (_INSERT_LEASE, named(leases, row)),
        (_INSERT_CHARGE, named(charges, charge)),
    )
    return Admission(
        lease=lease, entry_id=written.id, leaf_hash=written.leaf_hash(), repeated=False
    )


def _was_revoked(write: Write, lease: LeaseRow) -> bool:
    """Whether any revocation hit the lease since it was granted, one that is over by now too:
    `revoke` ends running leases only, and an expired one in its grace isn't among them."""
    version = f"{lease.tenant}/{lease.model}@{lease.version}"
    hit = admission.standing(lease.subject, version, 0) | (
        (revocations.c.kind == "lease") & (revocations.c.target == lease.id)
    )
    return (
        write.one(select(revocations.c.id).where(hit, revocations.c.at >= lease.granted_at))
        is not None
    )
