"""What client and broker say to each other about a push and a load."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modelvault.access import Obligations
from modelvault.manifest import (
    Count,
    Digest,
    DigestAlgorithm,
    FileEntry,
    Hints,
    Id,
    Label,
    Name,
    ObjectName,
    Positive,
    Provenance,
    Sha256,
    TensorEntry,
    Time,
)  # fmt: skip
from modelvault.record import Entry, SignedVersion

Nonce = Annotated[bytes, Meta(min_length=16, max_length=16)]
ContentTag = Annotated[bytes, Meta(min_length=32, max_length=32)]
Suite = Literal["mlkem768-x25519", "x25519"]

MAX_PARTS = 10_000  # S3's limit of one multipart upload
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


class DeclaredFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A path that will be pushed, and its plaintext size in bytes as seen before reading."""

    path: str
    size: Count


class PushAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request to make a new version: `reference` is a bare model name, or `name:tag`.

    A tag is only checked here, so that a refusal comes before the upload and not after it; it is
    moved by the steward's `tag` once the version stands.
    """

    reference: str
    files: tuple[DeclaredFile, ...]
    nonce: Nonce
    recipient: Recipient


class Upload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An opened version. `sealed` is HPKE over the 32-byte FileKeys, in the order of the ask's
    files, and behind them the content keys in the same order.

    `candidates` are the paths that may be unchanged: the same identity has pushed them before, with
    the same size.
    """

    id: Id
    tenant: Name
    model: Name
    artifact: Id
    segment_length: Positive
    digest_alg: DigestAlgorithm
    expires_at: Time
    sealed: bytes
    candidates: tuple[str, ...] = ()


class TaggedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file that may be unchanged, and its content tag (`artifact.content`)."""

    path: str
    content: ContentTag


class CompareAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The question which of an upload's candidates are unchanged."""

    files: tuple[TaggedFile, ...]


class Compared(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The earlier entries of those that are: they need not be uploaded."""

    files: tuple[FileEntry, ...]


class ResumeAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request to go on with an upload whose process died: its FileKeys for a new recipient."""

    nonce: Nonce
    recipient: Recipient


class PutAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request for links to put one object of an upload, in consecutive requests of `sizes` bytes.

    `seed` is 16 random bytes of the client's: with the upload's id it makes the object's name
    (`derive.object_name`), so that no other upload's objects can be written. `parts` are the
    numbers, from 1, of those wanted now. `transfer` is what the first answer gave; with no `parts`
    it asks which of them the store has.
    """

    seed: Id
    sizes: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=MAX_PARTS)]
    transfer: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None
    parts: Annotated[tuple[Positive, ...], Meta(max_length=MAX_LINKS)] = ()


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


class Putting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Links to put an object; `transfer` names it at the store (None: it takes one request).

    `done` are the parts that the store has, told when no parts were asked for.
    """

    object: ObjectName
    transfer: str | None
    done: tuple[Positive, ...]
    links: tuple[Link, ...]
    ttl_s: Positive


class DraftFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file as it was encrypted and put: size is the plaintext's, `content` the content tag by
    which the same identity's next push may find it unchanged."""

    path: str
    size: Count
    object: ObjectName
    leaves: ObjectName
    digest: Digest
    content: ContentTag


class Draft(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The pusher's half of a manifest. The broker believes none of it about who and which.

    `files` were put, `unchanged` are as in the version that the upload is compared with; together
    they are the declared ones.
    """

    files: tuple[DraftFile, ...]
    unchanged: tuple[TaggedFile, ...] = ()
    hints: Hints = Hints()
    labels: dict[Label, Label] = {}
    provenance: Provenance = Provenance()
    tensors: tuple[TensorEntry, ...] | None = None


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A version that stands."""

    tenant: Name
    model: Name
    version: Positive
    manifest: Sha256
    signed: SignedVersion
    receipt: Receipt


class VersionSummary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One version in a listing; `size` in plaintext bytes."""

    version: Positive
    manifest: Sha256
    created_at: Time
    created_by: str
    size: Count
    files: Count
    kek_version: Positive | None
    hidden_at: Time | None


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
