"""A version that refers to unchanged files of an older one, as later releases will push it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import partial

import msgspec

from modelvault.crypto import dsse
from modelvault.manifest import PAYLOAD_TYPE, FileEntry, Manifest
from modelvault.reference import Reference
from support.vaults import SEGMENT, Vault


def push_sharing(vault: Vault, name: str, older: int, new: Mapping[str, bytes]) -> Manifest:
    """The next version of a model: all files of version `older`, and some new ones."""
    reference = Reference.parse(name)
    head = vault.ledger.model(reference.tenant, reference.model)
    upload, draft = vault.upload(name, new)
    row = vault.ledger.version(reference.tenant, reference.model, older)
    before = Manifest.from_bytes(row.manifest.payload)
    added = tuple(
        FileEntry(
            path=file.path,
            size=file.size,
            segment_length=SEGMENT,
            artifact=upload.artifact,
            object=file.object,
            leaves=file.leaves,
            digest=file.digest,
        )
        for file in draft.files
    )
    manifest = msgspec.structs.replace(
        before,
        version=head.head_version + 1,
        artifact=upload.artifact,
        previous=head.head_manifest,
        files=tuple(sorted((*before.files, *added), key=lambda file: file.path)),
    )
    sign = partial(vault.keyring.sign, "manifest")
    envelope = dsse.sign(PAYLOAD_TYPE, manifest.to_bytes(), sign)
    published = msgspec.structs.replace(
        row,
        version=manifest.version,
        artifact=upload.artifact,
        digest=envelope.digest,
        manifest=envelope,
        size=manifest.size,
        files=len(manifest.files),
        hidden_at=None,
    )
    told = msgspec.structs.replace(vault.entries()[0], seq=0, id=secrets.token_hex(16))
    vault.ledger.publish(upload.id, published, head.head_manifest, told)
    return manifest
