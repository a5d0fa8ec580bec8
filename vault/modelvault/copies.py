"""What clients and brokers say to each other about a version that goes from one vault to another.

docs/format.md, section 8. The receiving vault invites: it signs that a public key is its own. The
giving vault hands the DEKs over, sealed to that key, only to a vault that its configuration
trusts. The client carries sealed keys, documents and ciphertext, and can open none of it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from modelvault import canonical
from modelvault.crypto.dsse import Envelope
from modelvault.errors import AccessDenied, InvalidRequest
from modelvault.lease import Nonce, Receipt, Recipient
from modelvault.manifest import Id, Name, ObjectName, Positive, Sha256, Time
from modelvault.record import MAX_RECORD, SignedVersion

INVITATION_TYPE = "application/vnd.modelvault.invitation.v1+json"


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A vault's word, signed by its manifest key, that `recipient` is a key of its broker's own,
    good for one import into one model."""

    schema: Literal[1] = 1
    vault: Id
    upload: Id
    tenant: Name
    model: Name
    recipient: Recipient
    nonce: Nonce
    expires_at: Time

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Invitation:
        """Raises IntegrityError: `too_large`, `too_deep`, `bad_json`, `bad_document`."""
        return canonical.decode(data, cls, limit=MAX_RECORD, what="invitation")

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self)


class ImportAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request to take a version in: `reference` is a bare model name, or `name:tag`.

    With the version's documents the broker looks at once whether it would take them; without, it
    finds out when they come.
    """

    reference: str
    source: SignedVersion | None = None


class Importing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An import that was opened: objects are put as an upload's, `invitation` goes to the giver."""

    id: Id
    tenant: Name
    model: Name
    expires_at: Time
    invitation: Envelope


class HandOverAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request to hand a version's keys over to the vault that invites."""

    reference: str
    purpose: Annotated[str, Meta(min_length=1, max_length=64)]
    ticket: Annotated[str, Meta(max_length=128)] | None = None
    invitation: Envelope


class HandedOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys of version `manifest`, for the import `upload` of the vault `destination` alone.

    `sealed` is HPKE over the 32-byte DEKs, one after the other in the order of the artifacts' ids.
    """

    lease: Id
    destination: Id
    upload: Id
    version: Positive
    manifest: Sha256
    decision_id: str
    revision: str
    receipt: Receipt
    sealed: bytes


class ImportedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a file's two objects were put; all else of it stands in the giver's manifest."""

    path: str
    object: ObjectName
    leaves: ObjectName


class ImportDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an import brings: the giver's documents, its sealed keys, and where objects lie."""

    source: SignedVersion
    sealed: bytes
    files: tuple[ImportedFile, ...]


class Carried(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`keys.json` of a folder that carries a version by hand: the import that it is for, and the
    keys, sealed for that import alone."""

    schema: Literal[1] = 1
    importing: Importing
    handed: HandedOver


def same_vault() -> InvalidRequest:
    """The refusal of a copy from a vault into itself."""
    return InvalidRequest(
        "same_vault",
        "both ends of this copy are one vault, which holds each version once",
        "give the version a tag, or push its files to the other model",
    )


def untrusted(vault: str, other: str, action: str, **told: str) -> AccessDenied:
    """The refusal of `vault`, to give to the other one (`export`) or to take from it (`push`)."""
    side, what = ("giving", "give to") if action == "export" else ("receiving", "take from")
    return AccessDenied(
        "untrusted_vault",
        f"the {side} vault, {vault}, may not {what} vault {other}: it doesn't trust it",
        f"an admin of vault {vault} pins the trust file of vault {other} (`modelvault trust "
        "export` there): with `modelvault trust pin FILE` at a home; for a served vault in "
        "[copies] trusted of the deployment file, and its brokers are restarted",
        action=action,
        reasons=["untrusted_vault"],
        vault=vault,
        destination=other,
        **told,
    )
