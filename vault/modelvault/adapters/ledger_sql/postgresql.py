"""All that is PostgreSQL's alone: how its connections behave, its clock, and how a ledger is known.

Any number of brokers use one database. Writers stand in one line by locking the one row of `head`
first, as on SQLite: after the lock every statement sees all that was committed before, entries get
no gaps, and no two transactions decide on the same old state. A transaction whose connection is
lost while it commits may or may not have happened: that is `ledger_unavailable`, and asking again
finds out, because every row's id was made before (a repeated ask is the same lease, a repeated
commit the same version).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    ColumnElement,
    Connection,
    Delete,
    Engine,
    Insert,
    Update,
    cast,
    create_engine,
    extract,
    func,
    select,
    text,
)
from sqlalchemy.pool import QueuePool

from modelvault.adapters.ledger_sql import schema
from modelvault.adapters.ledger_sql.dialect import Change
from modelvault.adapters.ledger_sql.failures import damaged
from modelvault.errors import Conflict, Unavailable

READERS = 16
WRITERS = 4  # they wait for one another anyway; more would only hold connections


def prepare(url: URL) -> None:
    """Nothing: the database exists, and its own rights keep others out."""


def readers(url: URL, timeout_s: float) -> Engine:
    """Connections that see one state for a whole transaction and can't write."""
    return _engine(url, timeout_s, READERS, "REPEATABLE READ", default_transaction_read_only="on")


def single(readers: Engine) -> Engine:
    """The same connections, for one statement: without the round trips that begin and end."""
    return readers.execution_options(isolation_level="AUTOCOMMIT")


def writer(url: URL, timeout_s: float) -> Engine:
    """Connections whose first statement locks `head`. READ COMMITTED, so that what a transaction
    reads after it had to wait for the lock is what stands then."""
    return _engine(url, timeout_s, WRITERS, "READ COMMITTED")


def moment() -> ColumnElement[int | None]:
    """The server's clock: one time for all brokers."""
    seconds = extract("epoch", func.clock_timestamp())
    return cast(seconds * 1000, BigInteger)


def alone(connection: Connection) -> None:
    """A lock for changes of the schema alone: brokers go on meanwhile."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": schema.APPLICATION_ID})


def together(changes: Sequence[Change]) -> Sequence[Change]:
    """One statement: the last change, and the others as queries before it (PostgreSQL's manual,
    7.8.4). All see the same state; keys to rows of one another are checked at its end."""
    given = {name: value for _, values in changes for name, value in values.items()}
    return [(_folded(tuple(statement for statement, _ in changes)), given)]


@lru_cache(64)
def _folded(statements: tuple[Insert | Update | Delete, ...]) -> Insert | Update | Delete:
    *before, last = statements
    ctes = [each.cte(f"change_{number}") for number, each in enumerate(before)]
    return last.add_cte(*ctes)


def check_empty(connection: Connection) -> None:
    """Raises Conflict (`ledger_exists`) if the database holds a ledger."""
    if connection.dialect.has_table(connection, schema.head.name):
        raise Conflict(
            "ledger_exists", "the database holds a ledger already", "open it, or use another one"
        )


def mark(_connection: Connection, _version: int) -> None:
    """Nothing: `about` says it all."""


def version(connection: Connection) -> tuple[int, int]:
    """(the schema's version, the oldest version whose programs may run on it).

    Raises Unavailable (`ledger_unavailable`) for a database without a ledger.
    """
    if not connection.dialect.has_table(connection, schema.head.name):
        raise Unavailable(
            "ledger_unavailable",
            "there is no ledger in this database",
            "make one with `modelvault init`; check the database's name and the search path",
        )
    if connection.exec_driver_sql("SHOW server_encoding").scalar_one() != "UTF8":
        raise damaged("the database isn't in UTF-8")
    if not connection.dialect.has_table(connection, schema.about.name):
        return 1, 1  # the first schema didn't say
    row = connection.execute(select(schema.about)).one_or_none()
    if row is None:
        raise damaged("it doesn't say its schema's version")
    return int(row.version), int(row.least_program)


def _engine(url: URL, timeout_s: float, size: int, isolation: Any, **more: str) -> Engine:  # noqa: ANN401
    milliseconds = round(timeout_s * 1000)
    session = {
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        # A broker that dies between two statements mustn't hold the line up.
        "idle_in_transaction_session_timeout": milliseconds,
        "TimeZone": "UTC",
        **more,
    }
    options = " ".join(f"-c {name}={value}" for name, value in session.items())
    given = url.query.get("options")
    return create_engine(
        url.difference_update_query(["options"]),
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=timeout_s,
        pool_recycle=1800,
        pool_use_lifo=True,  # few connections, whose statements are prepared and planned already
        isolation_level=isolation,
        hide_parameters=True,  # a statement's parameters have no place in messages and logs
        connect_args={
            "connect_timeout": max(2, round(timeout_s)),
            "application_name": "modelvault",
            "client_encoding": "UTF8",
            "options": f"{options} {given}" if isinstance(given, str) else options,
            # A server whose machine vanished is noticed, also while nothing is asked of it.
            "keepalives": 1,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": milliseconds,
        },
    )
