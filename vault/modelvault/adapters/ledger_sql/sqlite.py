"""All that is SQLite's alone: how a ledger's file is made, opened and recognised."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    create_engine,
    event,
    null,
    select,
    type_coerce,
)
from sqlalchemy.pool import QueuePool

from modelvault.adapters.ledger_sql import schema
from modelvault.adapters.ledger_sql.dialect import Change
from modelvault.adapters.ledger_sql.failures import damaged
from modelvault.errors import Conflict, InvalidRequest, Unavailable

MODE = 0o600
_READERS = 16


def file_of(url: URL) -> Path:
    """The database file that the URL names; InvalidRequest (`bad_ledger_url`) without one."""
    if not url.database or url.database == ":memory:" or url.query:
        raise InvalidRequest(
            "bad_ledger_url", "an SQLite ledger needs a file", "write sqlite:////path/to/ledger.db"
        )
    return Path(url.database)


def make_file(path: Path) -> None:
    """Create an empty file for this user alone, before SQLite would with the umask's mode.

    SQLite gives the -wal and -shm files beside it the same mode. An empty file that a crash left
    is taken.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, MODE))
    except OSError as error:
        raise Unavailable(
            "ledger_unavailable",
            f"can't make the ledger's file {path}: {os.strerror(error.errno or 0)}",
            "check that the folder exists, is writable and has free space",
        ) from None


def prepare(url: URL) -> None:
    """Raises Unavailable (`ledger_unavailable`) when there is no file, or others could open it."""
    make_private(file_of(url))


def single(readers: Engine) -> Engine:
    """The engine for one statement: a transaction costs nothing here."""
    return readers


def moment() -> ColumnElement[int | None]:
    """NULL: SQLite has no clock but its process's."""
    return type_coerce(null(), Integer)


def together(changes: Sequence[Change]) -> Sequence[Change]:
    """As they are: SQLite has no changes within a query, and no round trips to save."""
    return changes


def make_private(path: Path) -> None:
    """Take rights that others have on an existing ledger's files away.

    Raises Unavailable (`ledger_unavailable`) when there is no such file or that isn't possible.
    """
    try:
        _tighten(path)
        for name in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                _tighten(path.with_name(path.name + name))
    except FileNotFoundError:
        raise Unavailable(
            "ledger_unavailable",
            f"there is no ledger at {path}",
            "check the path of the vault's home; a new vault is made by `modelvault init`",
        ) from None
    except OSError as error:
        raise Unavailable(
            "ledger_unavailable",
            f"the ledger at {path} is open to others: {os.strerror(error.errno or 0)}",
            f"as its owner: chmod 600 {path}*",
        ) from None


def _tighten(path: Path) -> None:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise FileNotFoundError
    if mode & 0o077:
        path.chmod(MODE)


def readers(url: URL, timeout_s: float) -> Engine:
    """Connections that see one state for a whole transaction and can't write."""
    engine = _engine(url, timeout_s, size=_READERS)
    _on_connect(engine, timeout_s, "query_only = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def writer(url: URL, timeout_s: float) -> Engine:
    """One connection, so that a process's threads wait in a fair line and not on the file."""
    engine = _engine(url, timeout_s, size=1)
    _on_connect(engine, timeout_s, "query_only = OFF")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # The write lock at once: two transactions never both read the old state and then write.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _engine(url: URL, timeout_s: float, *, size: int) -> Engine:
    return create_engine(
        url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=timeout_s,
        hide_parameters=True,  # a statement's parameters have no place in messages and logs
        connect_args={"timeout": timeout_s, "check_same_thread": False, "isolation_level": None},
    )


def _on_connect(engine: Engine, timeout_s: float, last: str) -> None:
    pragmas = (
        f"busy_timeout = {round(timeout_s * 1000)}",  # first: the next ones may have to wait
        "journal_mode = WAL",
        "synchronous = FULL",  # a commit that was answered survives a power cut
        "fullfsync = ON",  # macOS: past the disk's own cache; elsewhere without effect
        "foreign_keys = ON",
        "secure_delete = ON",  # a dropped wrapped key doesn't stay in free pages
        "trusted_schema = OFF",
        "cell_size_check = ON",
        last,
    )

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _record: Any) -> None:  # noqa: ANN401
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()


def mark(connection: Connection, version: int) -> None:
    """Write what the file is into its header; part of the transaction that makes the tables."""
    connection.exec_driver_sql(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.exec_driver_sql(f"PRAGMA user_version = {int(version)}")


def alone(_connection: Connection) -> None:
    """Nothing: the transaction began with the file's only write lock."""


def check_empty(connection: Connection) -> None:
    """Raises Conflict (`ledger_exists`) if the database has any table."""
    if connection.exec_driver_sql("SELECT count(*) FROM sqlite_schema").scalar_one():
        raise Conflict(
            "ledger_exists", "there is a database already", "open it, or use another path"
        )


def version(connection: Connection) -> tuple[int, int]:
    """(the schema's version, the oldest version whose programs may run on it).

    Raises IntegrityError (`ledger_corrupt`) for a file that isn't a ledger.
    """
    application = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
    found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if application != schema.APPLICATION_ID or found < 1:
        raise damaged("the file isn't a ledger of modelvault")
    if not connection.dialect.has_table(connection, schema.about.name):
        return int(found), int(found)
    row = connection.execute(select(schema.about)).one_or_none()
    if row is None or row.version != found:
        raise damaged("it isn't sure about its schema's version")
    return int(found), int(row.least_program)
