"""The audit log, and the policy revision that counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, select, update

from modelvault.adapters.ledger_sql import rows
from modelvault.adapters.ledger_sql.failures import damaged
from modelvault.adapters.ledger_sql.room import Room
from modelvault.adapters.ledger_sql.schema import entries, head
from modelvault.record import Entry


class Log(Room):
    """The part of `ports.ledger.Ledger` that keeps the log; documented there."""

    def policy_revision(self) -> str | None:
        """None before the first publication."""
        row = self._first(select(head.c.policy_revision))
        if row is None:
            raise damaged("its head is missing")
        revision: str | None = row.policy_revision
        return revision

    def set_policy_revision(self, revision: str, entry: Entry) -> None:
        """From now on admission takes decisions of this revision only."""
        with self._database.write() as write:
            write.run(update(head).values(policy_revision=revision))
            write.append(entry)

    def append(self, entry: Entry) -> Entry:
        """An entry by itself."""
        with self._database.write() as write:
            return write.append(entry)

    def entries(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        tenant: str | None = None,
        model: str | None = None,
    ) -> Sequence[Entry]:
        """By seq."""
        query = _of(tenant, model).where(entries.c.seq > after).order_by(entries.c.seq)
        return [rows.entry_row(row) for row in self._all(query.limit(rows.page(limit)))]

    def last_entries(
        self,
        *,
        before: int | None = None,
        limit: int = 100,
        tenant: str | None = None,
        model: str | None = None,
    ) -> Sequence[Entry]:
        """By seq too; read from the end."""
        query = _of(tenant, model).order_by(entries.c.seq.desc())
        if before is not None:
            query = query.where(entries.c.seq < before)
        found = self._all(query.limit(rows.page(limit)))
        return [rows.entry_row(row) for row in reversed(found)]

    def hashes(self, first: int, last: int) -> Sequence[bytes]:
        """Raises IntegrityError (`ledger_corrupt`) when one of them is missing."""
        query = (
            select(entries.c.seq, entries.c.leaf_hash)
            .where(entries.c.seq.between(first, last))
            .order_by(entries.c.seq)
        )
        found = self._all(query)
        if any(row.seq != first + place for place, row in enumerate(found)):
            raise damaged("its audit log has a gap")
        return [row.leaf_hash for row in found]


def _of(tenant: str | None, model: str | None) -> Select[Any]:
    query = select(entries)
    if tenant is not None:
        query = query.where(entries.c.tenant == tenant)
    return query if model is None else query.where(entries.c.model == model)
