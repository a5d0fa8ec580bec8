"""Key services: who makes, unwraps, rotates and signs."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from modelvault.crypto.dsse import Signature
from modelvault.crypto.secret import Secret

SigningPurpose = Literal["manifest", "record", "log", "bundle", "token"]


class WrappedKey(msgspec.Struct, frozen=True):
    """A DEK under version `kek_version` of a KEK; opaque to all but the key service."""

    wrapped: bytes
    kek_version: int


class KeyService(Protocol):
    """The broker's identity at the key service.

    `key` is a name by `derive.kek_name`, `context` 32 bytes by `derive.key_context`.
    """

    def data_key(self, key: str, context: bytes) -> tuple[Secret, WrappedKey]:
        """A fresh 32-byte DEK, and the same wrapped by the KEK's newest version.

        Raises NotFound (`no_kek`) when the KEK doesn't exist: it is never made on the way.
        """
        ...

    def wrap(self, key: str, dek: Secret, context: bytes) -> WrappedKey:
        """A DEK that another vault made (32 bytes), under the KEK's newest version.

        It unwraps as one of `data_key` does. Raises InvalidRequest (`bad_dek`) for any
        other length; without the KEK NotFound (`no_kek`), or Unavailable where the key service only
        says that it denies making one. The DEK stays the caller's to wipe.
        """
        ...

    def unwrap(self, key: str, wrapped: WrappedKey, context: bytes) -> Secret:
        """The DEK. Idempotent. The caller wipes it.

        Raises NotFound (`no_kek`), Conflict (`kek_version_retired`) when that version may no
        longer decrypt, IntegrityError (`bad_wrapped_key`) for another context, KEK or bytes.
        """
        ...


class KeyAdmin(Protocol):
    """The steward's identity at the key service: can't unwrap."""

    def create(self, key: str) -> None:
        """Make a KEK at version 1. Raises Conflict (`kek_exists`).

        It is made once; callers at the same moment may all be told that they made it."""
        ...

    def rotate(self, key: str) -> int:
        """Add a version and return its number; new data keys use it. Raises NotFound (`no_kek`)."""
        ...

    def versions(self, key: str) -> tuple[int, int]:
        """(lowest version that may decrypt, newest version). Raises NotFound (`no_kek`)."""
        ...

    def rewrap(self, key: str, batch: list[tuple[WrappedKey, bytes]]) -> list[WrappedKey]:
        """Each (wrapped, context) under the newest version, in order, at most 200 of them.

        The DEKs stay inside the key service. All or nothing. Errors as `KeyService.unwrap`.
        """
        ...

    def retire(self, key: str, below: int) -> None:
        """From now on no version under `below` decrypts; their key bytes are destroyed.

        Idempotent; can't be undone. Raises NotFound (`no_kek`).
        """
        ...


class Signer(Protocol):
    """Ed25519 signing keys, one purpose each; `dsse.sign` and `identity.mint` build on them."""

    def sign(self, purpose: SigningPurpose, message: bytes) -> Signature:
        """The purpose's newest key's signature over `message`, with its keyid."""
        ...

    def public_key(self, purpose: SigningPurpose) -> bytes:
        """The raw 32-byte public key of the purpose's newest key."""
        ...


class SigningAdmin(Protocol):
    """The administrator's identity at the key service: exchanges signing keys."""

    def public_key(self, purpose: SigningPurpose) -> bytes:
        """As `Signer.public_key`."""
        ...

    def rotate_signing(self, purpose: SigningPurpose) -> bytes:
        """Add a key, which is the one that signs from now on; its raw public key.

        Whatever is signed with it is believed by nobody until a trust file names it.
        """
        ...

    def sign_with(self, purpose: SigningPurpose, public_key: bytes, message: bytes) -> Signature:
        """The signature of a key that the purpose has or had. NotFound (`no_signing_key`)."""
        ...


class BundleSigner(Protocol):
    """Signs policy bundles for OPA, which verifies no Ed25519: ECDSA P-256 with SHA-256.

    The vault's own engines don't rely on this key: they verify a record by the `bundle` key.
    """

    def sign(self, message: bytes) -> bytes:
        """Signature r || s, 64 bytes (RFC 7518, section 3.4: ES256)."""
        ...

    def public_pem(self) -> str:
        """The public key as PEM (SubjectPublicKeyInfo)."""
        ...
