"""By what a push tells that a file is unchanged, and which version it is compared with."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer

from modelvault.adapters.ledger_sql import schema

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Expand: a program of schema 2 goes on working on it, and its versions are just compared with
    nothing."""
    bind = op.get_bind()
    number = Integer() if bind.dialect.name == "sqlite" else BigInteger()
    op.add_column("uploads", Column("base", number))
    schema.fingerprints.create(bind)
