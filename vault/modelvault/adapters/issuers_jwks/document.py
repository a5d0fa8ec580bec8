"""A JWKS document (RFC 7517, RFC 7518 section 6, RFC 8037) read strictly: bytes in, keys out.

A key that isn't for us (another use, another kind, another algorithm), or that nobody should sign
with (too short, with its private half published, two of one id), is as if it weren't there: a
token that names it is refused. The document itself must be well formed, else nothing of it counts.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from modelvault import canonical
from modelvault.errors import InvalidRequest
from modelvault.identity.issuer import Algorithm
from modelvault.ports.identity import VerifyingKey

MAX_BYTES = 1 << 20
MAX_KEYS = 256
MAX_KID = 512
RSA_BITS = range(2048, 8193)
RSA_EXPONENTS = range(65537, 1 << 32, 2)

Keys = Mapping[str | None, VerifyingKey]
_PublicKey = RSAPublicKey | ec.EllipticCurvePublicKey | Ed25519PublicKey

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
# (kty, crv): what such a key can verify
_VERIFIES: dict[tuple[object, object], tuple[Algorithm, ...]] = {
    ("RSA", None): ("RS256", "PS256"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
_CURVES: dict[object, tuple[ec.EllipticCurve, int]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-384": (ec.SECP384R1(), 48),
}


def parse(document: bytes, algorithms: Sequence[Algorithm]) -> Keys:
    """{kid: key} of the signing keys of an issuer that signs with `algorithms`.

    A key without `kid` stands under None. Where `alg` doesn't say what a key is for, it is the
    first of `algorithms` that its kind can do. Raises ValueError, whose text says what is wrong
    with the document and holds nothing of it.
    """
    try:
        value = canonical.loads(document, MAX_BYTES)
    except InvalidRequest as refused:
        raise ValueError(refused.message) from None
    listed = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise ValueError("it has no list of keys")
    if len(listed) > MAX_KEYS:
        raise ValueError(f"it has more than {MAX_KEYS} keys")
    found = [key for one in listed if (key := _usable(one, algorithms)) is not None]
    counted = Counter(kid for kid, _ in found)
    return {kid: key for kid, key in found if counted[kid] == 1}


def find(keys: Keys, kid: str | None) -> VerifyingKey | None:
    """The key `kid`; without a `kid` the only one, if there is just one."""
    if kid is None:
        return next(iter(keys.values())) if len(keys) == 1 else None
    return keys.get(kid)


def _usable(
    jwk: dict[str, Any], algorithms: Sequence[Algorithm]
) -> tuple[str | None, VerifyingKey] | None:
    kid = jwk.get("kid")
    if kid is not None and not (isinstance(kid, str) and 1 <= len(kid) <= MAX_KID):
        return None
    algorithm = _algorithm(jwk, algorithms)
    if algorithm is None or not _for_signatures(jwk):
        return None
    try:
        public = _READERS[jwk["kty"]](jwk)
    except ValueError:
        return None
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return kid, VerifyingKey(algorithm, pem)


def _for_signatures(jwk: dict[str, Any]) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    return (
        jwk.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        # What everybody can read the private half of proves nothing.
        and _PRIVATE.isdisjoint(jwk)
    )


def _algorithm(jwk: dict[str, Any], algorithms: Sequence[Algorithm]) -> Algorithm | None:
    kty, crv = jwk.get("kty"), jwk.get("crv")
    if not isinstance(kty, str) or not isinstance(crv, str | None):
        return None
    able = _VERIFIES.get((kty, crv), ())
    wanted = jwk.get("alg")
    fitting = (one for one in algorithms if one in able and wanted in (None, one))
    return next(fitting, None)


def _rsa(jwk: dict[str, Any]) -> RSAPublicKey:
    modulus, exponent = _integer(jwk.get("n")), _integer(jwk.get("e"))
    sound = modulus.bit_length() in RSA_BITS and modulus % 2 == 1
    if not sound or exponent not in RSA_EXPONENTS:
        raise ValueError
    return RSAPublicNumbers(exponent, modulus).public_key()


def _elliptic(jwk: dict[str, Any]) -> ec.EllipticCurvePublicKey:
    curve, length = _CURVES[jwk["crv"]]
    x, y = _bytes(jwk.get("x"), length), _bytes(jwk.get("y"), length)
    # Off the curve is a ValueError too.
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)


def _edwards(jwk: dict[str, Any]) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(_bytes(jwk.get("x"), 32))


_READERS: dict[str, Callable[[dict[str, Any]], _PublicKey]] = {
    "RSA": _rsa,
    "EC": _elliptic,
    "OKP": _edwards,
}


def _integer(text: object) -> int:
    return int.from_bytes(_bytes(text, None), "big")


def _bytes(text: object, length: int | None) -> bytes:
    if not isinstance(text, str) or len(text) > 4096 or not _BASE64URL.fullmatch(text):
        raise ValueError
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if length is not None and len(data) != length:
        raise ValueError
    return data
