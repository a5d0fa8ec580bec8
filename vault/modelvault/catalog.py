"""The ledger's rows as values. Times are milliseconds since the epoch."""

from __future__ import annotations

from typing import Literal

import msgspec

from modelvault.crypto.dsse import Envelope


def holder(subject: str, instance: str | None) -> str:
    """Whom limits count: a principal, or one instance of it."""
    return subject if instance is None else f"{subject}#{instance}"


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """A model: its signed record, the head of its versions and the lowest KEK version in use.

    `tag_floor` is the highest serial of the tags that were deleted with a version: those that come
    anew go on from there, since clients remember serials.
    """

    tenant: str
    model: str
    owner: str
    classification: str
    serial: int
    record: Envelope
    created_at: int
    kek_floor: int = 1
    head_version: int = 0
    head_manifest: str | None = None
    hidden_at: int | None = None
    tag_floor: int = 0


class VersionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A published version; `size` and `files` count plaintext bytes and files."""

    tenant: str
    model: str
    version: int
    artifact: str
    digest: str
    manifest: Envelope
    created_at: int
    created_by: str
    size: int
    files: int
    hidden_at: int | None = None


class TagRow(msgspec.Struct, frozen=True, kw_only=True):
    """A tag's current signed record."""

    tenant: str
    model: str
    tag: str
    version: int
    serial: int
    record: Envelope
    moved_at: int


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact's DEK, wrapped by version `kek_version` of the model's KEK."""

    artifact: str
    tenant: str
    model: str
    wrapped: bytes
    kek_version: int


class UploadRow(msgspec.Struct, frozen=True, kw_only=True):
    """A version that was opened and isn't published: who may go on, with what, until when.

    `paths` and `sizes` are what was declared, in order; `recipient` is the SHA-256 of the key the
    FileKeys were sealed to, and behind it, with spaces between, those of the keys that joined.
    `base` is the version whose files it may name as unchanged.
    """

    id: str
    tenant: str
    model: str
    artifact: str
    subject: str
    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    recipient: str
    created_at: int
    expires_at: int
    state: Literal["open", "published", "aborted"] = "open"
    base: int | None = None

    @property
    def recipients(self) -> tuple[str, ...]:
        """The hashes of all keys that the upload's keys, or some of them, were sealed to."""
        return tuple(self.recipient.split(" "))


class LeaseRow(msgspec.Struct, frozen=True, kw_only=True):
    """A lease. `ask_hash` is over subject, nonce and key, so that one ask has one lease.

    `instance` tells apart those who share a subject (a pod's uid): limits count each by itself.
    """

    id: str
    ask_hash: str
    subject: str
    key_hash: str
    bound: bool
    tenant: str
    model: str
    version: int
    manifest: str
    purpose: str
    action: str
    paths: tuple[str, ...]
    bytes: int
    granted_at: int
    expires_at: int
    total_until: int
    revision: str
    decision_id: str
    ended_at: int | None = None
    end_reason: str | None = None
    instance: str | None = None

    @property
    def holder(self) -> str:
        """Whom bytes are charged to."""
        return holder(self.subject, self.instance)


class Revocation(msgspec.Struct, frozen=True, kw_only=True):
    """Something that may not be used any more.

    `kind` and `target`: a principal's id; a lease's id; `tenant/model@version`. It stands until
    `until` (None: for good), and hits leases granted before and asks after; what it ended stays
    ended.
    """

    id: str
    kind: Literal["principal", "lease", "version"]
    target: str
    at: int
    by: str
    reason: str
    until: int | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What admission counts for one subject and model; None is not limited."""

    max_bytes_per_day: int | None = None
    max_concurrent_leases: int | None = None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What a reference means, and the policy revision that counts, at one moment: all of it was
    read in one state. None is what isn't there; hidden rows are there. `key` is that of the
    version's own artifact."""

    revision: str | None
    model: ModelRow | None
    tag: TagRow | None = None
    version: VersionRow | None = None
    key: KeyRow | None = None


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What admission gave: the lease row that stands, its entry, and whether it stood already."""

    lease: LeaseRow
    entry_id: str
    leaf_hash: bytes
    repeated: bool
