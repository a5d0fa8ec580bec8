"""What the parts of the ledger share: the database, and the words for what isn't there."""

from __future__ import annotations

from sqlalchemy import BindParameter, ColumnElement, Table, and_, select

from modelvault.adapters.ledger_sql.database import Database
from modelvault.adapters.ledger_sql.rows import AnyRow, Query
from modelvault.adapters.ledger_sql.schema import models
from modelvault.adapters.ledger_sql.writing import Write
from modelvault.errors import NotFound


class Room:
    """A part of the ledger over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _first(self, query: Query) -> AnyRow | None:
        return next(iter(self._database.query(query.limit(1))), None)

    def _all(self, query: Query) -> list[AnyRow]:
        return self._database.query(query)


def of_model(
    table: Table, tenant: str | BindParameter[str], model: str | BindParameter[str]
) -> ColumnElement[bool]:
    """The rows of one model in `table`."""
    return and_(table.c.tenant == tenant, table.c.model == model)


def standing_model(write: Write, tenant: str, model: str) -> AnyRow:
    """A model that isn't hidden. Raises NotFound (`no_model`)."""
    row = write.one(select(models).where(of_model(models, tenant, model)))
    if row is None or row.hidden_at is not None:
        raise no_model(tenant, model)
    return row


def no_model(tenant: str, model: str) -> NotFound:
    """There is no such model, or it is hidden."""
    return NotFound(
        "no_model", f"there is no model {tenant}/{model}", "check the name, or create it first"
    )


def no_version(tenant: str, model: str, version: object) -> NotFound:
    """There is no such version, or it is hidden."""
    return NotFound(
        "no_version", f"{tenant}/{model} has no version {version}", "list its versions with show"
    )
