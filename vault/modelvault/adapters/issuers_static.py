"""Issuers' public keys that stand in the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from modelvault.crypto import dsse
from modelvault.errors import AuthenticationError, InvalidRequest
from modelvault.ports.identity import VerifyingKey

MIN_RSA_BITS = 2048


class StaticIssuers:
    """IssuerKeys from a mapping: {iss: {kid: key}}. Immutable, so any thread may ask.

    Raises InvalidRequest (`bad_issuer_key`) for a key that isn't of its algorithm's kind.
    """

    def __init__(self, keys: Mapping[str, Mapping[str, VerifyingKey]]) -> None:
        self._keys = {iss: dict(of_issuer) for iss, of_issuer in keys.items()}
        for iss, of_issuer in self._keys.items():
            for kid, key in of_issuer.items():
                if not _fits(key):
                    raise InvalidRequest(
                        "bad_issuer_key",
                        f"key {kid!r} of issuer {iss!r} isn't a public key for {key.algorithm}",
                        "give the PEM of the issuer's public key, and the algorithm it signs with",
                    )

    def key(self, issuer: str, kid: str | None) -> VerifyingKey:
        """The key `kid`; without a `kid` the issuer's only key, if it has just one."""
        of_issuer = self._keys.get(issuer, {})
        if kid is None and len(of_issuer) == 1:
            return next(iter(of_issuer.values()))
        found = None if kid is None else of_issuer.get(kid)
        if found is None:
            raise AuthenticationError(
                "unknown_signing_key",
                "the token names a signing key that its issuer isn't configured with",
                "get a fresh token; if the issuer has new keys, add them to the configuration",
            )
        return found


def ed25519_keys(*public_keys: bytes) -> dict[str, VerifyingKey]:
    """{kid: key} of raw Ed25519 public keys (32 bytes each), as the vault's own issuer has them.

    The kid is `dsse.keyid`, which `identity.mint` writes into its tokens.
    """
    return {
        dsse.keyid(raw): VerifyingKey(
            "EdDSA",
            Ed25519PublicKey.from_public_bytes(raw).public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            ),
        )
        for raw in public_keys
    }


_FITS: dict[str, Callable[[object], bool]] = {
    "EdDSA": lambda key: isinstance(key, Ed25519PublicKey),
    "ES256": lambda key: _on_curve(key, SECP256R1),
    "ES384": lambda key: _on_curve(key, SECP384R1),
    "RS256": lambda key: isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS,
    "PS256": lambda key: isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS,
}


def _fits(key: VerifyingKey) -> bool:
    try:
        return _FITS[key.algorithm](load_pem_public_key(key.pem))
    except (KeyError, ValueError, UnsupportedAlgorithm):
        return False


def _on_curve(key: object, curve: type[SECP256R1 | SECP384R1]) -> bool:
    return isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, curve)
