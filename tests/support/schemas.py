"""Ledgers of other schemas than today's: the first one with rows, and ones that are yet to come."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, MetaData, create_engine, delete, insert, select, text

from modelvault.adapters.ledger_sql import schema, sqlite
from modelvault.adapters.ledger_sql.database import parse_url
from modelvault.adapters.ledger_sql.migrating import MIGRATIONS

NOW, NEXT, AFTER = (f"{schema.VERSION + more:04}" for more in range(3))

EXPAND = f"""
from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "{NEXT}"
down_revision = "{NOW}"

def upgrade():
    op.add_column("leases", Column("note", Text()))
    op.create_table("approvals", Column("id", Text(), primary_key=True), Column("at", BigInteger()))
    op.create_index("ix_leases_note", "leases", ["note"])
"""
CONTRACT = f"""
from alembic import op

revision = "{AFTER}"
down_revision = "{NEXT}"

def upgrade():
    op.execute("UPDATE about SET least_program = {int(NEXT)}")
    op.drop_column("leases", "instance")
"""  # noqa: S608 - ours, and for a database of a test
FAILING = f"""
from alembic import op
from sqlalchemy import Column, Text

revision = "{AFTER}"
down_revision = "{NEXT}"

def upgrade():
    op.add_column("leases", Column("other", Text()))
    op.execute("SELECT nothing FROM nowhere")
"""  # noqa: S608


def later(folder: Path, *steps: str) -> Path:
    """The migrations of a later program: ours, and these after them."""
    scripts = folder / f"migrations-{len(steps)}"
    shutil.copytree(MIGRATIONS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    for number, step in enumerate(steps, schema.VERSION + 1):
        (scripts / "versions" / f"{number:04}_later.py").write_text(step)
    return scripts


def first(url: str, of: str) -> None:
    """Make a ledger of schema 1 at `url`, as version 0.1 made it, with the rows of the ledger at
    `of`."""
    parsed = parse_url(url)
    if parsed.database and url.startswith("sqlite"):
        sqlite.make_file(Path(parsed.database))
    source, made = create_engine(of), create_engine(url)
    try:
        with source.connect() as reading, made.begin() as writing:
            _run(writing, MIGRATIONS / "versions" / f"0001_{writing.dialect.name}.sql")
            if writing.dialect.name == "sqlite":
                sqlite.mark(writing, 1)
            _copy(reading, writing)
    finally:
        source.dispose()
        made.dispose()


def differences(url: str) -> Sequence[object]:
    """What alembic would change to make the database into what the program's tables say."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return compare_metadata(MigrationContext.configure(connection), schema.metadata)
    finally:
        engine.dispose()


def tables(url: str) -> dict[str, list[str]]:
    """Columns by table."""
    engine = create_engine(url)
    try:
        found = MetaData()
        found.reflect(engine)
        return {name: [column.name for column in each.c] for name, each in found.tables.items()}
    finally:
        engine.dispose()


def _run(connection: Connection, script: Path) -> None:
    lines = script.read_text("utf-8").splitlines()
    told = "\n".join(line for line in lines if not line.startswith("--"))
    for statement in told.split(";\n"):
        if statement.strip():
            connection.execute(text(statement))


def _copy(reading: Connection, writing: Connection) -> None:
    old = MetaData()
    old.reflect(writing)
    writing.execute(delete(old.tables["head"]))
    for name in [table.name for table in schema.metadata.sorted_tables if table.name in old.tables]:
        columns = [schema.metadata.tables[name].c[column.name] for column in old.tables[name].c]
        rows = [dict(row._mapping) for row in reading.execute(select(*columns))]
        if rows:
            writing.execute(insert(old.tables[name]), rows)
