"""The catalog's part of the ledger: models, tags, uploads, versions and their wrapped keys."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from modelvault.catalog import KeyRow, ModelRow, TagRow, UploadRow, VersionRow
from modelvault.record import Entry


class CatalogLedger(Protocol):
    """What holds for every method stands at `ports.ledger.Ledger`."""

    # models, tags
    def create_model(self, row: ModelRow, entry: Entry) -> None:
        """Raises Conflict (`model_exists`), also where a hidden one has the name."""
        ...

    def model(self, tenant: str, model: str) -> ModelRow:
        """Raises NotFound (`no_model`). Hidden ones are returned: callers look at `hidden_at`."""
        ...

    def models(self, tenant: str, *, after: str = "", limit: int = 100) -> Sequence[ModelRow]:
        """Models that aren't hidden, by name, from the one behind `after` on."""
        ...

    def update_record(self, row: ModelRow, expected_serial: int, entry: Entry) -> None:
        """New owner, classification, record and serial.

        Raises Conflict (`serial_moved`), also when the new serial isn't `expected_serial` + 1, and
        NotFound (`no_model`) when it is hidden or gone."""
        ...

    def tag(self, tenant: str, model: str, tag: str) -> TagRow:
        """Raises NotFound (`no_tag`)."""
        ...

    def tags(self, tenant: str, model: str) -> Sequence[TagRow]:
        """By name."""
        ...

    def put_tag(self, row: TagRow, expected_serial: int, entry: Entry) -> None:
        """`expected_serial` of a new tag is its model's `tag_floor`. Raises Conflict
        (`serial_moved`), also when the new serial isn't `expected_serial` + 1, and NotFound
        (`no_version`) when the version is hidden or gone."""
        ...

    # uploads, versions
    def begin(
        self,
        upload: UploadRow,
        key: KeyRow,
        max_open: int,
        entry: Entry,
        *,
        until: int | None = None,
    ) -> None:
        """Record an upload with its wrapped key. AccessDenied (`too_many_uploads`) when its subject
        has `max_open` others open that live beyond `until` (None: that haven't expired; details:
        limit, used, resets_at, when one of them counts no more), Conflict
        (`kek_moved`) for a key under the model's floor, NotFound (`no_model`), InvalidRequest
        (`bad_upload`) when upload and key aren't of one artifact."""
        ...

    def upload(self, upload: str) -> UploadRow:
        """Raises NotFound (`no_upload`)."""
        ...

    def prolong(self, upload: str, expires_at: int) -> None:
        """Heartbeat; never shortens. NotFound (`no_upload`) unless it is open and unexpired."""
        ...

    def resume(self, upload: str, recipient: str, expires_at: int, entry: Entry) -> UploadRow:
        """An open upload goes on under a new recipient key; never shortens. NotFound (`no_upload`)
        unless it is open and unexpired."""
        ...

    def join(
        self, upload: str, recipient: str, most: int, expires_at: int, entry: Entry
    ) -> UploadRow:
        """Another recipient key joins those that an open upload has; never shortens. NotFound
        (`no_upload`) unless it is open and unexpired; Conflict (`too_many_ranks`) when it has
        `most` keys already."""
        ...

    def publish(
        self,
        upload: str,
        row: VersionRow,
        expected_head: str | None,
        entry: Entry,
        fingerprints: Sequence[tuple[str, bytes]] = (),
    ) -> Entry:
        """The version becomes the model's head and the upload `published`; returns the entry as it
        stands. Objects and artifacts are taken from the row's signed manifest, whose `previous`
        must be `expected_head`; `fingerprints` are kept, by path, for files of its own artifact.
        Raises Conflict (`head_moved`), Conflict (`upload_closed`: also expired), Conflict
        (`earlier_gone`: it names objects of an earlier artifact that no version in the ledger
        names any more), NotFound (`no_upload`: none of this creator, model and artifact), NotFound
        (`no_model`: hidden), InvalidRequest (`bad_version`: row, manifest and fingerprints
        differ)."""
        ...

    def take_in(
        self,
        upload: str,
        row: VersionRow,
        keys: Sequence[KeyRow],
        expected_head: str | None,
        entry: Entry,
    ) -> Entry:
        """As `publish`, for a version that was made elsewhere: its artifacts' wrapped keys come
        with it, and the upload's own key goes. A key of an artifact that the model has already
        stays as it is. Raises as `publish`, Conflict (`kek_moved`) for a key under the model's
        floor, Conflict (`artifact_here`) when the vault holds that version or another model has
        one of its keys, InvalidRequest (`bad_version`) unless `keys` are of the manifest's
        artifacts."""
        ...

    def published(self, upload: str) -> tuple[VersionRow, Entry]:
        """What an upload became, and the entry. Raises NotFound (`no_version`)."""
        ...

    def version(self, tenant: str, model: str, version: int) -> VersionRow:
        """Raises NotFound (`no_version`). Hidden ones are returned."""
        ...

    def version_by_digest(self, tenant: str, model: str, digest: str) -> VersionRow:
        """Raises NotFound (`no_version`). Hidden ones are returned."""
        ...

    def versions(self, tenant: str, model: str) -> Sequence[VersionRow]:
        """All that are in the ledger, newest first, hidden ones too."""
        ...

    def newest(self, tenant: str, model: str, created_by: str) -> VersionRow:
        """The newest of this creator's that isn't hidden. Raises NotFound (`no_version`)."""
        ...

    def fingerprints(self, artifacts: Collection[str]) -> dict[tuple[str, str], bytes]:
        """What `publish` kept for files of these artifacts, by artifact and path."""
        ...

    def hide(
        self,
        tenant: str,
        model: str,
        version: int | None,
        at: int,
        entry: Entry,
        tagged: Collection[str] = (),
    ) -> None:
        """Hide a version, or the model with all its versions when None. Idempotent.

        Tags among `tagged` that point to that one version go with it, and raise the model's
        `tag_floor`. Raises NotFound, and Conflict (`tagged`) when any other tag points to it."""
        ...

    # keeping house: gc removes rows after the objects are gone
    def dead_uploads(self, before: int, limit: int = 100) -> Sequence[UploadRow]:
        """Open or aborted ones that expired before `before`."""
        ...

    def drop_upload(self, upload: str, entry: Entry) -> None:
        """Remove a dead upload and its wrapped key. Idempotent. Conflict (`upload_closed`) if it
        was published meanwhile, (`upload_open`) if it is neither aborted nor expired."""
        ...

    def abort(self, upload: str) -> None:
        """An open upload can no longer be published from now on. Idempotent, also for one that was
        dropped; Conflict (`upload_closed`) if it is published."""
        ...

    def dead_versions(self, before: int, limit: int = 100) -> Sequence[VersionRow]:
        """Those hidden before `before`."""
        ...

    def drop_version(self, tenant: str, model: str, version: int, entry: Entry) -> None:
        """Remove a hidden version with its upload and tags, and the wrapped keys and fingerprints
        of its artifacts that no other version uses. Idempotent. Conflict (`version_stands`) if it
        isn't hidden."""
        ...

    def objects_in_use(self, names: Sequence[str]) -> set[str]:
        """Those of `names` that a version in the ledger refers to."""
        ...

    # wrapped keys
    def key(self, artifact: str) -> KeyRow:
        """Raises NotFound (`no_key`)."""
        ...

    def keep_key(self, key: KeyRow, entry: Entry) -> KeyRow:
        """Keep a wrapped key of a model that belongs to no upload, unless its artifact has one;
        the one that stands. Conflict (`kek_moved`) for a key under the model's floor, NotFound
        (`no_model`)."""
        ...

    def keys_below(
        self, tenant: str, model: str, kek_version: int, limit: int = 200
    ) -> Sequence[KeyRow]:
        """Wrapped keys under older KEK versions, of open uploads too."""
        ...

    def raise_floor(self, tenant: str, model: str, kek_version: int, entry: Entry) -> None:
        """From now on `begin` refuses a key under an older KEK version (Conflict `kek_moved`).

        Never lowers; idempotent. Raises NotFound (`no_model`)."""
        ...

    def swap_key(self, row: KeyRow, expected: bytes, entry: Entry | None) -> None:
        """Replace the wrapped bytes `expected`.

        Raises Conflict (`key_moved`), also for an older KEK version than the one that stands, and
        NotFound (`no_key`).
        """
        ...
