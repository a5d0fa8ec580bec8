"""Where token issuers' public keys come from."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec


class VerifyingKey(msgspec.Struct, frozen=True):
    """A public key in PEM (SubjectPublicKeyInfo) and the one algorithm it may verify."""

    algorithm: Literal["EdDSA", "ES256", "ES384", "RS256", "PS256"]
    pem: bytes


class IssuerKeys(Protocol):
    """Public keys of the issuers in the configuration, and of no others."""

    def key(self, issuer: str, kid: str | None) -> VerifyingKey:
        """The key `kid` of `issuer` (its exact `iss`).

        Raises AuthenticationError (`unknown_signing_key`) when the issuer doesn't have it, and
        Unavailable (`issuer_unavailable`) when that can't be found out.
        """
        ...
