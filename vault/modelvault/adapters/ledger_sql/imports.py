"""Versions that were made in another vault."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, update

from modelvault.adapters.ledger_sql import rows
from modelvault.adapters.ledger_sql.room import Room, standing_model
from modelvault.adapters.ledger_sql.schema import keys, uploads, versions
from modelvault.adapters.ledger_sql.versions import check_manifest, open_upload, raise_head
from modelvault.adapters.ledger_sql.writing import Write
from modelvault.catalog import KeyRow, VersionRow
from modelvault.errors import Conflict, InvalidRequest
from modelvault.manifest import Manifest
from modelvault.record import Entry


class Imports(Room):
    """The part of `ports.ledger.Ledger` that takes versions in; documented there."""

    def take_in(
        self,
        upload: str,
        row: VersionRow,
        keys: Sequence[KeyRow],
        expected_head: str | None,
        entry: Entry,
    ) -> Entry:
        """Raises as `publish`, and Conflict (`kek_moved`, `artifact_here`)."""
        manifest = Manifest.from_bytes(row.manifest.payload)
        check_manifest(row, manifest, expected_head)
        _check_keys(row, keys, manifest)
        values = rows.version_values(row)
        with self._database.write() as write:
            sent = open_upload(write, upload, row)
            _check_floor(write, row, keys)
            _check_new(write, row)
            _replace_keys(write, sent.artifact, keys)
            write.run(update(uploads).where(uploads.c.id == upload).values(artifact=row.artifact))
            return raise_head(write, upload, row, manifest, values, expected_head, entry)


def _check_keys(row: VersionRow, given: Sequence[KeyRow], manifest: Manifest) -> None:
    artifacts = sorted({file.artifact for file in manifest.files})
    told = sorted(key.artifact for key in given)
    if told != artifacts or any(
        (key.tenant, key.model) != (row.tenant, row.model) for key in given
    ):
        raise InvalidRequest("bad_version", "the version's keys aren't those of its manifest")


def _check_floor(write: Write, row: VersionRow, given: Sequence[KeyRow]) -> None:
    floor = standing_model(write, row.tenant, row.model).kek_floor
    if any(key.kek_version < floor for key in given):
        raise Conflict(
            "kek_moved",
            f"a key is under an older KEK version than the model's, which is {floor}",
            "wrap it again: the model's key was rotated just now",
        )


def _check_new(write: Write, row: VersionRow) -> None:
    stands = write.one(select(versions).where(versions.c.artifact == row.artifact))
    if stands is not None:
        raise artifact_here(f"as {stands.tenant}/{stands.model}@{stands.version}")


def _replace_keys(write: Write, transport: str, given: Sequence[KeyRow]) -> None:
    for key in given:
        stands = write.one(select(keys).where(keys.c.artifact == key.artifact))
        if stands is None:
            write.run(insert(keys).values(rows.key_values(key)))
        elif (stands.tenant, stands.model) != (key.tenant, key.model):
            raise artifact_here(f"in part, in {stands.tenant}/{stands.model}")
    write.run(delete(keys).where(keys.c.artifact == transport))


def artifact_here(where: str) -> Conflict:
    """A vault holds each artifact once, in one model: its key is bound to that."""
    return Conflict(
        "artifact_here",
        f"this vault holds that version already, {where}",
        "use it there; in another model it takes a push of its files",
    )
