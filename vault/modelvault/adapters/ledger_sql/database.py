"""Transactions: reads that see one state, writes that stand in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import URL, Connection, insert, make_url, select, update
from sqlalchemy.exc import ArgumentError

from modelvault import canonical
from modelvault.adapters.ledger_sql import sqlite
from modelvault.adapters.ledger_sql.failures import damaged, translated
from modelvault.adapters.ledger_sql.rows import MAX_ENTRY, AnyRow, Query
from modelvault.adapters.ledger_sql.schema import entries, head, metadata
from modelvault.clock import Clock
from modelvault.errors import InvalidRequest, Unavailable
from modelvault.record import Entry


class Write:
    """One writing transaction, which holds the ledger's only write lock.

    `now` was read after the lock was had. `revision` is the policy revision that counts.
    """

    def __init__(self, connection: Connection, now: int) -> None:
        self.now = now
        self._connection = connection
        # FOR UPDATE where the dialect has it: whoever holds this row is the only writer.
        row = connection.execute(select(head).with_for_update()).one_or_none()
        if row is None:
            raise damaged("its head is missing")
        self._seq: int = row.seq
        self.revision: str | None = row.policy_revision

    def one(self, query: Query) -> AnyRow | None:
        """The query's first row."""
        return self._connection.execute(query).first()

    def all(self, query: Query) -> list[AnyRow]:
        """The query's rows."""
        return list(self._connection.execute(query))

    def run(self, statement: Any, rows: Any = None) -> int:  # noqa: ANN401
        """Execute a change; the number of rows that it touched."""
        return self._connection.execute(statement, rows).rowcount

    def append(self, entry: Entry) -> Entry:
        """Give the entry the next seq and write it. Raises InvalidRequest for one that couldn't be
        read back."""
        placed = msgspec.structs.replace(entry, seq=self._seq + 1)
        document = canonical.encode(placed)
        canonical.decode(document, Entry, limit=MAX_ENTRY, what="audit entry", error=InvalidRequest)
        self.run(
            insert(entries).values(
                seq=placed.seq,
                id=placed.id,
                tenant=placed.tenant,
                model=placed.model,
                document=document,
                leaf_hash=placed.leaf_hash(),
            )
        )
        self.run(update(head).values(seq=placed.seq))
        self._seq = placed.seq
        return placed


class Database:
    """The connections to one ledger. Safe for many threads; not for a forked child."""

    def __init__(self, url: str, clock: Clock, timeout_s: float) -> None:
        self._url = parse_url(url)
        self._clock = clock
        self._process = os.getpid()
        self._closed = False
        sqlite.make_private(sqlite.file_of(self._url))
        self._readers = sqlite.readers(self._url, timeout_s)
        self._writer = sqlite.writer(self._url, timeout_s)
        with self.read() as connection:
            sqlite.check_stamp(connection)

    def now(self) -> int:
        """SQLite has no clock but its process's; milliseconds since the epoch."""
        return self._clock()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads one state of the whole ledger."""
        self._check_usable()
        with translated(), self._readers.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Write]:
        """A transaction that commits when the block ends and leaves nothing when it raises."""
        self._check_usable()
        with translated(), self._writer.begin() as connection:
            yield Write(connection, self.now())

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._closed = True
        self._readers.dispose(close=self._process == os.getpid())
        self._writer.dispose(close=self._process == os.getpid())

    def _check_usable(self) -> None:
        if self._closed:
            raise Unavailable("ledger_unavailable", "this ledger was closed", "connect again")
        if self._process != os.getpid():
            # SQLite's locks don't survive a fork: two processes would write as one.
            raise Unavailable(
                "ledger_unavailable",
                "this ledger was opened before the process forked",
                "connect again in the child process",
            )


def parse_url(url: str) -> URL:
    """Raises InvalidRequest (`bad_ledger_url`); the message never repeats the URL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername not in {"sqlite", "sqlite+pysqlite"}:
        raise InvalidRequest(
            "bad_ledger_url",
            "the ledger's URL isn't one that this program knows",
            "write sqlite:////path/to/ledger.db",
        )
    return parsed


def create(url: str, timeout_s: float) -> None:
    """Make the file and the tables in one transaction. Raises Conflict (`ledger_exists`)."""
    parsed = parse_url(url)
    sqlite.make_file(sqlite.file_of(parsed))
    engine = sqlite.writer(parsed, timeout_s)
    try:
        with translated(), engine.begin() as connection:
            sqlite.check_empty(connection)
            metadata.create_all(connection)
            connection.execute(insert(head).values(id=1, seq=0, policy_revision=None))
            sqlite.stamp(connection)
    finally:
        engine.dispose()
