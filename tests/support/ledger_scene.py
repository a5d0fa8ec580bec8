"""Rows for ledgers, and a few steps that many tests start with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from modelvault.catalog import (
    Admission,
    KeyRow,
    LeaseRow,
    Limits,
    ModelRow,
    Revocation,
    TagRow,
    UploadRow,
    VersionRow,
)
from modelvault.clock import to_text
from modelvault.crypto.dsse import Envelope, Signature
from modelvault.errors import ModelVaultError
from modelvault.manifest import FileEntry, Hints, Manifest, Provenance
from modelvault.ports import Ledger
from modelvault.record import Entry

HOUR = 3_600_000
DAY = 24 * HOUR
ALICE, BOB = "local:alice", "local:bob"
REVISION = "sha256:" + "1" * 64
VAULT = "0" * 32


def ident() -> str:
    return os.urandom(16).hex()


def envelope(payload: bytes = b"{}", kind: str = "test") -> Envelope:
    return Envelope(kind, payload, (Signature("sha256:" + "0" * 64, b"s" * 64),))


def entry(action: str = "test", at: int = 0, **fields: object) -> Entry:
    return Entry(
        id=ident(), at=to_text(at), actor=ALICE, action=action, outcome="done", **fields
    )  # fmt: skip


@contextmanager
def refused(ledger: Ledger, kind: type[ModelVaultError], code: str) -> Iterator[ModelVaultError]:
    """The block raises that error, and the log is as long as before."""
    before = len(ledger.entries(limit=10_000))
    with pytest.raises(kind) as raised:
        yield raised  # type: ignore[misc]
    assert type(raised.value) is kind
    assert raised.value.code == code
    assert len(ledger.entries(limit=10_000)) == before


@dataclass(frozen=True)
class Scene:
    """A ledger, and a time that all rows start from."""

    ledger: Ledger
    now: int

    def model_row(self, model: str = "m", **fields: object) -> ModelRow:
        standard = {
            "tenant": "default", "model": model, "owner": ALICE, "classification": "internal",
            "serial": 1, "record": envelope(model.encode()), "created_at": self.now,
        }  # fmt: skip
        return ModelRow(**{**standard, **fields})

    def create(self, model: str = "m", **fields: object) -> ModelRow:
        row = self.model_row(model, **fields)
        self.ledger.create_model(row, entry("create", tenant=row.tenant, model=model))
        return row

    def upload_row(self, model: str = "m", **fields: object) -> UploadRow:
        standard = {
            "id": ident(), "tenant": "default", "model": model, "artifact": ident(),
            "subject": ALICE, "paths": ("a", "b/ü"), "sizes": (5, 7), "recipient": "r",
            "created_at": self.now, "expires_at": self.now + HOUR,
        }  # fmt: skip
        return UploadRow(**{**standard, **fields})

    def key_row(self, upload: UploadRow, kek_version: int = 1) -> KeyRow:
        return KeyRow(
            artifact=upload.artifact,
            tenant=upload.tenant,
            model=upload.model,
            wrapped=b"\0\xff" + os.urandom(16),
            kek_version=kek_version,
        )

    def begin(self, model: str = "m", *, max_open: int = 1000, **fields: object) -> UploadRow:
        row = self.upload_row(model, **fields)
        self.ledger.begin(row, self.key_row(row), max_open, entry("push", model=model))
        return row

    def version_row(
        self,
        upload: UploadRow,
        version: int,
        previous: str | None,
        reuse: tuple[FileEntry, ...] = (),
    ) -> VersionRow:
        own = tuple(
            FileEntry(
                path=path, size=size, segment_length=1 << 20, artifact=upload.artifact,
                object=f"objects/{ident()}", leaves=f"objects/{ident()}",
                digest="blake3:" + "2" * 64,
            )
            for path, size in zip(upload.paths, upload.sizes, strict=True)
        )  # fmt: skip
        together = tuple(sorted((*own, *reuse), key=lambda file: file.path))
        manifest = Manifest(
            vault=VAULT, tenant=upload.tenant, model=upload.model, version=version,
            artifact=upload.artifact, created_at=to_text(self.now), created_by=upload.subject,
            previous=previous, digest_alg="blake3", files=together,
            hints=Hints(), labels={},
            provenance=Provenance(),
        )  # fmt: skip
        signed = envelope(manifest.to_bytes())
        return VersionRow(
            tenant=upload.tenant, model=upload.model, version=version, artifact=upload.artifact,
            digest=signed.digest, manifest=signed, created_at=self.now, created_by=upload.subject,
            size=manifest.size, files=len(manifest.files),
        )  # fmt: skip

    def next_version(
        self, upload: UploadRow, reuse: tuple[FileEntry, ...] = ()
    ) -> tuple[VersionRow, str | None]:
        model = self.ledger.model(upload.tenant, upload.model)
        head = model.head_manifest
        return self.version_row(upload, model.head_version + 1, head, reuse), head

    def push(self, model: str = "m", **fields: object) -> VersionRow:
        upload = self.begin(model, **fields)
        row, head = self.next_version(upload)
        self.ledger.publish(upload.id, row, head, entry("push", model=model))
        return row

    def tag_row(self, version: VersionRow, tag: str = "prod", serial: int = 1) -> TagRow:
        return TagRow(
            tenant=version.tenant, model=version.model, tag=tag, version=version.version,
            serial=serial, record=envelope(f"{tag}{serial}".encode()), moved_at=self.now,
        )  # fmt: skip

    def tag(self, version: VersionRow, tag: str = "prod", serial: int = 1) -> TagRow:
        row = self.tag_row(version, tag, serial)
        self.ledger.put_tag(row, serial - 1, entry("tag", model=version.model))
        return row

    def publish_policy(self, revision: str = REVISION) -> None:
        self.ledger.set_policy_revision(revision, entry("write_policy"))

    def lease_row(self, version: VersionRow, /, **fields: object) -> LeaseRow:
        standard = {
            "id": ident(), "ask_hash": hashlib.sha256(os.urandom(8)).hexdigest(), "subject": ALICE,
            "key_hash": "k", "bound": True, "tenant": version.tenant, "model": version.model,
            "version": version.version, "manifest": version.digest, "purpose": "inference",
            "action": "load", "paths": ("a", "b/ü"), "bytes": version.size, "granted_at": self.now,
            "expires_at": self.now + HOUR, "total_until": self.now + 8 * HOUR,
            "revision": REVISION, "decision_id": ident(),
        }  # fmt: skip
        return LeaseRow(**{**standard, **fields})

    def admit(
        self, lease: LeaseRow, *, slots: int | None = None, budget: int | None = None
    ) -> Admission:
        limits = Limits(max_concurrent_leases=slots, max_bytes_per_day=budget)
        return self.ledger.admit(lease, limits, entry("load", model=lease.model, lease=lease.id))

    def lease(self, version: VersionRow, /, **fields: object) -> LeaseRow:
        return self.admit(self.lease_row(version, **fields)).lease

    def revocation(self, kind: str, target: str, **fields: object) -> Revocation:
        standard = {"id": ident(), "at": self.now, "by": BOB, "reason": "leaked"}
        return Revocation(kind=kind, target=target, **{**standard, **fields})  # type: ignore[arg-type]

    def revoke(self, kind: str, target: str, **fields: object) -> int:
        return self.ledger.revoke(self.revocation(kind, target, **fields), entry("revoke"))
