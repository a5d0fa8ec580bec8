"""Kept policies, and counters that all brokers share."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects import sqlite as lite

from modelvault.adapters.ledger_sql.room import Room
from modelvault.adapters.ledger_sql.schema import bundles, counters
from modelvault.errors import Conflict, NotFound

KEPT_WINDOWS = 3


class Bundles(Room):
    """`ports.policy.PolicyShelf` and `Ledger.count`; documented there."""

    def put_bundle(self, revision: str, bundle: bytes) -> None:
        """Raises Conflict (`bundle_exists`) if other bytes stand there."""
        with self._database.write() as write:
            row = write.one(select(bundles).where(bundles.c.revision == revision))
            if row is None:
                write.run(
                    insert(bundles).values(revision=revision, content=bundle, kept_at=write.now)
                )
            elif row.content != bundle:
                raise Conflict(
                    "bundle_exists", "another policy is kept under that revision", "read it again"
                )

    def bundle(self, revision: str) -> bytes:
        """Raises NotFound (`no_bundle`)."""
        row = self._first(select(bundles.c.content).where(bundles.c.revision == revision))
        if row is None:
            raise NotFound("no_bundle", "no policy of that revision is kept", "publish it again")
        return bytes(row.content)

    def bundles(self) -> Sequence[tuple[str, int]]:
        """Newest first."""
        query = select(bundles.c.revision, bundles.c.kept_at).order_by(
            bundles.c.kept_at.desc(), bundles.c.revision
        )
        return [(row.revision, row.kept_at) for row in self._all(query)]

    def count(self, bucket: str, window: int, by: int = 1) -> int:
        """One statement, outside the line of writers: counters are in no audit entry."""
        values = {"bucket": bucket, "window": window, "total": by}
        place = [counters.c.bucket, counters.c.window]
        changes = {"total": counters.c.total + by}
        old = delete(counters).where(counters.c.window < window - KEPT_WINDOWS)
        with self._database.counting() as connection:
            kind = lite.insert if connection.dialect.name == "sqlite" else pg.insert
            statement = (
                kind(counters)
                .values(values)
                .on_conflict_do_update(index_elements=place, set_=changes)
                .returning(counters.c.total)
            )
            total = int(connection.execute(statement).scalar_one())
            if total == by:  # the first of its window tidies up after the older ones
                connection.execute(old)
        return total
