"""Signed documents for tests: a small vault's keys, records and manifests."""

from __future__ import annotations

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modelvault import canonical
from modelvault.crypto import dsse
from modelvault.crypto.dsse import Envelope, Signature
from modelvault.manifest import PAYLOAD_TYPE, FileEntry, Hints, Manifest, Provenance
from modelvault.record import (
    MODEL_TYPE,
    TAG_TYPE,
    KeyPurpose,
    ModelRecord,
    SignedVersion,
    TagRecord,
    TrustFile,
    TrustKey,
)

VAULT = "0f" * 16
ARTIFACT = "a1" * 16
NOW = "2026-01-02T03:04:05.678Z"


class Keys:
    """One Ed25519 key for each purpose."""

    def __init__(self, seed: int = 1) -> None:
        names: tuple[KeyPurpose, ...] = ("manifest", "record", "log", "bundle")
        self.private = {
            purpose: Ed25519PrivateKey.from_private_bytes(bytes([seed, number]) + bytes(30))
            for number, purpose in enumerate(names)
        }

    def trust(self, vault: str = VAULT) -> TrustFile:
        keys = []
        for purpose, private in self.private.items():
            public = private.public_key().public_bytes_raw()
            keys.append(
                TrustKey(
                    keyid=dsse.keyid(public), purpose=purpose, public_key=public, valid_from=NOW
                )
            )
        return TrustFile(vault=vault, keys=tuple(keys), serial=1)

    def sign(self, purpose: KeyPurpose, kind: str, payload: bytes) -> Envelope:
        private = self.private[purpose]
        name = dsse.keyid(private.public_key().public_bytes_raw())
        return dsse.sign(kind, payload, lambda message: Signature(name, private.sign(message)))

    def signed(self, document: ModelRecord | TagRecord | Manifest) -> Envelope:
        """`document` signed as what it is, by the key it needs."""
        kind, purpose = {
            ModelRecord: (MODEL_TYPE, "record"),
            TagRecord: (TAG_TYPE, "record"),
            Manifest: (PAYLOAD_TYPE, "manifest"),
        }[type(document)]
        return self.sign(purpose, kind, canonical.encode(document))


def entry(path: str = "model.bin", number: int = 0, **changes: object) -> FileEntry:
    made = FileEntry(
        path,
        size=100,
        segment_length=64,
        artifact=ARTIFACT,
        object=f"objects/{2 * number:032x}",
        leaves=f"objects/{2 * number + 1:032x}",
        digest="blake3:" + "00" * 32,
    )
    return msgspec.structs.replace(made, **changes)


def manifest(**changes: object) -> Manifest:
    made = Manifest(
        vault=VAULT,
        tenant="default",
        model="m",
        version=1,
        artifact=ARTIFACT,
        created_at=NOW,
        created_by="local:alice",
        previous=None,
        digest_alg="blake3",
        files=(entry(),),
        hints=Hints(),
        labels={},
        provenance=Provenance(),
    )
    return msgspec.structs.replace(made, **changes)


def model_record(**changes: object) -> ModelRecord:
    made = ModelRecord(
        vault=VAULT,
        tenant="default",
        model="m",
        owner="local:alice",
        classification="internal",
        serial=1,
        created_at=NOW,
    )
    return msgspec.structs.replace(made, **changes)


def tag_record(of: Manifest, **changes: object) -> TagRecord:
    digest = dsse.sign("", of.to_bytes(), lambda _: Signature("", b"")).digest
    made = TagRecord(
        vault=VAULT,
        tenant="default",
        model="m",
        tag="prod",
        version=of.version,
        manifest=digest,
        serial=1,
    )
    return msgspec.structs.replace(made, **changes)


def signed_version(
    keys: Keys, of: Manifest, record: ModelRecord | None = None, tag: TagRecord | None = None
) -> SignedVersion:
    return SignedVersion(
        model=keys.signed(record or model_record()),
        manifest=keys.signed(of),
        tag=keys.signed(tag) if tag else None,
    )
