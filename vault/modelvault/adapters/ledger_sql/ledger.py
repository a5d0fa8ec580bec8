"""`SqlLedger`: `ports.ledger.Ledger` over SQLAlchemy Core."""

from __future__ import annotations

from typing import Self

from modelvault.adapters.ledger_sql import database
from modelvault.adapters.ledger_sql.bundles import Bundles
from modelvault.adapters.ledger_sql.imports import Imports
from modelvault.adapters.ledger_sql.keys import Keys
from modelvault.adapters.ledger_sql.leases import Leases
from modelvault.adapters.ledger_sql.log import Log
from modelvault.adapters.ledger_sql.models import Models
from modelvault.adapters.ledger_sql.revocations import Revocations
from modelvault.adapters.ledger_sql.standing import Standings
from modelvault.adapters.ledger_sql.unchanged import Fingerprints
from modelvault.adapters.ledger_sql.uploads import Uploads
from modelvault.adapters.ledger_sql.versions import Versions
from modelvault.clock import Clock

DEADLINE_S = 5.0


class SqlLedger(
    Standings,
    Models,
    Uploads,
    Versions,
    Imports,
    Fingerprints,
    Keys,
    Leases,
    Revocations,
    Bundles,
    Log,
):
    """A ledger in an SQLite file (`sqlite:////path/ledger.db`) or in PostgreSQL
    (`postgresql+psycopg://user@host/database`).

    Safe for many threads of one process and for many processes, on PostgreSQL on many machines; a
    forked child must open its own. All writers stand in one line: entries get their seq under the
    write lock, so there are no gaps, and no two transactions see the same old state. `deadline_s`
    is how long a call waits for the lock before it is Unavailable (`ledger_unavailable`).
    """

    def __init__(self, url: str, clock: Clock, deadline_s: float = DEADLINE_S) -> None:
        """Open a ledger that exists.

        Raises InvalidRequest (`bad_ledger_url`), Unavailable (`ledger_unavailable`,
        `ledger_too_new`) and IntegrityError (`ledger_corrupt`).
        """
        super().__init__(database.Database(url, clock, deadline_s))

    @classmethod
    def create(cls, url: str, clock: Clock, deadline_s: float = DEADLINE_S) -> Self:
        """Make a new, empty ledger, in one transaction, and open it.

        A missing ledger is never made on the way: an empty one knows no revocations. Raises
        Conflict (`ledger_exists`) and what opening raises.
        """
        database.create(url, deadline_s)
        return cls(url, clock, deadline_s)

    @staticmethod
    def check_absent(url: str, deadline_s: float = DEADLINE_S) -> None:
        """Whether `create` would find room there; changes nothing. Raises Conflict
        (`ledger_exists`) and Unavailable."""
        database.check_absent(url, deadline_s)

    def now(self) -> int:
        """The database's clock, in milliseconds since the epoch; for SQLite the process's."""
        return self._database.now()

    def close(self) -> None:
        """Close all connections. Idempotent; every later call is Unavailable."""
        self._database.close()
