"""Transactions: reads that see one state, writes that stand in one line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, insert, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError

from modelvault.adapters.ledger_sql import postgresql, sqlite
from modelvault.adapters.ledger_sql.dialect import Dialect
from modelvault.adapters.ledger_sql.failures import damaged, translated
from modelvault.adapters.ledger_sql.rows import AnyRow, Query
from modelvault.adapters.ledger_sql.schema import (
    VERSION,
    about,
    head,
    metadata,
)
from modelvault.adapters.ledger_sql.watchdog import Watchdog
from modelvault.adapters.ledger_sql.writing import Write
from modelvault.clock import Clock, boot_ms
from modelvault.errors import IntegrityError, InvalidRequest, ModelVaultError, Unavailable

T = TypeVar("T")
_MEASURE_MS = 5_000


class Database:
    """The connections to one ledger. Safe for many threads; not for a forked child.

    `knows` is the schema version that this program is made for.
    """

    knows = VERSION

    def __init__(self, url: str, clock: Clock, timeout_s: float) -> None:
        self._url = parse_url(url)
        self._clock = clock
        self._process = os.getpid()
        self._closed = False
        self._measured: tuple[int | None, int] = (None, 0)
        self._dialect: Dialect = dialect_of(self._url)
        # FOR UPDATE where the dialect has it: whoever holds this row is the only writer.
        # The time is read outside of the locking query: after the wait for the lock.
        locked = select(head).with_for_update().subquery()
        # A program that is too old for the schema by now must not write another row.
        least = select(about.c.least_program).scalar_subquery().label("least_program")
        self._lock = select(locked, self._dialect.moment().label("moment"), least)
        self._dialect.prepare(self._url)
        self._readers = self._dialect.readers(self._url, timeout_s)
        self._single = self._dialect.single(self._readers)
        self._writer = self._dialect.writer(self._url, timeout_s)
        self._counter = self._writer
        self._watchdog = Watchdog(2 * timeout_s)
        if self._dialect is postgresql:
            # Counters mustn't wait for a connection behind those that wait for the lock.
            self._counter = postgresql.writer(self._url, timeout_s)
            for engine in (self._readers, self._writer, self._counter):
                self._watchdog.watch(engine)
        try:
            with translated(), self._readers.begin() as connection:
                self._check_version(*self._dialect.version(connection))
        except BaseException:
            self.close()
            raise

    def now(self) -> int:
        """The database's clock, in milliseconds since the epoch: asked every few seconds, and by
        this machine's steady clock in between."""
        self._check_usable()
        measured, offset = self._measured
        if measured is None or boot_ms() - measured > _MEASURE_MS:
            with self._talk():
                row = self._once(lambda c: c.execute(select(self._dialect.moment())).scalar_one())
            if row is None:
                return self._clock()
            measured = boot_ms()
            offset = row - measured
            self._measured = (measured, offset)
        return boot_ms() + offset

    def query(self, query: Query, given: Mapping[str, Any] | None = None) -> list[AnyRow]:
        """The rows of one statement."""
        with self._talk():
            return self._once(lambda connection: list(connection.execute(query, given)))

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads one state of the whole ledger."""
        with self._talk(), self._readers.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Write]:
        """A transaction that commits when the block ends and leaves nothing when it raises."""
        with self._talk(), ExitStack() as stack:
            yield self._locked(stack)

    @contextmanager
    def counting(self) -> Iterator[Connection]:
        """A transaction of its own for counters, without the lock on `head`."""
        with self._talk(), self._counter.begin() as connection:
            yield connection

    @contextmanager
    def _talk(self) -> Iterator[None]:
        """Around whatever is asked: errors are the vault's, and tables that another program has
        changed meanwhile aren't called damaged."""
        self._check_usable()
        try:
            with translated():
                yield
        except IntegrityError:
            self._check_schema()
            raise

    def _check_schema(self) -> None:
        """Raises Unavailable (`ledger_too_new`, `ledger_too_old`) if that is what is wrong."""
        try:
            with translated(), self._readers.begin() as connection:
                found = self._dialect.version(connection)
        except ModelVaultError:
            return  # whoever asks has an error to tell already
        self._check_version(*found)

    def _check_version(self, version: int, least_program: int) -> None:
        """Raises Unavailable: `ledger_too_old`, `ledger_too_new`."""
        if version < self.knows:
            raise Unavailable(
                "ledger_too_old",
                f"the ledger has schema version {version}; this program needs {self.knows}",
                "make a copy of it, then run `modelvault migrate schema`",
            )
        if least_program > self.knows:
            raise Unavailable(
                "ledger_too_new",
                f"the ledger has schema version {version}; this program knows {self.knows}",
                "upgrade modelvault on this machine",
            )

    def _once(self, ask: Callable[[Connection], T]) -> T:
        """Ask on a connection; on another one if it turns out that the server had dropped it."""
        try:
            with self._single.connect() as connection:
                return ask(connection)
        except DBAPIError as lost:
            if not lost.connection_invalidated:
                raise
        with self._single.connect() as connection:
            return ask(connection)

    def _locked(self, stack: ExitStack) -> Write:
        """Begin a transaction that holds the write lock. Nothing was written yet: where the server
        had dropped the connection, another one will do."""
        try:
            return self._begin(stack)
        except DBAPIError as lost:
            if not lost.connection_invalidated:
                raise
        stack.close()
        return self._begin(stack)

    def _begin(self, stack: ExitStack) -> Write:
        connection = stack.enter_context(self._writer.begin())
        row = connection.execute(self._lock).one_or_none()
        if row is None or row.least_program is None:
            raise damaged("its head or its schema's version is missing")
        self._check_version(max(row.least_program, self.knows), row.least_program)
        now = self._clock() if row.moment is None else row.moment
        return Write(connection, self._dialect, row.seq, row.policy_revision, now)

    def close(self) -> None:
        """Close the connections. Idempotent."""
        self._closed = True
        if self._process == os.getpid():
            self._watchdog.close()
        for engine in (self._readers, self._writer, self._counter):
            engine.dispose(close=self._process == os.getpid())

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
    if parsed is None or parsed.drivername not in _DIALECTS:
        raise InvalidRequest(
            "bad_ledger_url",
            "the ledger's URL isn't one that this program knows",
            "write sqlite:////path/to/ledger.db, or postgresql+psycopg://user@host/database",
        )
    return parsed


def with_password(url: str, password: str | None) -> str:
    """The URL with a password in it: to be opened, and never to be shown."""
    parsed = parse_url(url)
    if password is None:
        return url
    return parsed.set(password=password).render_as_string(hide_password=False)


def dialect_of(url: URL) -> Dialect:
    """What is peculiar to the database that the URL names."""
    return _DIALECTS[url.drivername]


def create(url: str, timeout_s: float) -> None:
    """Make the ledger's tables in one transaction. Raises Conflict (`ledger_exists`)."""
    parsed = parse_url(url)
    dialect = dialect_of(parsed)
    if dialect is sqlite:
        sqlite.make_file(sqlite.file_of(parsed))
    engine = dialect.writer(parsed, timeout_s)
    try:
        with translated(), engine.begin() as connection:
            dialect.alone(connection)
            dialect.check_empty(connection)
            metadata.create_all(connection)
            connection.execute(insert(head).values(id=1, seq=0, policy_revision=None))
            connection.execute(insert(about).values(id=1, version=VERSION, least_program=VERSION))
            dialect.mark(connection, VERSION)
    finally:
        engine.dispose()


def check_absent(url: str, timeout_s: float) -> None:
    """What `create` would refuse, found out without making anything. Raises Conflict
    (`ledger_exists`)."""
    parsed = parse_url(url)
    dialect = dialect_of(parsed)
    if dialect is sqlite and not sqlite.file_of(parsed).exists():
        return
    engine = dialect.readers(parsed, timeout_s)
    try:
        with translated(), engine.begin() as connection:
            dialect.check_empty(connection)
    finally:
        engine.dispose()


_DIALECTS: dict[str, Dialect] = {
    "sqlite": sqlite,
    "sqlite+pysqlite": sqlite,
    "postgresql+psycopg": postgresql,
}
