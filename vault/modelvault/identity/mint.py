"""Make a token of the vault's own issuer (JWS compact serialisation, RFC 7515 section 7.1)."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from modelvault import canonical
from modelvault.crypto import dsse
from modelvault.errors import Conflict, InvalidRequest
from modelvault.identity.issuer import GROUPS, Issuer
from modelvault.identity.tokens import (
    MAX_CLAIMS_BYTES,
    MAX_GROUPS,
    MAX_TEXT,
    MAX_TOKEN_BYTES,
    REGISTERED,
)
from modelvault.ports.keys import Signer


def mint(
    signer: Signer,
    issuer: Issuer,
    *,
    sub: str,
    groups: Sequence[str],
    audience: str,
    lifetime_s: int,
    now: int,
    claims: Mapping[str, object],
) -> str:
    """A token for `sub`, good from `now` (ms) for `lifetime_s`, signed by the `token` key.

    `groups` come without the issuer's name, which `tokens.verify` puts in front. Raises
    InvalidRequest: `bad_lifetime`, `bad_subject`, `reserved_claim`, `bad_json`,
    `token_too_large`; Conflict (`key_rotated`) when the key was changed meanwhile; and what the
    signer raises.
    """
    _check(issuer, sub, groups, lifetime_s, claims)
    kid = dsse.keyid(signer.public_key("token"))
    issued = now // 1000
    payload: dict[str, object] = {
        **claims,
        issuer.groups_claim or GROUPS: sorted(set(groups)),
        "iss": issuer.iss,
        "sub": sub,
        "aud": audience,
        "iat": issued,
        "exp": issued + lifetime_s,
    }
    header = {"alg": "EdDSA", "kid": kid, "typ": "JWT"}
    signed = b".".join(_base64url(canonical.dumps(part)) for part in (header, payload))
    signature = signer.sign("token", signed)
    if signature.keyid != kid:
        raise Conflict("key_rotated", "the token key was rotated meanwhile", "try again")
    token = b".".join((signed, _base64url(signature.sig)))
    if len(token) > MAX_TOKEN_BYTES or len(canonical.dumps(dict(claims))) > MAX_CLAIMS_BYTES:
        raise InvalidRequest("token_too_large", "the token is too large", "give fewer claims")
    return token.decode("ascii")


def _check(
    issuer: Issuer, sub: str, groups: Sequence[str], lifetime_s: int, claims: Mapping[str, object]
) -> None:
    if not 1 <= lifetime_s <= issuer.max_lifetime_s:
        raise InvalidRequest(
            "bad_lifetime",
            f"a token of {lifetime_s} s; this issuer gives 1 to {issuer.max_lifetime_s} s",
            "ask for a shorter one, and for another when it has expired",
        )
    texts = (sub, *groups)
    if any(not 1 <= len(text) <= MAX_TEXT or not text.isprintable() for text in texts):
        raise InvalidRequest(
            "bad_subject", f"subject and groups are 1 to {MAX_TEXT} printable characters each"
        )
    if len(groups) > MAX_GROUPS:
        raise InvalidRequest("bad_subject", f"{len(groups)} groups; at most {MAX_GROUPS}")
    reserved = sorted(set(claims) & (REGISTERED | {issuer.groups_claim or GROUPS}))
    if reserved:
        raise InvalidRequest(
            "reserved_claim", f"{', '.join(reserved)} can't be given as a further claim"
        )


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
