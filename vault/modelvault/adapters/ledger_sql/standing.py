"""All that a request has to know before it is decided, by one statement and of one state."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Select,
    Table,
    and_,
    bindparam,
    select,
)

from modelvault.adapters.ledger_sql import rows
from modelvault.adapters.ledger_sql.failures import damaged
from modelvault.adapters.ledger_sql.leases import no_lease
from modelvault.adapters.ledger_sql.room import Room
from modelvault.adapters.ledger_sql.rows import AnyRow
from modelvault.adapters.ledger_sql.schema import head, keys, leases, models, tags, versions
from modelvault.catalog import LeaseRow, Standing


class Standings(Room):
    """The part of `ports.ledger.Ledger` that looks at many tables at once; documented there."""

    def standing(
        self,
        tenant: str,
        model: str,
        *,
        tag: str | None = None,
        version: int | None = None,
        digest: str | None = None,
    ) -> Standing:
        """Nothing is raised for what isn't there."""
        given: dict[str, Any] = {"tenant": tenant, "model": model}
        if tag is not None:
            found = self._database.query(_BY_TAG, given | {"tag": tag})
        elif version is not None:
            found = self._database.query(_BY_NUMBER, given | {"version": version})
        elif digest is not None:
            found = self._database.query(_BY_DIGEST, given | {"digest": digest})
        else:
            found = self._database.query(_BY_HEAD, given)
        if not found:
            raise damaged("its head is missing")
        return _standing(found[0])

    def leased(self, lease: str) -> tuple[LeaseRow, Standing]:
        """Raises NotFound (`no_lease`)."""
        found = self._database.query(_BY_LEASE, {"lease": lease})
        if not found:
            raise no_lease(lease)
        row = _part(found[0], leases)
        if row is None:
            raise damaged("a lease has no id")
        return rows.lease_row(row), _standing(found[0])


class _Part:
    """The columns of one table in a row of many."""

    def __init__(self, row: AnyRow, prefix: str) -> None:
        self._row = row
        self._prefix = prefix

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._row, self._prefix + name)


def _part(row: AnyRow, table: Table) -> AnyRow | None:
    """None where the outer join found nothing: then the primary key is NULL too."""
    part = _Part(row, f"{table.name}_")
    missing = getattr(part, next(iter(table.primary_key)).name) is None
    return None if missing else cast("AnyRow", part)


def _standing(row: AnyRow) -> Standing:
    model, version, key = (_part(row, each) for each in (models, versions, keys))
    tag = _part(row, tags) if "tags_tag" in row._mapping else None
    return Standing(
        revision=row.policy_revision,
        model=None if model is None else rows.model_row(model),
        tag=None if tag is None else rows.tag_row(tag),
        version=None if version is None else rows.version_row(version),
        key=None if key is None else rows.key_row(key),
    )


def _columns(*tables: Table) -> list[ColumnElement[Any]]:
    return [each.label(f"{table.name}_{each.name}") for table in tables for each in table.columns]


def _same(one: Table, other: Table) -> ColumnElement[bool]:
    return (one.c.tenant == other.c.tenant) & (one.c.model == other.c.model)


_ASKED_MODEL = and_(
    models.c.tenant == bindparam("tenant"),
    models.c.model == bindparam("model"),
)


def _query(
    start: FromClause, version: ColumnElement[bool], *more: Table
) -> Select[tuple[Any, ...]]:
    """The rows of `start`, with the version and its key where they are there."""
    return select(head.c.policy_revision, *_columns(models, versions, keys, *more)).select_from(
        start.outerjoin(versions, _same(versions, models) & version).outerjoin(
            keys, keys.c.artifact == versions.c.artifact
        )
    )


_OF_MODEL = head.outerjoin(models, _ASKED_MODEL)
_BY_HEAD = _query(_OF_MODEL, versions.c.version == models.c.head_version)
_BY_NUMBER = _query(_OF_MODEL, versions.c.version == bindparam("version"))
_BY_DIGEST = _query(_OF_MODEL, versions.c.digest == bindparam("digest"))
_BY_TAG = _query(
    _OF_MODEL.outerjoin(tags, _same(tags, models) & (tags.c.tag == bindparam("tag"))),
    versions.c.version == tags.c.version,
    tags,
)
_BY_LEASE = _query(
    head.join(leases, leases.c.id == bindparam("lease")).outerjoin(models, _same(models, leases)),
    versions.c.version == leases.c.version,
    leases,
)
