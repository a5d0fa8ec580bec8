"""What client and broker say to each other about a push."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from modelvault.lease import MAX_LINKS, Link, Nonce, Receipt, Recipient
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
from modelvault.record import SignedVersion

ContentTag = Annotated[bytes, Meta(min_length=32, max_length=32)]
Paths = Annotated[tuple[str, ...], Meta(min_length=1)]

MAX_PARTS = 10_000  # S3's limit of one multipart upload


class DeclaredFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A path that will be pushed, and its plaintext size in bytes as seen before reading."""

    path: str
    size: Count


class PushAsk(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """A request to make a new version: `reference` is a bare model name, or `name:tag`.

    A tag is only checked here, so that a refusal comes before the upload and not after it; it is
    moved by the steward's `tag` once the version stands. `keys` are the paths whose keys are
    wanted, where others write the rest (`ResumeAsk`); None for all.
    """

    reference: str
    files: tuple[DeclaredFile, ...]
    nonce: Nonce
    recipient: Recipient
    # Left out where it is None: so a broker from before it was known takes all other asks.
    keys: Paths | None = None


class Upload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An opened version. `sealed` is HPKE over the 32-byte FileKeys, in the order of the ask's
    files, or of its `keys` where it names some, and behind them the content keys in the same order.

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


class ResumeAsk(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """A request to go on with an upload whose process died: its FileKeys for a new recipient.

    With `keys`, to join one that goes on: the keys of these paths alone, for one more recipient.
    """

    nonce: Nonce
    recipient: Recipient
    keys: Paths | None = None


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
