"""Published versions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    delete,
    exists,
    insert,
    select,
    true,
    update,
)

from modelvault.adapters.ledger_sql import rows, schema
from modelvault.adapters.ledger_sql.hiding import hide_model, hide_version
from modelvault.adapters.ledger_sql.room import Room, no_version, of_model, standing_model
from modelvault.adapters.ledger_sql.rows import AnyRow
from modelvault.adapters.ledger_sql.schema import (
    entries,
    keys,
    models,
    tags,
    uploads,
    version_objects,
    versions,
)
from modelvault.adapters.ledger_sql.unchanged import check_earlier, fingerprint_values
from modelvault.adapters.ledger_sql.uploads import no_upload, upload_closed
from modelvault.adapters.ledger_sql.writing import Write
from modelvault.catalog import VersionRow
from modelvault.errors import Conflict, InvalidRequest, NotFound
from modelvault.manifest import Manifest
from modelvault.record import Entry

_CHUNK = 500  # names in one statement: SQLite and PostgreSQL both bound its parameters


class Versions(Room):
    """The part of `ports.ledger.Ledger` that keeps versions; documented there."""

    def publish(
        self,
        upload: str,
        row: VersionRow,
        expected_head: str | None,
        entry: Entry,
        fingerprints: Sequence[tuple[str, bytes]] = (),
    ) -> Entry:
        """Raises Conflict (`head_moved`, `upload_closed`, `earlier_gone`), NotFound (`no_upload`,
        `no_model`)."""
        manifest = Manifest.from_bytes(row.manifest.payload)
        check_manifest(row, manifest, expected_head)
        kept = fingerprint_values(manifest, fingerprints)
        values = rows.version_values(row)
        with self._database.write() as write:
            sent = open_upload(write, upload, row)
            if sent.artifact != row.artifact:
                raise no_upload(upload)
            check_earlier(write, manifest)
            written = raise_head(write, upload, row, manifest, values, expected_head, entry)
            if kept:
                write.run(insert(schema.fingerprints), kept)
        return written

    def published(self, upload: str) -> tuple[VersionRow, Entry]:
        """Raises NotFound (`no_version`)."""
        with self._database.read() as connection:
            sent = connection.execute(select(uploads).where(uploads.c.id == upload)).first()
            if sent is None or sent.version is None:
                raise NotFound("no_version", f"upload {upload} isn't a version", "commit it first")
            version = connection.execute(
                select(versions).where(_is(sent.tenant, sent.model, sent.version))
            ).one()
            entry = connection.execute(select(entries).where(entries.c.seq == sent.entry_seq)).one()
        return rows.version_row(version), rows.entry_row(entry)

    def version(self, tenant: str, model: str, version: int) -> VersionRow:
        """Raises NotFound (`no_version`)."""
        row = self._first(select(versions).where(_is(tenant, model, version)))
        if row is None:
            raise no_version(tenant, model, version)
        return rows.version_row(row)

    def version_by_digest(self, tenant: str, model: str, digest: str) -> VersionRow:
        """Raises NotFound (`no_version`)."""
        row = self._first(
            select(versions).where(of_model(versions, tenant, model), versions.c.digest == digest)
        )
        if row is None:
            raise no_version(tenant, model, digest)
        return rows.version_row(row)

    def versions(self, tenant: str, model: str) -> Sequence[VersionRow]:
        """Newest first, hidden ones too."""
        query = (
            select(versions)
            .where(of_model(versions, tenant, model))
            .order_by(versions.c.version.desc())
        )
        return [rows.version_row(row) for row in self._all(query)]

    def newest(self, tenant: str, model: str, created_by: str) -> VersionRow:
        """Raises NotFound (`no_version`)."""
        row = self._first(
            select(versions)
            .where(
                of_model(versions, tenant, model),
                versions.c.created_by == created_by,
                versions.c.hidden_at.is_(None),
            )
            .order_by(versions.c.version.desc())
        )
        if row is None:
            raise no_version(tenant, model, f"of {created_by}")
        return rows.version_row(row)

    def hide(
        self,
        tenant: str,
        model: str,
        version: int | None,
        at: int,
        entry: Entry,
        tagged: Collection[str] = (),
    ) -> None:
        """Raises NotFound (`no_model`, `no_version`), Conflict (`tagged`)."""
        with self._database.write() as write:
            changed = (
                hide_model(write, tenant, model, at)
                if version is None
                else hide_version(write, tenant, model, version, at, tagged)
            )
            if changed:
                write.append(entry)

    def dead_versions(self, before: int, limit: int = 100) -> Sequence[VersionRow]:
        """Those hidden before `before`, longest ago first."""
        query = (
            select(versions)
            .where(versions.c.hidden_at.is_not(None), versions.c.hidden_at < before)
            .order_by(versions.c.hidden_at, versions.c.tenant, versions.c.model, versions.c.version)
            .limit(rows.page(limit))
        )
        return [rows.version_row(row) for row in self._all(query)]

    def drop_version(self, tenant: str, model: str, version: int, entry: Entry) -> None:
        """Raises Conflict (`version_stands`)."""
        with self._database.write() as write:
            row = write.one(select(versions.c.hidden_at).where(_is(tenant, model, version)))
            if row is None:
                return
            if row.hidden_at is None:
                raise Conflict(
                    "version_stands", f"{tenant}/{model}@{version} isn't hidden", "delete it first"
                )
            _remove(write, tenant, model, version)
            write.append(entry)

    def objects_in_use(self, names: Sequence[str]) -> set[str]:
        """Those of `names` that a version in the ledger refers to."""
        found: set[str] = set()
        used = version_objects.c.object
        with self._database.read() as connection:
            for first in range(0, len(names), _CHUNK):
                chunk = names[first : first + _CHUNK]
                found.update(connection.scalars(select(used).where(used.in_(chunk)).distinct()))
        return found


def _is(tenant: str, model: str, version: int) -> ColumnElement[bool]:
    return of_model(versions, tenant, model) & (versions.c.version == version)


def check_manifest(row: VersionRow, manifest: Manifest, expected_head: str | None) -> None:
    """The row tells what the signed manifest says, or isn't written."""
    signed = (
        manifest.tenant, manifest.model, manifest.version, manifest.artifact,
        manifest.created_by, manifest.size, len(manifest.files), manifest.previous,
    )  # fmt: skip
    told = (
        row.tenant, row.model, row.version, row.artifact,
        row.created_by, row.size, row.files, expected_head,
    )  # fmt: skip
    if signed != told or row.digest != row.manifest.digest or row.hidden_at is not None:
        raise InvalidRequest("bad_version", "the version's row and its manifest differ")


def open_upload(write: Write, upload: str, row: VersionRow) -> AnyRow:
    """The open upload of the version's creator and model."""
    sent = write.one(select(uploads).where(uploads.c.id == upload))
    owned = (row.tenant, row.model, row.created_by)
    if sent is None or (sent.tenant, sent.model, sent.subject) != owned:
        raise no_upload(upload)
    if sent.state != "open":
        raise upload_closed(upload, sent.state)
    if sent.expires_at <= write.now:
        raise upload_closed(upload, "expired")
    return sent


def raise_head(
    write: Write,
    upload: str,
    row: VersionRow,
    manifest: Manifest,
    values: dict[str, Any],
    expected_head: str | None,
    entry: Entry,
) -> Entry:
    """The version becomes its model's head, and its upload published."""
    model = standing_model(write, row.tenant, row.model)
    if (model.head_manifest, model.head_version + 1) != (expected_head, row.version):
        raise Conflict(
            "head_moved",
            f"{row.tenant}/{row.model} has version {model.head_version} by now",
            "compose the manifest again on the new head",
        )
    write.run(insert(versions).values(values))
    write.run(insert(version_objects), _objects(manifest))
    write.run(
        update(models)
        .where(of_model(models, row.tenant, row.model))
        .values(head_version=row.version, head_manifest=row.digest)
    )
    written = write.append(entry)
    write.run(
        update(uploads)
        .where(uploads.c.id == upload)
        .values(state="published", version=row.version, entry_seq=written.seq)
    )
    return written


def _objects(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "tenant": manifest.tenant,
            "model": manifest.model,
            "version": manifest.version,
            "object": name,
            "artifact": file.artifact,
        }
        for file in manifest.files
        for name in (file.object, file.leaves)
    ]


def _remove(write: Write, tenant: str, model: str, version: int) -> None:
    """The version with its tags (a hidden model's may have some), upload, objects and the wrapped
    keys that nothing else needs; with a key go its fingerprints."""
    of_version = [
        of_model(table, tenant, model) & (table.c.version == version)
        for table in (tags, uploads, version_objects)
    ]
    named = write.all(select(version_objects.c.artifact).where(of_version[2]).distinct())
    own = write.all(select(versions.c.artifact).where(_is(tenant, model, version)))
    for table, condition in zip((tags, uploads, version_objects), of_version, strict=True):
        write.run(delete(table).where(condition))
    write.run(delete(versions).where(_is(tenant, model, version)))
    for (artifact,) in {*named, *own}:  # its own one may be of no file
        used = exists(select(true()).where(version_objects.c.artifact == artifact))
        write.run(delete(keys).where(keys.c.artifact == artifact, ~used))
