"""An empty ledger in SQLite, copied: to make its tables takes longer than most tests do."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from modelvault.adapters.ledger_sql import SqlLedger
from modelvault.clock import Clock, utc_ms


def fresh_ledger(path: Path, clock: Clock, deadline_s: float = 5.0) -> SqlLedger:
    """What `SqlLedger.create` makes there, opened."""
    path.write_bytes(_made())
    return SqlLedger(f"sqlite:///{path}", clock, deadline_s)


@functools.cache
def _made() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ledger.db")
        SqlLedger.create(f"sqlite:///{path}", utc_ms).close()
        return path.read_bytes()
