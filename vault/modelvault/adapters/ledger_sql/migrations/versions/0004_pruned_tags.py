"""How high the serials of tags were that went with a version which was deleted."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Expand: a program of schema 3 goes on working on it; it deletes no version that has tags."""
    bind = op.get_bind()
    number = Integer() if bind.dialect.name == "sqlite" else BigInteger()
    op.add_column("models", Column("tag_floor", number, nullable=False, server_default="0"))
