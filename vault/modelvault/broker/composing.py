"""A version's manifest out of a checked draft: composed, signed, and told of."""

from __future__ import annotations

from functools import partial

from modelvault.broker.asked import Authorised
from modelvault.broker.parts import Parts
from modelvault.broker.verified import KnownModel
from modelvault.catalog import UploadRow, VersionRow
from modelvault.clock import to_text
from modelvault.crypto import dsse
from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.lease import Receipt
from modelvault.manifest import PAYLOAD_TYPE, FileEntry, Manifest
from modelvault.record import Entry, SignedVersion
from modelvault.upload import Draft, Published


def compose(
    parts: Parts,
    asked: Authorised,
    model: KnownModel,
    upload: UploadRow,
    draft: Draft,
    files: tuple[FileEntry, ...],
) -> Manifest:
    """The manifest of the model's next version, on the head that `model` shows.

    Raises InvalidRequest for one that no reader would take: nothing of that kind gets signed.
    """
    manifest = Manifest(
        vault=parts.vault,
        tenant=upload.tenant,
        model=upload.model,
        version=model.row.head_version + 1,
        artifact=upload.artifact,
        created_at=to_text(asked.now),
        created_by=asked.principal.id,
        previous=model.row.head_manifest,
        digest_alg=parts.digest_alg,
        files=files,
        hints=draft.hints,
        labels=draft.labels,
        provenance=draft.provenance,
        tensors=draft.tensors,
    )
    try:
        return Manifest.from_bytes(manifest.to_bytes())
    except IntegrityError as refused:
        raise InvalidRequest(
            refused.code, refused.message, "push without public metadata, or fewer files"
        ) from None


def sign(parts: Parts, manifest: Manifest, now: int) -> VersionRow:
    """The signed manifest as the row that publishes it."""
    envelope = dsse.sign(PAYLOAD_TYPE, manifest.to_bytes(), partial(parts.signer.sign, "manifest"))
    return VersionRow(
        tenant=manifest.tenant,
        model=manifest.model,
        version=manifest.version,
        artifact=manifest.artifact,
        digest=envelope.digest,
        manifest=envelope,
        created_at=now,
        created_by=manifest.created_by,
        size=manifest.size,
        files=len(manifest.files),
    )


def published(model: KnownModel, version: VersionRow, told: Entry) -> Published:
    """The answer to a commit."""
    return Published(
        tenant=version.tenant,
        model=version.model,
        version=version.version,
        manifest=version.digest,
        signed=SignedVersion(model=model.row.record, manifest=version.manifest),
        receipt=Receipt(told.id, told.leaf_hash().hex()),
    )
