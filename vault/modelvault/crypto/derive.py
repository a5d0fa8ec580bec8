"""Every label and every derivation of the vault, in one place.

docs/format.md, section 1. Two derivations with the same label would be one key with two uses: a
test checks that no two labels here are equal and that none is a prefix of another.
"""

from __future__ import annotations

import base64
import hashlib

from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from modelvault import canonical
from modelvault.crypto.secret import Secret

FILE_KEY = b"modelvault/file-key/v1"
FILE_AAD = b"modelvault/file/v1"
LEAF_LIST_SHA256 = b"modelvault leaf list v1"
LEAF_LIST_BLAKE3 = "modelvault 2026 leaf list v1"
ROOT_KEK = b"modelvault/local-keyring/kek/v1"
ROOT_SIGNING = b"modelvault/local-keyring/signing/v1"
ROOT_CHECK = b"modelvault/local-keyring/check/v1"
LOCAL_DEK = b"modelvault/local-keyring/dek/v1"
OBJECT_NAME = b"modelvault/object-name/v1"
IMPORT_X25519 = b"modelvault/import/x25519/v1"
IMPORT_MLKEM = b"modelvault/import/mlkem768/v1"
IMPORT_NONCE = b"modelvault/import/nonce/v1"
CONTENT_ARTIFACT = b"modelvault/content-artifact/v1"
CONTENT_KEY = b"modelvault/content-key/v1"
CONTENT_FINGERPRINT = b"modelvault/content-fingerprint/v1"

LABELS: tuple[bytes, ...] = (
    FILE_KEY,
    FILE_AAD,
    LEAF_LIST_SHA256,
    LEAF_LIST_BLAKE3.encode(),
    ROOT_KEK,
    ROOT_SIGNING,
    ROOT_CHECK,
    LOCAL_DEK,
    OBJECT_NAME,
    IMPORT_X25519,
    IMPORT_MLKEM,
    IMPORT_NONCE,
    CONTENT_ARTIFACT,
    CONTENT_KEY,
    CONTENT_FINGERPRINT,
)

KEY_BYTES = 32


def expand(key: Secret, label: bytes, *parts: bytes, size: int = KEY_BYTES) -> Secret:
    """HKDF-Expand-SHA-384(key, label 00 part 00 part ...): `size` bytes (RFC 5869, section 2.3).

    Callers see to it that no part but the last can hold a zero byte.
    """
    expansion = HKDFExpand(SHA384(), size, b"\0".join((label, *parts)))
    return Secret.filled(size, lambda out: expansion.derive_into(key.reveal(), out))


def file_key(dek: Secret, artifact: str, path: str) -> Secret:
    """The key of one file's FLOE ciphertext."""
    return expand(dek, FILE_KEY, artifact.encode("ascii"), path.encode("utf-8"))


def file_aad(artifact: str, path: str) -> bytes:
    """FLOE's associated data for one file: it opens under this artifact and path alone."""
    return b"\0".join((FILE_AAD, artifact.encode("ascii"), path.encode("utf-8")))


def key_context(vault: str, tenant: str, model: str, artifact: str) -> bytes:
    """What a wrapped DEK is bound to (32 bytes): the key service's derivation context."""
    document = {"v": 1, "vault": vault, "tenant": tenant, "model": model, "artifact": artifact}
    return hashlib.sha256(canonical.dumps(document)).digest()


def content_artifact(vault: str, tenant: str, model: str) -> str:
    """The id under which the ledger keeps a model's content key, as it does an artifact's DEK.

    No version can be of this artifact: those have random ids, which the broker draws.
    """
    document = {"v": 1, "vault": vault, "tenant": tenant, "model": model}
    named = CONTENT_ARTIFACT + b"\0" + canonical.dumps(document)
    return hashlib.sha256(named).hexdigest()[:32]


def content_key(content: Secret, path: str) -> Secret:
    """The key of the content tags of one path, out of the model's content key."""
    return expand(content, CONTENT_KEY, path.encode("utf-8"))


def fingerprint(content: Secret, artifact: str, path: str, digest: str, tag: bytes) -> bytes:
    """What the ledger keeps of a content tag (32 bytes): good for this one file's ciphertext alone.

    Pushers hold no key for it: they can neither test a guess against a fingerprint that they read,
    nor make one. Moved to another file it is none.
    """
    names = (artifact.encode("ascii"), path.encode("utf-8"), digest.encode("ascii"))
    info = b"\0".join((CONTENT_FINGERPRINT, *names, tag))
    return HKDFExpand(SHA384(), KEY_BYTES, info).derive(content.reveal())


def kek_name(vault: str, tenant: str, model: str) -> str:
    """The name of a model's KEK at the key service: safe in any URL, whatever the model's name."""
    document = {"v": 1, "vault": vault, "tenant": tenant, "model": model}
    text = base64.b32encode(hashlib.sha256(canonical.dumps(document)).digest()).decode().lower()
    return "mv-" + text[:40]


def object_name(upload: str, seed: str) -> str:
    """The name of an object of one upload, by the putter's 16 random bytes `seed` (hex).

    Whoever gives out links for an upload derives the name: no link leads to an object of another
    upload, and none to one that stands.
    """
    named = b"\0".join((OBJECT_NAME, upload.encode("ascii"), seed.encode("ascii")))
    return "objects/" + hashlib.sha256(named).hexdigest()[:32]
