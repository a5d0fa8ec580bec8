"""Small signed documents, and what the audit log holds."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modelvault import canonical
from modelvault.crypto import dsse
from modelvault.crypto.dsse import Envelope
from modelvault.manifest import Id, Name, Positive, Sha256, Time

MODEL_TYPE = "application/vnd.modelvault.model.v1+json"
TAG_TYPE = "application/vnd.modelvault.tag.v1+json"
POLICY_TYPE = "application/vnd.modelvault.policy.v1+json"
TRUST_TYPE = "application/vnd.modelvault.trust.v1+json"
TRUSTED_TYPE = "application/vnd.modelvault.trusted.v1+json"
MAX_RECORD = 64 << 10
MAX_TRUST = 256 << 10

KeyPurpose = Literal["manifest", "record", "log", "bundle"]
Classification = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}\Z")]


class ModelRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model's owner and classification: an admin's word, and the only source of both."""

    schema: Literal[1] = 1
    vault: Id
    tenant: Name
    model: Name
    owner: Annotated[str, Meta(min_length=1, max_length=256)]
    classification: Classification
    serial: Positive
    created_at: Time


class TagRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which version a tag means. Every move, also backwards, raises the serial."""

    schema: Literal[1] = 1
    vault: Id
    tenant: Name
    model: Name
    tag: Name
    version: Positive
    manifest: Sha256
    serial: Positive


class PolicyRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """That a policy of this revision (the hash of its contents) may be used in this vault."""

    schema: Literal[1] = 1
    vault: Id
    revision: Sha256


class TrustKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A raw Ed25519 public key (32 bytes) and the one purpose it signs for."""

    keyid: Sha256
    purpose: KeyPurpose
    public_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    valid_from: Time
    retired: Time | None = None


class TrustFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys that a vault signs with: reaches a job by another way than the broker or store.

    A key id that isn't its key's hash, or a key that stands twice (one key, one purpose), is a
    ValueError here and an IntegrityError (`bad_document`) where it is parsed.
    """

    schema: Literal[1] = 1
    vault: Id
    keys: tuple[TrustKey, ...]
    serial: Positive

    def __post_init__(self) -> None:
        if any(key.keyid != dsse.keyid(key.public_key) for key in self.keys):
            raise ValueError("a key id isn't the hash of its key")
        if len({key.keyid for key in self.keys}) != len(self.keys):
            raise ValueError("a key stands twice; each has one purpose")

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> TrustFile:
        """Raises IntegrityError: `too_large`, `too_deep`, `bad_json`, `bad_document`."""
        return canonical.decode(data, cls, limit=MAX_TRUST, what="trust file")

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self)

    def keys_for(self, purpose: KeyPurpose) -> dict[str, bytes]:
        """{keyid: public key} of the keys for `purpose`, retired ones too: they signed the past."""
        return {key.keyid: key.public_key for key in self.keys if key.purpose == purpose}

    def current_keys(self, purpose: KeyPurpose, at: str) -> dict[str, bytes]:
        """As `keys_for`, without those that are retired at `at` (a Time): for what is new."""
        return {
            key.keyid: key.public_key
            for key in self.keys
            if key.purpose == purpose and (key.retired is None or key.retired > at)
        }


class TrustedRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """That the vault `vault` lets another give and get versions, by that one's trust file."""

    schema: Literal[1] = 1
    vault: Id
    trusted: TrustFile


class SignedVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that a loader verifies before it believes a version: three envelopes.

    `tag` is there only where the reference named one.
    """

    model: Envelope
    manifest: Envelope
    tag: Envelope | None = None


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of the audit log, written in the transaction of what it tells.

    `seq` is given by the ledger (0 before); `id` is 32 hex. `outcome` is `allowed`, `denied`,
    `failed` or `done`. Details are plain values, never keys, tokens or file contents.
    """

    schema: Literal[1] = 1
    seq: int = 0
    id: Id
    at: Time
    actor: str
    action: str
    outcome: Literal["allowed", "denied", "failed", "done"]
    tenant: str | None = None
    model: str | None = None
    version: int | None = None
    purpose: str | None = None
    lease: str | None = None
    decision_id: str | None = None
    revision: str | None = None
    reasons: tuple[str, ...] = ()
    details: dict[str, str | int | bool | None] = {}

    def leaf_hash(self) -> bytes:
        """SHA-256(00 || canonical entry), as RFC 9162 section 2.1.1 hashes a leaf; 32 bytes."""
        return hashlib.sha256(b"\0" + canonical.encode(self)).digest()
