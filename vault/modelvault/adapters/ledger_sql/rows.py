"""Rows to values and back. What can't be read back isn't written; what can't be read is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Row, Select

from modelvault import canonical
from modelvault.adapters.ledger_sql.failures import damaged
from modelvault.catalog import (
    KeyRow,
    LeaseRow,
    ModelRow,
    Revocation,
    TagRow,
    UploadRow,
    VersionRow,
)
from modelvault.crypto.dsse import Envelope
from modelvault.crypto.remembered import Remembered
from modelvault.errors import IntegrityError, InvalidRequest, ModelVaultError
from modelvault.manifest import MAX_BYTES, MAX_FILES, MAX_PATH_BYTES
from modelvault.record import MAX_RECORD, Entry

T = TypeVar("T", bound=msgspec.Struct)
AnyRow = Row[*tuple[Any, ...]]
Query = Select[*tuple[Any, ...]]

MAX_ENTRY = 64 << 10
MAX_PAGE = 10_000
_MANIFEST_LIMIT = MAX_BYTES * 4 // 3 + MAX_RECORD  # base64, and the signatures beside it
_RECORD_LIMIT = 2 * MAX_RECORD
_LIST_LIMIT = MAX_FILES * (2 * MAX_PATH_BYTES + 3)
# Envelopes by their bytes: the same few are read for each lease.
_ENVELOPES: Remembered[Envelope] = Remembered(32 << 20)


def page(limit: int) -> int:
    """A page's size, checked: InvalidRequest (`bad_limit`) unless 1 to 10,000."""
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest("bad_limit", f"a page holds 1 to {MAX_PAGE:,} rows, not {limit}")
    return limit


def record_bytes(record: Envelope) -> bytes:
    """A record's envelope as it is stored; InvalidRequest if it couldn't be read back."""
    return _envelope_bytes(record, _RECORD_LIMIT, "signed record")


def manifest_bytes(manifest: Envelope) -> bytes:
    """A manifest's envelope as it is stored; InvalidRequest if it couldn't be read back."""
    return _envelope_bytes(manifest, _MANIFEST_LIMIT, "signed manifest")


def _envelope_bytes(envelope: Envelope, limit: int, what: str) -> bytes:
    data = envelope.to_bytes()
    try:
        Envelope.from_bytes(data, limit=limit, what=what)
    except IntegrityError as refused:
        raise InvalidRequest(refused.code, refused.message) from None
    return data


def model_row(row: AnyRow) -> ModelRow:
    """A row of `models`."""
    return _value(ModelRow, row, record=_record(row.record))


def tag_row(row: AnyRow) -> TagRow:
    """A row of `tags`."""
    return _value(TagRow, row, record=_record(row.record))


def version_row(row: AnyRow) -> VersionRow:
    """A row of `versions`; its digest must be its manifest's."""
    with _sound("manifest"):
        manifest = _parsed(row.manifest, _MANIFEST_LIMIT, "manifest")
    if manifest.digest != row.digest:
        raise damaged(f"version {row.version} of {row.tenant}/{row.model} has another digest")
    return _value(VersionRow, row, manifest=manifest)


def key_row(row: AnyRow) -> KeyRow:
    """A row of `keys`."""
    return _value(KeyRow, row)


def upload_row(row: AnyRow) -> UploadRow:
    """A row of `uploads`."""
    return _value(UploadRow, row, paths=_list(row.paths), sizes=_list(row.sizes))


def lease_row(row: AnyRow) -> LeaseRow:
    """A row of `leases`."""
    return _value(LeaseRow, row, paths=_list(row.paths), bound=bool(row.bound))


def revocation_row(row: AnyRow) -> Revocation:
    """A row of `revocations`."""
    return _value(Revocation, row)


def entry_row(row: AnyRow) -> Entry:
    """A row of `entries`: canonical, hashed as it stands, and at its own place."""
    with _sound("audit log"):
        entry = canonical.decode(row.document, Entry, limit=MAX_ENTRY, what="audit entry")
    leaf = hashlib.sha256(b"\0" + row.document).digest()
    if (
        entry.seq != row.seq
        or entry.id != row.id
        or leaf != row.leaf_hash
        or canonical.encode(entry) != row.document
    ):
        raise damaged(f"audit entry {row.seq} isn't what was written")
    return entry


def upload_values(row: UploadRow) -> dict[str, Any]:
    """Columns of a new upload."""
    values = _columns(row)
    return values | {"paths": canonical.dumps(row.paths), "sizes": canonical.dumps(row.sizes)}


def lease_values(row: LeaseRow) -> dict[str, Any]:
    """Columns of a new lease."""
    return _columns(row) | {"paths": canonical.dumps(row.paths), "bound": int(row.bound)}


def model_values(row: ModelRow) -> dict[str, Any]:
    """Columns of a new model."""
    return _columns(row) | {"record": record_bytes(row.record)}


def tag_values(row: TagRow) -> dict[str, Any]:
    """Columns of a tag."""
    return _columns(row) | {"record": record_bytes(row.record)}


def version_values(row: VersionRow) -> dict[str, Any]:
    """Columns of a new version."""
    return _columns(row) | {"manifest": manifest_bytes(row.manifest)}


def key_values(row: KeyRow) -> dict[str, Any]:
    """Columns of a wrapped key."""
    return _columns(row)


def revocation_values(row: Revocation) -> dict[str, Any]:
    """Columns of a revocation."""
    return _columns(row)


def _columns(row: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__struct_fields__}


def _value(wanted: type[T], row: AnyRow, **parsed: object) -> T:
    values = {name: getattr(row, name) for name in wanted.__struct_fields__} | parsed
    with _sound(f"{wanted.__name__[:-3].lower()}s"):
        return canonical.convert(values, wanted, what="row")


def _record(data: bytes) -> Envelope:
    with _sound("signed records"):
        return _parsed(data, _RECORD_LIMIT, "record")


def _parsed(data: bytes, limit: int, what: str) -> Envelope:
    return _ENVELOPES.get(
        (limit, data), len(data), lambda: Envelope.from_bytes(data, limit=limit, what=what)
    )


def _list(data: bytes) -> object:
    with _sound("lists of files"):
        return canonical.loads(data, _LIST_LIMIT)


@contextmanager
def _sound(what: str) -> Iterator[None]:
    """Within it, a document that can't be parsed means a damaged ledger."""
    try:
        yield
    except ModelVaultError:
        raise damaged(f"a row of its {what} can't be read") from None
