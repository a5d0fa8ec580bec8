"""What is peculiar to one kind of database: `sqlite` and `postgresql` have this shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import URL, ColumnElement, Connection, Delete, Engine, Insert, Update

# A statement that is made once and kept, and its values by name.
Change = tuple[Insert | Update | Delete, Mapping[str, Any]]


class Dialect(Protocol):
    """Errors are as the drivers raise them, but for those that the functions name themselves."""

    def prepare(self, url: URL) -> None:
        """Before the first connection: what must be there, and closed to others."""
        ...

    def readers(self, url: URL, timeout_s: float) -> Engine:
        """Connections that see one state for a whole transaction and can't write."""
        ...

    def single(self, readers: Engine) -> Engine:
        """The same connections, for one statement at a time."""
        ...

    def writer(self, url: URL, timeout_s: float) -> Engine:
        """Connections whose transactions stand in one line from the lock on `head` on."""
        ...

    def moment(self) -> ColumnElement[int | None]:
        """The database's own time in milliseconds since the epoch; NULL where it has none."""
        ...

    def alone(self, connection: Connection) -> None:
        """Wait until nobody else changes the schema; holds until the transaction ends."""
        ...

    def together(self, changes: Sequence[Change]) -> Sequence[Change]:
        """The changes of one transaction, in as few statements as can be. What they name doesn't
        collide, and none of them reads what another one writes."""
        ...

    def check_empty(self, connection: Connection) -> None:
        """Raises Conflict (`ledger_exists`)."""
        ...

    def mark(self, connection: Connection, version: int) -> None:
        """Write down what this database is, beside what `about` says; part of the transaction that
        makes or changes the tables."""
        ...

    def version(self, connection: Connection) -> tuple[int, int]:
        """(the schema's version, the oldest version whose programs may run on it).

        Raises IntegrityError (`ledger_corrupt`), Unavailable (`ledger_unavailable`)."""
        ...
