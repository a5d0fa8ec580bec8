"""Wrapped keys."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert, select, update

from modelvault.adapters.ledger_sql import rows
from modelvault.adapters.ledger_sql.room import Room, no_model, of_model, standing_model
from modelvault.adapters.ledger_sql.rows import AnyRow
from modelvault.adapters.ledger_sql.schema import keys, models
from modelvault.catalog import KeyRow
from modelvault.errors import Conflict, NotFound
from modelvault.record import Entry


class Keys(Room):
    """The part of `ports.ledger.Ledger` that keeps wrapped keys; documented there."""

    def key(self, artifact: str) -> KeyRow:
        """Raises NotFound (`no_key`)."""
        row = self._first(select(keys).where(keys.c.artifact == artifact))
        if row is None:
            raise _no_key(artifact)
        return rows.key_row(row)

    def keep_key(self, key: KeyRow, entry: Entry) -> KeyRow:
        """Raises Conflict (`kek_moved`), NotFound (`no_model`)."""
        with self._database.write() as write:
            stands = write.one(select(keys).where(keys.c.artifact == key.artifact))
            if stands is not None:
                return rows.key_row(stands)
            check_floor(standing_model(write, key.tenant, key.model), key)
            write.run(insert(keys).values(rows.key_values(key)))
            write.append(entry)
        return key

    def keys_below(
        self, tenant: str, model: str, kek_version: int, limit: int = 200
    ) -> Sequence[KeyRow]:
        """Wrapped keys under older KEK versions, the oldest first."""
        query = (
            select(keys)
            .where(of_model(keys, tenant, model), keys.c.kek_version < kek_version)
            .order_by(keys.c.kek_version, keys.c.artifact)
            .limit(rows.page(limit))
        )
        return [rows.key_row(row) for row in self._all(query)]

    def raise_floor(self, tenant: str, model: str, kek_version: int, entry: Entry) -> None:
        """Raises NotFound (`no_model`)."""
        with self._database.write() as write:
            row = write.one(select(models.c.kek_floor).where(of_model(models, tenant, model)))
            if row is None:
                raise no_model(tenant, model)
            if kek_version > row.kek_floor:
                write.run(
                    update(models)
                    .where(of_model(models, tenant, model))
                    .values(kek_floor=kek_version)
                )
                write.append(entry)

    def swap_key(self, row: KeyRow, expected: bytes, entry: Entry | None) -> None:
        """Raises Conflict (`key_moved`), NotFound (`no_key`)."""
        same = (keys.c.artifact == row.artifact) & of_model(keys, row.tenant, row.model)
        with self._database.write() as write:
            stands = write.one(select(keys).where(same))
            if stands is None:
                raise _no_key(row.artifact)
            if stands.wrapped != expected or row.kek_version < stands.kek_version:
                raise Conflict(
                    "key_moved",
                    f"the wrapped key of artifact {row.artifact} was replaced meanwhile",
                    "read it again",
                )
            write.run(
                update(keys).where(same).values(wrapped=row.wrapped, kek_version=row.kek_version)
            )
            if entry is not None:
                write.append(entry)


def check_floor(model: AnyRow, key: KeyRow) -> None:
    """Raises Conflict (`kek_moved`) for a key that a rotation would have to find again."""
    if key.kek_version < model.kek_floor:
        raise Conflict(
            "kek_moved",
            f"the key is under KEK version {key.kek_version}, the model is at {model.kek_floor}",
            "ask again: the model's key was rotated just now",
        )


def _no_key(artifact: str) -> NotFound:
    return NotFound(
        "no_key",
        f"there is no wrapped key of artifact {artifact}",
        "it may have been removed",
    )
