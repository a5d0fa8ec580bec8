"""What an import is made of: its recipient key, its invitation, its manifest. Nothing is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec

from modelvault.artifact.trust import Verified
from modelvault.broker.asked import Authorised
from modelvault.broker.parts import Parts
from modelvault.broker.verified import KnownModel
from modelvault.catalog import UploadRow
from modelvault.clock import to_text
from modelvault.copies import INVITATION_TYPE, ImportedFile, Invitation
from modelvault.crypto import derive, dsse, hpke
from modelvault.crypto.dsse import Envelope
from modelvault.crypto.hpke import RecipientKey
from modelvault.crypto.secret import Secret
from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.lease import Recipient
from modelvault.manifest import CopiedFrom, FileEntry, Manifest

_MLKEM_SEED = 64
_NONCE = 16


class Invited(msgspec.Struct, frozen=True):
    """An import with its recipient key, for as long as a block of code takes."""

    vault: str
    upload: str
    tenant: str
    model: str
    key: RecipientKey
    nonce: bytes

    @property
    def recipient(self) -> Recipient:
        """The public half."""
        return Recipient(self.key.suite, self.key.public)  # type: ignore[arg-type]

    def invitation(self, expires_at: str) -> Invitation:
        """What is signed for the giver."""
        return Invitation(
            vault=self.vault,
            upload=self.upload,
            tenant=self.tenant,
            model=self.model,
            recipient=self.recipient,
            nonce=self.nonce,
            expires_at=expires_at,
        )


@contextmanager
def invited(
    vault: str, upload: str, tenant: str, model: str, transport: Secret
) -> Iterator[Invited]:
    """The import whose data key is `transport`: the same key and nonce each time it is asked."""
    part = upload.encode("ascii")
    with (
        derive.expand(transport, derive.IMPORT_X25519, part) as x25519,
        derive.expand(transport, derive.IMPORT_MLKEM, part, size=_MLKEM_SEED) as mlkem,
        derive.expand(transport, derive.IMPORT_NONCE, part, size=_NONCE) as nonce,
    ):
        key = hpke.derived(x25519, mlkem)
        try:
            yield Invited(vault, upload, tenant, model, key, bytes(nonce.reveal()))
        finally:
            key.drop()


def sign(parts: Parts, invitation: Invitation) -> Envelope:
    """By the manifest key: the one that brokers have. The type keeps it apart from manifests."""
    payload = invitation.to_bytes()
    return dsse.sign(INVITATION_TYPE, payload, partial(parts.signer.sign, "manifest"))


def origin(source: Verified) -> CopiedFrom:
    """The version that is being copied."""
    manifest = source.manifest
    return CopiedFrom(
        manifest.vault, manifest.tenant, manifest.model, manifest.version, source.digest
    )


def check_declared(row: UploadRow, manifest: Manifest) -> None:
    """An import that was opened for certain files takes those.

    Raises InvalidRequest (`not_as_declared`).
    """
    files = tuple((file.path, file.size) for file in manifest.files)
    if row.paths and files != tuple(zip(row.paths, row.sizes, strict=True)):
        raise InvalidRequest(
            "not_as_declared", "this import was opened for another version", "begin it anew"
        )


def check_artifacts(vault: str, tenant: str, model: str, manifest: Manifest) -> None:
    """No artifact is the place where the ledger keeps the model's content key: a giver that could
    fill it would know the key that later pushes are compared with.

    Raises IntegrityError (`other_key`).
    """
    reserved = derive.content_artifact(vault, tenant, model)
    if reserved in {manifest.artifact, *(file.artifact for file in manifest.files)}:
        raise IntegrityError(
            "other_key",
            "the giver's manifest names an artifact that only this vault can have",
            "don't trust that vault",
        )


def entries(manifest: Manifest, put: Sequence[ImportedFile]) -> tuple[FileEntry, ...]:
    """The giver's entries, each under the objects that it was put as.

    Raises InvalidRequest: `files_missing` where there are none yet, `not_as_declared` unless it is
    the same files in the same order.
    """
    if not put:
        raise InvalidRequest(
            "files_missing", "all else is well, but no file was put yet", "put the objects first"
        )
    if tuple(file.path for file in put) != tuple(file.path for file in manifest.files):
        raise InvalidRequest(
            "not_as_declared",
            "the files that were put aren't those of the manifest, in its order",
            "copy again; if it happens twice, use the client of this vault's version",
        )
    return tuple(
        msgspec.structs.replace(file, object=at.object, leaves=at.leaves)
        for file, at in zip(manifest.files, put, strict=True)
    )


def compose(
    parts: Parts,
    asked: Authorised,
    model: KnownModel,
    source: Verified,
    files: Sequence[FileEntry],
) -> Manifest:
    """The giver's manifest as the next version of `model`: contents and claims as they were, who
    and when and which as they are here.

    Raises InvalidRequest for one that no reader would take: nothing of that kind gets signed.
    """
    given = source.manifest
    manifest = msgspec.structs.replace(
        given,
        vault=parts.vault,
        tenant=model.record.tenant,
        model=model.record.model,
        version=model.row.head_version + 1,
        created_at=to_text(asked.now),
        created_by=asked.principal.id,
        previous=model.row.head_manifest,
        files=tuple(files),
        provenance=msgspec.structs.replace(given.provenance, copied_from=origin(source)),
    )
    try:
        return Manifest.from_bytes(manifest.to_bytes())
    except IntegrityError as refused:
        raise InvalidRequest(refused.code, refused.message, "it can't be copied") from None
