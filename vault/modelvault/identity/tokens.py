"""Verify a token: from text that anyone can have written to a Principal.

JWT (RFC 7519) as JWS compact serialisation (RFC 7515), verified by PyJWT, with the checks of RFC
8725. The order matters: size, shape, header, issuer, algorithm, key, signature, and only then the
claims. Of the unverified payload nothing is used but `iss`, to choose among configured issuers.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from modelvault import canonical
from modelvault.access import Principal
from modelvault.errors import AuthenticationError, InvalidRequest, Unavailable
from modelvault.identity import binding, claims
from modelvault.identity.claims import MAX_GROUPS, MAX_TEXT, malformed
from modelvault.identity.issuer import Issuer, by_iss
from modelvault.ports.identity import IssuerKeys, VerifyingKey

__all__ = ["MAX_GROUPS", "MAX_TEXT", "MAX_TOKEN_BYTES", "Issuer", "verify"]

MAX_TOKEN_BYTES = 16 << 10
MAX_CLAIMS_BYTES = 8 << 10
REGISTERED = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti"})

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)", re.ASCII)
# Headers that bring a key or point to one, or that change how the rest is to be read.
_FORBIDDEN = ("jku", "jwk", "x5u", "x5c", "crit", "b64", "cty", "zip", "enc")
_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_FRESH = "get a fresh token from your issuer"


def verify(
    token: str,
    issuers: Iterable[Issuer],
    keys: IssuerKeys,
    now: int,
    *,
    vault: str,
    key_hash: str | tuple[str, ...] | None = None,
) -> Principal:
    """Who the token proves. `now` is in ms; `vault` is the vault's id.

    `key_hash` is that of the recipient key which the request names (`binding.key_hash`), or those
    that it may be bound to, or None where it names none: a key-bound token is good for no other.

    Raises AuthenticationError: `token_too_large`, `malformed_token`, `forbidden_header`,
    `wrong_type`, `unsigned_token`, `unknown_issuer`, `wrong_algorithm`, `unknown_signing_key`,
    `bad_signature`, `missing_claim`, `unfit_claim`, `token_lifetime`, `token_expired`,
    `token_not_yet_valid`, `wrong_audience`, `bound_to_other_key`. Raises Unavailable
    (`issuer_unavailable`) when the issuer's keys can't be had; InvalidRequest (`bad_issuers`) for
    a bad configuration. No message holds any part of the token but names of claims and headers.
    """
    header, payload = _split(token)
    _check_header(header)
    issuer = _issuer(payload, by_iss(issuers))
    _check_signature(token, header, issuer, keys)
    # The signature covers the very text that `payload` was parsed from.
    issued_at, expires_at = _check_times(payload, issuer, now)
    bound = _check_audience(payload, issuer, vault, key_hash)
    fields = claims.fields(payload, issuer)
    return Principal(
        id=claims.subject(_claim(payload, "sub"), fields, issuer),
        issuer=issuer.name,
        instance=fields.get(issuer.instance) if issuer.instance else None,
        groups=claims.groups(payload, fields, issuer),
        claims=_other_claims(payload, issuer),
        bound_by="bearer" if bound is None else "key",
        key_hash=bound,
        issued_at=issued_at,
        expires_at=expires_at,
    )


def _split(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(header, payload), both unverified."""
    if len(token) > MAX_TOKEN_BYTES:
        raise AuthenticationError(
            "token_too_large",
            f"the token is {len(token)} bytes; the limit is {MAX_TOKEN_BYTES}",
            "ask your issuer for fewer groups or claims",
        )
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        raise malformed("it isn't three parts of base64url with dots between")
    return _object(parts[1], "header"), _object(parts[2], "payload")


def _object(part: str, what: str) -> dict[str, Any]:
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        value = canonical.loads(raw, MAX_TOKEN_BYTES)
    except (ValueError, InvalidRequest):
        raise malformed(f"its {what} isn't strict JSON in base64url") from None
    if not isinstance(value, dict):
        raise malformed(f"its {what} isn't a JSON object")
    return value


def _check_header(header: dict[str, Any]) -> None:
    for name in _FORBIDDEN:
        if name in header:
            raise AuthenticationError(
                "forbidden_header",
                f"the token's header has {name!r}, which is never followed here",
                "use a plain signed token; the issuer's keys come from the vault's configuration",
            )
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise AuthenticationError(
            "wrong_type",
            "the token's header says that it isn't an access or identity token",
            "this looks like a token for something else: ask your issuer for one for this vault",
        )
    algorithm = header.get("alg")
    if algorithm is None or (isinstance(algorithm, str) and algorithm.lower() in ("none", "")):
        raise AuthenticationError("unsigned_token", "the token isn't signed", _FRESH)
    if not isinstance(algorithm, str) or not isinstance(header.get("kid", ""), str):
        raise malformed("'alg' or 'kid' in its header isn't text")


def _issuer(payload: dict[str, Any], issuers: dict[str, Issuer]) -> Issuer:
    iss = _claim(payload, "iss")
    if not isinstance(iss, str):
        raise malformed("'iss' isn't text")
    found = issuers.get(iss)
    if found is None:
        known = ", ".join(sorted(issuer.name for issuer in issuers.values())) or "none"
        raise AuthenticationError(
            "unknown_issuer",
            "the token is from an issuer that this vault doesn't know",
            f"use a token of one of these issuers: {known}",
        )
    return found


def _check_signature(token: str, header: dict[str, Any], issuer: Issuer, keys: IssuerKeys) -> None:
    algorithm: str = header["alg"]
    if algorithm not in issuer.algorithms:
        raise _wrong_algorithm(issuer)
    key = keys.key(issuer.iss, header.get("kid"))
    if algorithm != key.algorithm:
        raise _wrong_algorithm(issuer)
    try:
        _verifier(key.algorithm).decode_complete(
            token,
            _public_key(key.pem),
            [key.algorithm],
            {"verify_signature": True, "enforce_minimum_key_length": True},
        )
    except jwt.InvalidTokenError:
        raise AuthenticationError(
            "bad_signature", f"the token wasn't signed by issuer {issuer.name}", _FRESH
        ) from None
    except (jwt.InvalidKeyError, ValueError, TypeError):
        raise _unusable(issuer, key) from None


@lru_cache(64)
def _verifier(algorithm: str) -> jwt.PyJWS:
    return jwt.PyJWS([algorithm])


@lru_cache(256)
def _public_key(pem: bytes) -> Any:  # noqa: ANN401  whether it fits the algorithm, PyJWT looks
    """Parsed once: an issuer has few keys, and each of its tokens names one of them."""
    try:
        return load_pem_public_key(pem)
    except UnsupportedAlgorithm:
        raise ValueError("a kind of key that isn't known") from None


def _check_times(payload: dict[str, Any], issuer: Issuer, now: int) -> tuple[int, int]:
    """(issued at, expires at) in ms."""
    issued, expires = _seconds(payload, "iat"), _seconds(payload, "exp")
    starts = max(issued, _seconds(payload, "nbf")) if "nbf" in payload else issued
    if not 0 < expires - issued <= issuer.max_lifetime_s:
        raise AuthenticationError(
            "token_lifetime",
            f"the token is made for {expires - issued} s; issuer {issuer.name} is trusted for "
            f"1 to {issuer.max_lifetime_s} s",
            "ask for a token with a shorter life",
        )
    if now >= (expires + issuer.leeway_s) * 1000:
        raise AuthenticationError(
            "token_expired", f"the token expired {now // 1000 - expires} s ago", _FRESH
        )
    if now < (starts - issuer.leeway_s) * 1000:
        raise AuthenticationError(
            "token_not_yet_valid",
            f"the token is good only in {starts - now // 1000} s",
            "compare this machine's clock with the issuer's",
        )
    return issued * 1000, expires * 1000


def _check_audience(
    payload: dict[str, Any], issuer: Issuer, vault: str, key_hash: str | tuple[str, ...] | None
) -> str | None:
    """The hash of the request's key that the token is bound to; None for a bearer token."""
    audience = _claim(payload, "aud")
    if isinstance(audience, list) and len(audience) == 1:
        audience = audience[0]  # Kubernetes writes one audience as a list (RFC 7519, 4.1.3)
    ours = binding.plain_audience(vault)
    plain = issuer.audience or ours
    if audience == plain:
        return None
    for named in (key_hash,) if isinstance(key_hash, str) else key_hash or ():
        if audience == binding.bound_audience(vault, named):
            return named
    if isinstance(audience, str) and audience.startswith(ours + ":"):
        raise AuthenticationError(
            "bound_to_other_key",
            "the token is bound to a key that this request doesn't name",
            "mint a token for the key of this request, or use a plain one",
        )
    raise AuthenticationError(
        "wrong_audience",
        "the token is made for somebody else",
        f"ask your issuer for a token with the one audience {plain}",
    )


def _other_claims(payload: dict[str, Any], issuer: Issuer) -> dict[str, Any]:
    taken = REGISTERED | {issuer.groups_claim}
    claims = {name: value for name, value in payload.items() if name not in taken}
    if len(canonical.dumps(claims)) > MAX_CLAIMS_BYTES:
        raise AuthenticationError(
            "token_too_large",
            f"the token's further claims are over {MAX_CLAIMS_BYTES} bytes",
            "ask your issuer for fewer claims",
        )
    return claims


def _claim(payload: dict[str, Any], name: str) -> Any:  # noqa: ANN401
    if payload.get(name) is None:
        raise AuthenticationError(
            "missing_claim", f"the token has no {name!r}", "exp, iat, iss, aud and sub are needed"
        )
    return payload[name]


def _seconds(payload: dict[str, Any], name: str) -> int:
    value = _claim(payload, name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise malformed(f"{name!r} isn't a whole number")
    return value


def _wrong_algorithm(issuer: Issuer) -> AuthenticationError:
    return AuthenticationError(
        "wrong_algorithm",
        f"the token is signed in a way that issuer {issuer.name} doesn't sign",
        f"the configuration allows {', '.join(issuer.algorithms)}",
    )


def _unusable(issuer: Issuer, key: VerifyingKey) -> Unavailable:
    return Unavailable(
        "issuer_unavailable",
        f"the configured key of issuer {issuer.name} can't be used for {key.algorithm}",
        "mend the issuer's keys in the vault's configuration",
    )
