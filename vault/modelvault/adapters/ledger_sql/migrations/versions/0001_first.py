"""The first schema, as version 0.1 made it."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables of an empty ledger."""
    script = Path(__file__).with_name(f"0001_{op.get_bind().dialect.name}.sql")
    text = "\n".join(
        line for line in script.read_text("utf-8").splitlines() if not line.startswith("--")
    )
    for statement in text.split(";\n"):
        if statement.strip():
            op.get_bind().exec_driver_sql(statement)
