"""Tokens as issuers make them, and as attackers do."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import cache

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from modelvault.adapters.issuers_static import StaticIssuers
from modelvault.crypto import dsse
from modelvault.crypto.dsse import Signature
from modelvault.identity.issuer import Issuer
from modelvault.ports.identity import VerifyingKey

VAULT = "ab" * 16
AUDIENCE = f"modelvault:{VAULT}"
NOW = 1_800_000_000_000
ISSUED = NOW // 1000

ED = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_ED = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
P256 = ec.derive_private_key(7, ec.SECP256R1())
P384 = ec.derive_private_key(7, ec.SECP384R1())

CI = Issuer(name="ci", iss="https://ci.example", algorithms=("EdDSA", "ES256"), leeway_s=10)
CLUSTER = Issuer(name="cluster", iss="https://cluster.example", algorithms=("ES384",))


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def ed448_key() -> ed448.Ed448PrivateKey:
    return ed448.Ed448PrivateKey.generate()


def pem(key: object) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


KEYS = StaticIssuers(
    {
        CI.iss: {"ed": VerifyingKey("EdDSA", pem(ED)), "ec": VerifyingKey("ES256", pem(P256))},
        CLUSTER.iss: {"only": VerifyingKey("ES384", pem(P384))},
    }
)


def claims(**changes: object) -> dict[str, object]:
    """Good claims with `changes`; a change to None takes the claim out."""
    good = {
        "iss": CI.iss,
        "aud": AUDIENCE,
        "sub": "job-7",
        "iat": ISSUED,
        "exp": ISSUED + 600,
        "groups": ["builders", "all"],
        "purpose": "inference",
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def by_pyjwt(payload: dict[str, object], key: object = ED, **options: object) -> str:
    return jwt.encode(payload, key, **({"algorithm": "EdDSA", "headers": {"kid": "ed"}} | options))


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(
    payload: object,
    header: object = None,
    sign: Callable[[bytes], bytes] = ED.sign,
) -> str:
    """A compact JWS of any header and payload: bytes as they are, else as JSON."""
    parts = [{"alg": "EdDSA", "kid": "ed"} if header is None else header, payload]
    signed = ".".join(
        base64url(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in parts
    )
    return f"{signed}.{base64url(sign(signed.encode()))}"


class PlainSigner:
    """A Signer with one Ed25519 key for everything."""

    def __init__(self, key: ed25519.Ed25519PrivateKey = ED) -> None:
        self._key = key

    def sign(self, _purpose: str, message: bytes) -> Signature:
        raw = self._key.public_key().public_bytes_raw()
        return Signature(dsse.keyid(raw), self._key.sign(message))

    def public_key(self, _purpose: str) -> bytes:
        return self._key.public_key().public_bytes_raw()
