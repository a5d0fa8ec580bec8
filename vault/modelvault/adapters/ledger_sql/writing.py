"""One writing transaction: what it reads, the entry that it appends, and the changes with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, update

from modelvault import canonical
from modelvault.adapters.ledger_sql.dialect import Change, Dialect
from modelvault.adapters.ledger_sql.rows import MAX_ENTRY, AnyRow, Query
from modelvault.adapters.ledger_sql.schema import entries, head, inserting, named
from modelvault.errors import InvalidRequest
from modelvault.record import Entry

_INSERT_ENTRY = inserting(entries)
_MOVE_HEAD = update(head).values(seq=bindparam("head_seq"))


class Write:
    """One writing transaction, which holds the ledger's only write lock.

    `now` was read after the lock was had. `revision` is the policy revision that counts.
    """

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        seq: int,
        revision: str | None,
        now: int,
    ) -> None:
        self.now = now
        self.revision = revision
        self._connection = connection
        self._dialect = dialect
        self._seq = seq

    @property
    def next_seq(self) -> int:
        """The seq that the next entry gets."""
        return self._seq + 1

    def one(self, query: Query, given: Mapping[str, Any] | None = None) -> AnyRow | None:
        """The query's first row."""
        return self._connection.execute(query, given).first()

    def all(self, query: Query) -> list[AnyRow]:
        """The query's rows."""
        return list(self._connection.execute(query))

    def run(self, statement: Any, rows: Any = None) -> int:  # noqa: ANN401
        """Execute a change; the number of rows that it touched."""
        return self._connection.execute(statement, rows).rowcount

    def append(self, entry: Entry, *changes: Change) -> Entry:
        """Give the entry the next seq and write it, and with it the changes that it tells of: in
        one round trip where the database can. Raises InvalidRequest for an entry that couldn't be
        read back."""
        placed = msgspec.structs.replace(entry, seq=self.next_seq)
        document = canonical.encode(placed)
        canonical.decode(document, Entry, limit=MAX_ENTRY, what="audit entry", error=InvalidRequest)
        told = {
            "seq": placed.seq,
            "id": placed.id,
            "tenant": placed.tenant,
            "model": placed.model,
            "document": document,
            "leaf_hash": hashlib.sha256(b"\0" + document).digest(),
        }
        together = (
            (_INSERT_ENTRY, named(entries, told)),
            *changes,
            (_MOVE_HEAD, {"head_seq": placed.seq}),
        )
        for statement, given in self._dialect.together(together):
            self._connection.execute(statement, given)
        self._seq = placed.seq
        return placed
