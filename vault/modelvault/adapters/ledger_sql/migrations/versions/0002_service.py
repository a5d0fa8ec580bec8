"""What a service needs: kept policies, shared counters, leases by instance, and a stamp that says
which programs may run on this schema."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text, insert

from modelvault.adapters.ledger_sql import schema

revision = "0002"
down_revision = "0001"

_TABLES = (schema.about, schema.bundles, schema.counters)


def upgrade() -> None:
    """Expand: a program of schema 1 could go on working on it, but for its own check."""
    bind = op.get_bind()
    text = Text(collation="C") if bind.dialect.name == "postgresql" else Text()
    op.add_column("leases", Column("instance", text))
    for table in _TABLES:
        table.create(bind)
    bind.execute(insert(schema.about).values(id=1, version=2, least_program=1))
