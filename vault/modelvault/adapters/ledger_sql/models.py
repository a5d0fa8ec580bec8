"""Models and tags."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, insert, select, update

from modelvault.adapters.ledger_sql import rows
from modelvault.adapters.ledger_sql.room import Room, no_model, no_version, of_model, standing_model
from modelvault.adapters.ledger_sql.schema import models, tags, versions
from modelvault.catalog import ModelRow, TagRow
from modelvault.errors import Conflict, NotFound
from modelvault.record import Entry


class Models(Room):
    """The part of `ports.ledger.Ledger` that keeps models and tags; documented there."""

    def create_model(self, row: ModelRow, entry: Entry) -> None:
        """Raises Conflict (`model_exists`)."""
        values = rows.model_values(row)
        with self._database.write() as write:
            if write.one(select(models.c.model).where(of_model(models, row.tenant, row.model))):
                raise Conflict(
                    "model_exists",
                    f"there is a model {row.tenant}/{row.model} already",
                    "choose another name; a deleted model's name isn't given again",
                )
            write.run(insert(models).values(values))
            write.append(entry)

    def model(self, tenant: str, model: str) -> ModelRow:
        """Raises NotFound (`no_model`)."""
        row = self._first(select(models).where(of_model(models, tenant, model)))
        if row is None:
            raise no_model(tenant, model)
        return rows.model_row(row)

    def models(self, tenant: str, *, after: str = "", limit: int = 100) -> Sequence[ModelRow]:
        """Models that aren't hidden, by name."""
        query = (
            select(models)
            .where(models.c.tenant == tenant, models.c.model > after, models.c.hidden_at.is_(None))
            .order_by(models.c.model)
            .limit(rows.page(limit))
        )
        return [rows.model_row(row) for row in self._all(query)]

    def update_record(self, row: ModelRow, expected_serial: int, entry: Entry) -> None:
        """Raises Conflict (`serial_moved`), NotFound (`no_model`)."""
        record = rows.record_bytes(row.record)
        with self._database.write() as write:
            stands = standing_model(write, row.tenant, row.model)
            _check_serial(stands.serial, expected_serial, row.serial, "model record")
            write.run(
                update(models)
                .where(of_model(models, row.tenant, row.model))
                .values(
                    owner=row.owner,
                    classification=row.classification,
                    serial=row.serial,
                    record=record,
                )
            )
            write.append(entry)

    def tag(self, tenant: str, model: str, tag: str) -> TagRow:
        """Raises NotFound (`no_tag`)."""
        row = self._first(select(tags).where(_is_tag(tenant, model, tag)))
        if row is None:
            raise NotFound(
                "no_tag", f"{tenant}/{model} has no tag {tag}", "list its tags with show"
            )
        return rows.tag_row(row)

    def tags(self, tenant: str, model: str) -> Sequence[TagRow]:
        """By name."""
        query = select(tags).where(of_model(tags, tenant, model)).order_by(tags.c.tag)
        return [rows.tag_row(row) for row in self._all(query)]

    def put_tag(self, row: TagRow, expected_serial: int, entry: Entry) -> None:
        """Raises Conflict (`serial_moved`), NotFound (`no_version`)."""
        values = rows.tag_values(row)
        with self._database.write() as write:
            version = write.one(
                select(versions.c.hidden_at, models.c.tag_floor)
                .join(models, of_model(models, row.tenant, row.model))
                .where(of_model(versions, row.tenant, row.model), versions.c.version == row.version)
            )
            if version is None or version.hidden_at is not None:
                raise no_version(row.tenant, row.model, row.version)
            same = _is_tag(row.tenant, row.model, row.tag)
            stands = write.one(select(tags.c.serial).where(same))
            serial = stands.serial if stands else version.tag_floor
            _check_serial(serial, expected_serial, row.serial, "tag record")
            write.run(
                update(tags).where(same).values(values) if stands else insert(tags).values(values)
            )
            write.append(entry)


def _is_tag(tenant: str, model: str, tag: str) -> ColumnElement[bool]:
    return of_model(tags, tenant, model) & (tags.c.tag == tag)


def _check_serial(stands: int, expected: int, new: int, what: str) -> None:
    # A serial is how clients notice a rollback: it goes up by one, and nothing else is taken.
    if stands != expected or new != expected + 1:
        raise Conflict(
            "serial_moved",
            f"the {what} has serial {stands}, not {expected}: somebody else changed it",
            "read it again, then repeat the change",
        )
