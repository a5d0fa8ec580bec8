"""Sealing file keys to a job's one-time key: HPKE (RFC 9180, base mode), two suites.

`mlkem768-x25519` is the hybrid KEM 0x647A (X-Wing's shape: ML-KEM-768 and X25519), so that
recorded traffic stays closed to a later quantum computer; `x25519` is for sites that want only
RFC 9180's own. Both with HKDF-SHA-256 and AES-256-GCM. HPKE's AAD isn't used: everything is bound
through `info`.
"""

from __future__ import annotations

from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from modelvault.crypto.secret import Secret
from modelvault.errors import IntegrityError, InvalidRequest

HYBRID = "mlkem768-x25519"
CLASSIC = "x25519"
DEFAULT = HYBRID
SUITES = (HYBRID, CLASSIC)
_MLKEM_BYTES = 1184
_X25519_BYTES = 32

_SUITES = {
    HYBRID: Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
    CLASSIC: Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
}


class RecipientKey:
    """A private key that never leaves this object; `public` is its wire form."""

    __slots__ = ("_private", "public", "suite")

    def __init__(self, suite: str, mlkem: MLKEM768PrivateKey | None, x: X25519PrivateKey) -> None:
        self.suite = suite
        public = x.public_key().public_bytes_raw()
        self._private: MLKEM768X25519PrivateKey | X25519PrivateKey | None = x
        if mlkem is not None:
            self._private = MLKEM768X25519PrivateKey(mlkem, x)
            public = mlkem.public_key().public_bytes_raw() + public
        self.public = public

    def open(self, sealed: bytes, info: bytes) -> Secret:
        """The plaintext. IntegrityError (`not_for_us`) when key, info or ciphertext differ."""
        private = self._private  # read once: another thread may drop it
        if private is None:
            raise InvalidRequest("wiped", "this recipient key has been dropped")
        try:
            return Secret.copy_of(_SUITES[self.suite].decrypt(sealed, private, info=info))
        except (InvalidTag, ValueError):
            raise IntegrityError(
                "not_for_us",
                "the sealed keys don't belong to this request",
                "the answer is of another request, model or version: don't trust this broker",
            ) from None

    def drop(self) -> None:
        """Let go of the private key; OpenSSL wipes it when it frees it."""
        self._private = None

    def __repr__(self) -> str:
        return f"<RecipientKey {self.suite}>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a RecipientKey can't be pickled or copied")

    def __getstate__(self) -> NoReturn:
        raise TypeError("a RecipientKey can't be pickled or copied")


def generate(suite: str = DEFAULT) -> RecipientKey:
    """A fresh recipient key. InvalidRequest (`unknown_suite`) for any other name."""
    _check(suite)
    mlkem = MLKEM768PrivateKey.generate() if suite == HYBRID else None
    return RecipientKey(suite, mlkem, X25519PrivateKey.generate())


def derived(x25519: Secret, mlkem: Secret) -> RecipientKey:
    """The hybrid recipient key of two seeds, 32 and 64 bytes (FIPS 203: d and z): always the same.

    For a key that any of several processes must be able to open with; the seeds stay the caller's
    to wipe.
    """
    return RecipientKey(
        HYBRID,
        MLKEM768PrivateKey.from_seed_bytes(bytes(mlkem.reveal())),
        X25519PrivateKey.from_private_bytes(x25519.reveal()),
    )


def seal(plaintext: Secret, suite: str, public: bytes, info: bytes) -> bytes:
    """Give enc || ciphertext: 1,120 (hybrid) or 32 bytes, then the plaintext's length and 16.

    Raises InvalidRequest: `unknown_suite`, `bad_recipient` (malformed or low-order key).
    """
    _check(suite)
    try:
        return _SUITES[suite].encrypt(plaintext.reveal(), _public(suite, public), info=info)
    except ValueError:
        raise InvalidRequest(
            "bad_recipient", f"not a usable {suite} public key", "make a fresh key and ask again"
        ) from None


def _public(suite: str, public: bytes) -> MLKEM768X25519PublicKey | X25519PublicKey:
    if suite == CLASSIC:
        return X25519PublicKey.from_public_bytes(public)
    if len(public) != _MLKEM_BYTES + _X25519_BYTES:
        raise ValueError("length")
    return MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_BYTES]),
        X25519PublicKey.from_public_bytes(public[_MLKEM_BYTES:]),
    )


def _check(suite: str) -> None:
    if suite not in _SUITES:
        raise InvalidRequest(
            "unknown_suite", f"unknown HPKE suite {suite[:40]!r}", f"use one of {', '.join(SUITES)}"
        )
