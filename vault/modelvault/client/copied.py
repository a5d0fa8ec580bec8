"""Whether what stands in one vault is what lay in another. Decisions only."""

from __future__ import annotations

import msgspec

from modelvault.artifact import trust as trusting
from modelvault.artifact.trust import Verified
from modelvault.client.context import Context
from modelvault.client.tag import exact
from modelvault.copies import (
    INVITATION_TYPE,
    HandedOver,
    HandOverAsk,
    ImportedFile,
    Importing,
    Invitation,
)
from modelvault.crypto import dsse
from modelvault.errors import IntegrityError
from modelvault.identity.binding import key_hash
from modelvault.manifest import CopiedFrom, FileEntry, Manifest
from modelvault.record import SignedVersion, TrustFile
from modelvault.reference import Reference
from modelvault.upload import Published

PURPOSE = "copy"


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """A version that stands in the receiving vault, and which it is a copy of; `new` is false where
    it stood there before. `size` in plaintext bytes."""

    tenant: str
    model: str
    version: int
    manifest: str
    tag: str | None
    files: int
    size: int
    new: bool
    source: CopiedFrom


class Source(msgspec.Struct, frozen=True):
    """The version that is copied: its documents, without a tag's, and what they say."""

    signed: SignedVersion
    verified: Verified

    @property
    def manifest(self) -> Manifest:
        """The giving vault's manifest."""
        return self.verified.manifest

    @property
    def origin(self) -> CopiedFrom:
        """What the copy's manifest must name."""
        manifest = self.verified.manifest
        return CopiedFrom(
            manifest.vault, manifest.tenant, manifest.model, manifest.version, self.verified.digest
        )


def check_invitation(trust: TrustFile, importing: Importing, target: Reference) -> Invitation:
    """The invitation, once the receiving vault's own trust file has confirmed it.

    Raises IntegrityError (`unknown_key`, `bad_signature`, `wrong_vault`).
    """
    payload = dsse.verify(
        importing.invitation, INVITATION_TYPE, trust.keys_for("manifest"), "the invitation"
    )
    invitation = Invitation.from_bytes(payload)
    said = (invitation.vault, invitation.upload, invitation.tenant, invitation.model)
    if said != (trust.vault, importing.id, target.tenant, target.model):
        raise IntegrityError(
            "wrong_vault", "the invitation isn't for this import", "don't trust this broker"
        )
    return invitation


def hand_over(
    giver: Context,
    exact: Reference,
    manifest: str,
    importing: Importing,
    purpose: str,
    ticket: str | None,
) -> HandedOver:
    """The keys of the version `exact`, sealed for an import; the giver's broker decides for whom.

    Raises IntegrityError (`wrong_version`) where they are of another manifest or import.
    """
    recipient = Invitation.from_bytes(importing.invitation.payload).recipient
    ask = HandOverAsk(
        reference=str(exact), purpose=purpose, ticket=ticket, invitation=importing.invitation
    )
    caller = giver.credentials.caller(key_hash(recipient.suite, recipient.public_key))
    handed = giver.broker.hand_over(caller, ask)
    if (handed.upload, handed.manifest) != (importing.id, manifest):
        raise IntegrityError(
            "wrong_version",
            "the keys are of another version, or for another import",
            "don't trust this broker",
        )
    return handed


def check_published(
    receiver: Context,
    source: Source,
    target: Reference,
    published: Published,
    put: tuple[ImportedFile, ...],
) -> Copied:
    """The new version is signed, holds the objects that were put, and is what was copied."""
    named = Reference(target.tenant, target.model, version=published.version)
    verified = trusting.verify(published.signed, named, receiver.trust, receiver.pins.seen())
    objects = [(file.path, file.object, file.leaves) for file in put]
    made = [(file.path, file.object, file.leaves) for file in verified.manifest.files]
    if objects != made or verified.digest != published.manifest:
        raise _other(named)
    return _result(receiver, source, target, verified, new=True)


def check_standing(
    receiver: Context, source: Source, target: Reference, published: Published
) -> Copied:
    """As `check_published`, for what an earlier run has put."""
    named = Reference(target.tenant, target.model, version=published.version)
    verified = trusting.verify(published.signed, named, receiver.trust, receiver.pins.seen())
    return _result(receiver, source, target, verified, new=False)


def find(receiver: Context, source: Source, target: Reference, version: int) -> Copied:
    """The copy that the receiving vault says it has already."""
    named = Reference(target.tenant, target.model, version=version)
    seen = receiver.pins.seen()
    signed = receiver.broker.show(receiver.credentials.caller(), str(named)).signed
    if signed is None:
        raise _other(named)
    verified = trusting.verify(signed, named, receiver.trust, seen)
    return _result(receiver, source, target, verified, new=False)


def _result(
    receiver: Context, source: Source, target: Reference, verified: Verified, *, new: bool
) -> Copied:
    manifest = verified.manifest
    if _contents(manifest) != _contents(source.manifest):
        raise _other(exact(verified))
    if new and manifest.provenance.copied_from != source.origin:
        raise _other(exact(verified))
    receiver.pins.remember(verified.seen)
    return Copied(
        tenant=manifest.tenant,
        model=manifest.model,
        version=manifest.version,
        manifest=verified.digest,
        tag=target.tag,
        files=len(manifest.files),
        size=manifest.size,
        new=new,
        source=source.origin,
    )


def _contents(manifest: Manifest) -> tuple[object, ...]:
    """All of a manifest that a copy keeps: ciphertexts, and what was said of them."""

    def ciphertext(file: FileEntry) -> tuple[object, ...]:
        return (file.path, file.size, file.segment_length, file.artifact, file.digest)

    return (
        manifest.artifact,
        manifest.digest_alg,
        tuple(map(ciphertext, manifest.files)),
        manifest.hints,
        manifest.labels,
        msgspec.structs.replace(manifest.provenance, copied_from=None),
        manifest.tensors,
    )


def _other(named: Reference) -> IntegrityError:
    return IntegrityError(
        "not_what_was_copied",
        f"{named} holds something else than was copied",
        "don't use this version: ask who runs the receiving vault",
    )
