"""Versions on their way in."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import delete, func, insert, select, update

from modelvault.adapters.ledger_sql import rows
from modelvault.adapters.ledger_sql.keys import check_floor
from modelvault.adapters.ledger_sql.room import Room, standing_model
from modelvault.adapters.ledger_sql.rows import AnyRow
from modelvault.adapters.ledger_sql.schema import keys, uploads
from modelvault.adapters.ledger_sql.writing import Write
from modelvault.catalog import KeyRow, UploadRow
from modelvault.clock import to_text
from modelvault.errors import AccessDenied, Conflict, InvalidRequest, NotFound
from modelvault.record import Entry


class Uploads(Room):
    """The part of `ports.ledger.Ledger` that keeps uploads; documented there."""

    def begin(
        self,
        upload: UploadRow,
        key: KeyRow,
        max_open: int,
        entry: Entry,
        *,
        until: int | None = None,
    ) -> None:
        """Raises AccessDenied (`too_many_uploads`), Conflict (`kek_moved`), NotFound."""
        if _whose(upload) != _whose(key) or upload.state != "open":
            raise InvalidRequest(
                "bad_upload", "the upload and its wrapped key don't belong together"
            )
        with self._database.write() as write:
            model = standing_model(write, upload.tenant, upload.model)
            check_floor(model, key)
            _check_open(write, upload, max_open, upload.created_at if until is None else until)
            write.run(insert(uploads).values(rows.upload_values(upload)))
            write.run(insert(keys).values(rows.key_values(key)))
            write.append(entry)

    def upload(self, upload: str) -> UploadRow:
        """Raises NotFound (`no_upload`)."""
        row = self._first(select(uploads).where(uploads.c.id == upload))
        if row is None:
            raise no_upload(upload)
        return rows.upload_row(row)

    def prolong(self, upload: str, expires_at: int) -> None:
        """Raises NotFound (`no_upload`) unless it is open and hasn't expired."""
        with self._database.write() as write:
            row = _open(write, upload)
            if expires_at > row.expires_at:
                write.run(
                    update(uploads).where(uploads.c.id == upload).values(expires_at=expires_at)
                )

    def resume(self, upload: str, recipient: str, expires_at: int, entry: Entry) -> UploadRow:
        """Raises NotFound (`no_upload`) unless it is open and hasn't expired."""
        with self._database.write() as write:
            row = rows.upload_row(_open(write, upload))
            until = max(row.expires_at, expires_at)
            write.run(
                update(uploads)
                .where(uploads.c.id == upload)
                .values(recipient=recipient, expires_at=until)
            )
            write.append(entry)
        return msgspec.structs.replace(row, recipient=recipient, expires_at=until)

    def join(
        self, upload: str, recipient: str, most: int, expires_at: int, entry: Entry
    ) -> UploadRow:
        """Raises NotFound (`no_upload`), Conflict (`too_many_ranks`)."""
        with self._database.write() as write:
            row = rows.upload_row(_open(write, upload))
            known = recipient in row.recipients  # the same ask again
            if not known and len(row.recipients) >= most:
                raise too_many_ranks(most)
            joined = row.recipient if known else f"{row.recipient} {recipient}"
            until = max(row.expires_at, expires_at)
            write.run(
                update(uploads)
                .where(uploads.c.id == upload)
                .values(recipient=joined, expires_at=until)
            )
            write.append(entry)
        return msgspec.structs.replace(row, recipient=joined, expires_at=until)

    def abort(self, upload: str) -> None:
        """Raises Conflict (`upload_closed`)."""
        with self._database.write() as write:
            row = _found(write, upload)
            if row is None:
                return  # dropped: nothing is left that could be published
            _check_not_published(row)
            write.run(update(uploads).where(uploads.c.id == upload).values(state="aborted"))

    def dead_uploads(self, before: int, limit: int = 100) -> Sequence[UploadRow]:
        """Open or aborted ones that expired before `before`, oldest first."""
        query = (
            select(uploads)
            .where(uploads.c.state.in_(("open", "aborted")), uploads.c.expires_at < before)
            .order_by(uploads.c.expires_at, uploads.c.id)
            .limit(rows.page(limit))
        )
        return [rows.upload_row(row) for row in self._all(query)]

    def drop_upload(self, upload: str, entry: Entry) -> None:
        """Raises Conflict (`upload_closed`, `upload_open`)."""
        with self._database.write() as write:
            row = _found(write, upload)
            if row is None:
                return
            _check_not_published(row)
            if row.state == "open" and row.expires_at > write.now:
                raise Conflict("upload_open", f"upload {upload} is still open", "abort it first")
            write.run(delete(uploads).where(uploads.c.id == upload))
            write.run(delete(keys).where(keys.c.artifact == row.artifact))
            write.append(entry)


def no_upload(upload: str) -> NotFound:
    """There is no such upload, or it isn't this caller's or open any more."""
    return NotFound("no_upload", f"there is no open upload {upload}", "start the push again")


def too_many_ranks(most: int) -> Conflict:
    """No further key can join an upload."""
    return Conflict(
        "too_many_ranks",
        f"{most} keys have this upload's keys already",
        "let fewer processes write the version",
    )


def upload_closed(upload: str, state: str) -> Conflict:
    """It can't be changed any more."""
    return Conflict("upload_closed", f"upload {upload} is {state}", "start the push again")


def _found(write: Write, upload: str) -> AnyRow | None:
    return write.one(select(uploads).where(uploads.c.id == upload))


def _open(write: Write, upload: str) -> AnyRow:
    row = _found(write, upload)
    if row is None or row.state != "open" or row.expires_at <= write.now:
        raise no_upload(upload)
    return row


def _check_not_published(row: AnyRow) -> None:
    if row.state == "published":
        raise upload_closed(row.id, row.state)


def _check_open(write: Write, upload: UploadRow, max_open: int, until: int) -> None:
    others = (
        uploads.c.subject == upload.subject,
        uploads.c.state == "open",
        uploads.c.expires_at > until,
    )
    row = write.one(select(func.count(), func.min(uploads.c.expires_at)).where(*others))
    used, soonest = row or (0, None)
    if used < max_open:
        return
    resets_at = None if soonest is None else to_text(upload.created_at + soonest - until)
    raise AccessDenied(
        "too_many_uploads",
        f"{upload.subject} has {used} uploads open; the limit is {max_open}"
        + (f"; the next one stops counting at {resets_at}" if resets_at else ""),
        "wait for the pushes that are under way; one that was killed counts until then",
        limit=max_open,
        used=used,
        resets_at=resets_at,
    )


def _whose(row: UploadRow | KeyRow) -> tuple[str, str, str]:
    return row.tenant, row.model, row.artifact
