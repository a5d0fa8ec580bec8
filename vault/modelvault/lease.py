"""What client and broker say to each other about a load, and what a broker tells of its vault."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modelvault.access import Obligations
from modelvault.manifest import (
    Count,
    Id,
    Name,
    ObjectName,
    Positive,
    Sha256,
    Time,
)  # fmt: skip
from modelvault.record import Entry, SignedVersion

Nonce = Annotated[bytes, Meta(min_length=16, max_length=16)]
Suite = Literal["mlkem768-x25519", "x25519"]

MAX_LINKS = 1_000  # in one answer


class Recipient(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An HPKE public key: 32 bytes for x25519, 1,184 + 32 for mlkem768-x25519."""

    suite: Suite
    public_key: bytes


class LeaseAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request for the keys of some or all files of a version.

    `action` is what will be done with them: `load` keeps plaintext in memory, `export` writes it
    to a disk. `fulfils` lists the obligation types that this loader knows how to keep.
    """

    reference: str
    purpose: Annotated[str, Meta(min_length=1, max_length=64)]
    action: Literal["load", "export"] = "load"
    files: tuple[str, ...] | None = None
    ticket: Annotated[str, Meta(max_length=128)] | None = None
    nonce: Nonce
    recipient: Recipient
    fulfils: tuple[str, ...]


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the grant stands in the audit log."""

    entry: Id
    leaf_hash: str


class Lease(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A grant. `sealed` is HPKE over the 32-byte FileKeys, one after the other in `paths`' order.

    `ttl_s` counts from the moment the ask was sent, on the asker's boot clock.
    """

    id: Id
    tenant: Name
    model: Name
    version: Positive
    manifest: Sha256
    paths: tuple[str, ...]
    ttl_s: Positive
    expires_at: Time
    obligations: Obligations
    decision_id: str
    revision: str
    receipt: Receipt
    sealed: bytes
    signed: SignedVersion


class Renewal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A lease's next stretch: `ttl_s` from the moment the renewal was asked for."""

    ttl_s: Positive
    expires_at: Time
    obligations: Obligations


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One request on one object that its holder may make: GET, or PUT of part `part`.

    `headers` are part of what was signed and must be sent as they stand. A link is a credential:
    it stands in no message and no log.
    """

    object: ObjectName
    url: str
    headers: dict[str, str] = {}
    part: Positive | None = None

    def __repr__(self) -> str:
        return f"<Link to {self.object}>"


class Links(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Links that are good for `ttl_s` seconds from the moment they were asked for."""

    links: tuple[Link, ...]
    ttl_s: Positive


class VersionSummary(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """One version in a listing; `size` in plaintext bytes; `revoked_at` only of a revoked one."""

    version: Positive
    manifest: Sha256
    created_at: Time
    created_by: str
    size: Count
    files: Count
    kek_version: Positive | None
    hidden_at: Time | None
    # Left out where it is None: so a client from before it was told reads all the others.
    revoked_at: Time | None = None


class TagSummary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A tag and where it points."""

    tag: Name
    version: Positive
    serial: Positive


class ModelSummary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model in a listing."""

    tenant: Name
    model: Name
    owner: str
    classification: str
    created_at: Time
    versions: Count
    latest: Positive | None
    size: Count
    tags: tuple[TagSummary, ...]


class ModelDetail(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that `show` tells; `signed` is the version that the reference means, if there is one."""

    summary: ModelSummary
    versions: tuple[VersionSummary, ...]
    signed: SignedVersion | None


class LeaseSummary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A lease as admins see it."""

    id: Id
    subject: str
    tenant: Name
    model: Name
    version: Positive
    purpose: str
    action: str
    granted_at: Time
    expires_at: Time
    ended_at: Time | None
    end_reason: str | None
    bytes: Count


class Explanation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the policy would say, without granting anything."""

    allowed: bool
    reasons: tuple[str, ...]
    obligations: Obligations
    revision: str
    decision_id: str


class PolicyBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A policy as admins send and get it: Rego modules by path, and the text of data.json."""

    modules: dict[str, str]
    data: str


class PolicyRevision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A policy that the vault keeps, and whether it is the one that counts."""

    revision: Sha256
    kept_at: Time
    current: bool


class Swept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `gc` removed, or would remove."""

    uploads: Count
    versions: Count
    objects: Count
    bytes: Count


class Rotated(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `rotate` did: the new KEK version and how many wrapped keys were rewrapped."""

    tenant: Name
    model: Name
    kek_version: Positive
    rewrapped: Count


class EntryPage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Some audit entries in order, and the `seq` to go on after (None: that was the last)."""

    entries: tuple[Entry, ...]
    next: int | None
