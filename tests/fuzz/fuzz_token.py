"""Tokens: whatever is shown, nobody is believed but whom a configured issuer has signed for."""

from __future__ import annotations

import json

from fuzz.harness import main, only_our_errors
from modelvault.identity import tokens
from support.tokens import (
    CI,
    CLUSTER,
    ED,
    KEYS,
    NOW,
    P256,
    VAULT,
    base64url,
    by_hand,
    by_pyjwt,
    claims,
)

GOOD = [
    by_pyjwt(claims()),
    by_pyjwt(claims(sub="other"), P256, algorithm="ES256", headers={"kid": "ec"}),
]
SEEDS = [
    *(token.encode() for token in GOOD),
    by_hand(claims(), {"alg": "none"}, lambda _signed: b"").encode(),
    by_hand(claims(), {"alg": "EdDSA", "kid": "ed", "jku": "https://evil.example"}).encode(),
    json.dumps(claims()).encode(),
    json.dumps({"alg": "EdDSA", "kid": "ed", "typ": "JWT"}).encode(),
]


def one_input(data: bytes) -> None:
    """As a token; and as the payload of a token that is truly signed."""
    with only_our_errors():
        verify(text := data.decode("utf-8", "surrogateescape"))
        assert text in GOOD, "a forged token was believed"
    header = base64url(b'{"alg":"EdDSA","kid":"ed"}')
    signed = f"{header}.{base64url(data)}"
    with only_our_errors():
        found = verify(f"{signed}.{base64url(ED.sign(signed.encode()))}")
        assert found.id == f"ci:{json.loads(data)['sub']}"


def verify(token: str) -> tokens.Principal:
    return tokens.verify(token, (CI, CLUSTER), KEYS, NOW, vault=VAULT)


if __name__ == "__main__":
    main(one_input, SEEDS)
