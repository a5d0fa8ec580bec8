"""Bringing a ledger's schema up to this program's, by alembic, in one transaction.

Changes come in two steps, so that brokers of two versions can run on one schema: first what the
newer one needs is added (expand), and only when no older one runs any more is what nobody needs
taken away (contract). `about.least_program` names the oldest schema version whose programs may
still run: a migration that only adds leaves it as it is, one that takes away raises it. Then an
older program neither starts nor, where one still runs, writes.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, update

from modelvault.adapters.ledger_sql import schema
from modelvault.adapters.ledger_sql.database import dialect_of, parse_url
from modelvault.adapters.ledger_sql.failures import translated

MIGRATIONS = Path(__file__).with_name("migrations")
DEADLINE_S = 60.0


def migrate(url: str, scripts: Path = MIGRATIONS) -> tuple[int, int]:
    """(schema version before, after). Nothing changes when it fails half-way, or is up to date.

    Raises Unavailable (`ledger_unavailable`, `ledger_too_new`), IntegrityError (`ledger_corrupt`).
    """
    parsed = parse_url(url)
    dialect = dialect_of(parsed)
    dialect.prepare(parsed)
    engine = dialect.writer(parsed, DEADLINE_S)
    try:
        with translated(), engine.begin() as connection:
            dialect.alone(connection)
            before = dialect.version(connection)[0]
            after = _upgraded(connection, before, scripts)
            if after > before:
                dialect.mark(connection, after)
        return before, after
    finally:
        engine.dispose()


def _upgraded(connection: Connection, before: int, scripts: Path) -> int:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    head = ScriptDirectory.from_config(config).get_current_head() or "0000"
    if int(head) <= before:
        return before
    command.stamp(config, f"{before:04}")
    command.upgrade(config, "head")
    connection.execute(update(schema.about).values(version=int(head)))
    return int(head)
