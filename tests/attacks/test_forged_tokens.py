"""Tokens that must not be believed, each refused with its own code and without its text."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable

import jwt
import pytest

from modelvault.errors import AuthenticationError
from modelvault.identity import tokens
from modelvault.identity.binding import bound_audience, key_hash
from support.tokens import (
    AUDIENCE,
    CI,
    CLUSTER,
    ED,
    ISSUED,
    KEYS,
    NOW,
    OTHER_ED,
    P256,
    P384,
    VAULT,
    base64url,
    by_hand,
    by_pyjwt,
    claims,
    pem,
)

MINE = key_hash("x25519", b"m" * 32)
THEIRS = key_hash("x25519", b"t" * 32)


def refused(token: str, code: str, *, now: int = NOW, bound_to: str | None = None) -> None:
    with pytest.raises(AuthenticationError) as caught:
        tokens.verify(token, (CI, CLUSTER), KEYS, now, vault=VAULT, key_hash=bound_to)
    error = caught.value
    assert error.code == code
    assert error.hint
    told = f"{error.message} {error.hint} {error.details}"
    for secret in [part for part in token.split(".") if len(part) > 8]:
        assert secret not in told
    assert error.__context__ is None or error.__suppress_context__


def hs256(secret: bytes) -> str:
    def sign(signed: bytes) -> bytes:
        return hmac.digest(secret, signed, hashlib.sha256)

    return by_hand(claims(), {"alg": "HS256", "kid": "ed"}, sign)


def unsigned(algorithm: object) -> str:
    return by_hand(claims(), {"alg": algorithm, "kid": "ed"}, lambda _signed: b"")


def other_part(position: int, text: str) -> str:
    parts = by_pyjwt(claims()).split(".")
    parts[position] = text
    return ".".join(parts)


def flipped(position: int) -> str:
    token = bytearray(by_pyjwt(claims()).encode())
    at = len(token) // 2 if position == 1 else len(token) - 10
    token[at] = ord("A") if token[at] != ord("A") else ord("B")
    return token.decode()


def both_headers() -> str:
    return by_hand(claims(), b'{"alg":"none","alg":"EdDSA","kid":"ed"}')


def swapped_payload() -> str:
    mine, root = by_pyjwt(claims()), by_pyjwt(claims(sub="root"), OTHER_ED)
    header, _, signature = mine.split(".")
    return f"{header}.{root.split('.')[1]}.{signature}"


JWK = {"kty": "OKP", "crv": "Ed25519", "x": base64url(OTHER_ED.public_key().public_bytes_raw())}
HEADERS = {
    "jku": "https://evil.example/jwks.json",
    "jwk": JWK,
    "x5u": "https://evil.example/cert.pem",
    "x5c": ["MIIB"],
    "crit": ["exp"],
    "b64": False,
    "cty": "JWT",
    "zip": "DEF",
    "enc": "A256GCM",
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("key", [ED, OTHER_ED], ids=["its own key", "another key"])
def test_headers_that_bring_keys_or_change_the_rules(name: str, key: object) -> None:
    header = {"alg": "EdDSA", "kid": "ed", name: HEADERS[name]}
    refused(by_hand(claims(), header, key.sign), "forbidden_header")


SIGNED_WRONG: dict[str, tuple[Callable[[], str], str]] = {
    "alg none": (lambda: unsigned("none"), "unsigned_token"),
    "alg None": (lambda: unsigned("None"), "unsigned_token"),
    "alg NONE": (lambda: unsigned("NONE"), "unsigned_token"),
    "empty alg": (lambda: unsigned(""), "unsigned_token"),
    "no alg": (lambda: by_hand(claims(), {"kid": "ed"}), "unsigned_token"),
    "alg none by PyJWT": (
        lambda: jwt.encode(claims(), None, algorithm="none", headers={"kid": "ed"}),
        "unsigned_token",
    ),
    "alg is a list": (lambda: unsigned(["EdDSA"]), "malformed_token"),
    "EdDSA without signature": (lambda: unsigned("EdDSA"), "bad_signature"),
    "HS256 with the PEM as secret": (lambda: hs256(pem(ED)), "wrong_algorithm"),
    "HS256 with the raw key as secret": (
        lambda: hs256(ED.public_key().public_bytes_raw()),
        "wrong_algorithm",
    ),
    "HS256 with an empty secret": (lambda: hs256(b""), "wrong_algorithm"),
    "an algorithm of another issuer": (
        lambda: by_pyjwt(claims(), P384, algorithm="ES384"),
        "wrong_algorithm",
    ),
    "the issuer's algorithm with a key of its other one": (
        lambda: by_pyjwt(claims(), P256, algorithm="ES256"),
        "wrong_algorithm",
    ),
    "an algorithm that doesn't exist": (
        lambda: by_hand(claims(), {"alg": "EdDSA2", "kid": "ed"}),
        "wrong_algorithm",
    ),
    "lower case": (lambda: by_hand(claims(), {"alg": "eddsa", "kid": "ed"}), "wrong_algorithm"),
    "another key": (lambda: by_pyjwt(claims(), OTHER_ED), "bad_signature"),
    "another payload": (swapped_payload, "bad_signature"),
    "a signature of 63 bytes": (
        lambda: by_hand(claims(), None, lambda signed: ED.sign(signed)[:-1]),
        "bad_signature",
    ),
    "a signature of 65 bytes": (
        lambda: by_hand(claims(), None, lambda signed: ED.sign(signed) + b"\0"),
        "bad_signature",
    ),
    "a flipped bit in the signature": (lambda: flipped(2), "bad_signature"),
    "an unknown kid": (
        lambda: by_pyjwt(claims(), headers={"kid": "nobody's"}),
        "unknown_signing_key",
    ),
    "no kid where there are two keys": (
        lambda: by_pyjwt(claims(), headers={}),
        "unknown_signing_key",
    ),
    "a kid that is a path": (
        lambda: by_pyjwt(claims(), headers={"kid": "../../../../dev/null"}),
        "unknown_signing_key",
    ),
    "a kid that is a number": (
        lambda: by_hand(claims(), {"alg": "EdDSA", "kid": 7}),
        "malformed_token",
    ),
    "a kid of another issuer": (
        lambda: by_pyjwt(claims(), headers={"kid": "only"}),
        "unknown_signing_key",
    ),
    "another issuer's key under its own iss": (
        lambda: by_pyjwt(claims(iss=CLUSTER.iss), headers={"kid": "only"}),
        "wrong_algorithm",
    ),
}


@pytest.mark.parametrize("case", SIGNED_WRONG)
def test_signatures(case: str) -> None:
    make, code = SIGNED_WRONG[case]
    refused(make(), code)


def nested() -> str:
    return by_hand(by_pyjwt(claims()).encode(), {"alg": "EdDSA", "kid": "ed"})


def deep() -> str:
    return by_hand(b"[" * 200 + b"]" * 200)


SHAPES: dict[str, Callable[[], str]] = {
    "empty": lambda: "",
    "a word": lambda: "token",
    "two dots": lambda: "..",
    "two parts": lambda: by_pyjwt(claims()).rpartition(".")[0],
    "four parts": lambda: by_pyjwt(claims()) + ".AAAA",
    "five parts, as JWE": lambda: "a.b.c.d.e",
    "padding": lambda: by_pyjwt(claims()) + "=",
    "white space": lambda: by_pyjwt(claims()) + "\n",
    "a space before": lambda: " " + by_pyjwt(claims()),
    "Bearer before": lambda: "Bearer " + by_pyjwt(claims()),
    "not ASCII": lambda: by_pyjwt(claims()) + "é",
    "digits of another script": lambda: by_pyjwt(claims()) + "\u0661",
    "a lone surrogate": lambda: by_pyjwt(claims()) + "\ud800",
    "a NUL": lambda: by_pyjwt(claims()) + "\0",
    "JSON serialisation": lambda: json.dumps({"payload": "e30", "signature": ""}),
    "header isn't base64url": lambda: other_part(0, "a"),
    "header isn't JSON": lambda: other_part(0, base64url(b"alg")),
    "header is a list": lambda: by_hand(claims(), [{"alg": "EdDSA"}]),
    "payload is a list": lambda: by_hand([claims()]),
    "payload is null": lambda: by_hand(b"null"),
    "payload isn't UTF-8": lambda: by_hand(b'{"iss":"\xff"}'),
    "payload is nested too deep": deep,
    "a token in a token": nested,
    "a key twice in the header": both_headers,
    "a key twice in the payload": lambda: by_hand(
        json.dumps(claims()).encode()[:-1] + b',"sub":"root"}'
    ),
    "exp is a float": lambda: by_pyjwt(claims(exp=ISSUED + 600.5)),
    "exp is a whole float": lambda: by_pyjwt(claims(exp=float(ISSUED + 600))),
    "exp is text": lambda: by_pyjwt(claims(exp=str(ISSUED + 600))),
    "exp is true": lambda: by_pyjwt(claims(exp=True)),
    "exp is infinite": lambda: by_hand(b'{"exp":Infinity}'),
    "exp is 1e400": lambda: by_hand(b'{"exp":1e400}'),
    "exp beyond 2^53": lambda: by_pyjwt(claims(exp=2**53)),
    "iat is text": lambda: by_hand(claims(iat=str(ISSUED))),
    "nbf is text": lambda: by_hand(claims(nbf="now")),
    "nbf is a list": lambda: by_hand(claims(nbf=[ISSUED])),
    "iss is a list": lambda: by_hand(claims(iss=[CI.iss])),
    "sub is a number": lambda: by_hand(claims(sub=7)),
    "sub is empty": lambda: by_pyjwt(claims(sub="")),
    "sub is long": lambda: by_pyjwt(claims(sub="s" * 257)),
    "sub has a line feed": lambda: by_pyjwt(claims(sub="a\nb")),
    "sub has a direction mark": lambda: by_pyjwt(claims(sub="a\u202eb")),
    "groups are text": lambda: by_pyjwt(claims(groups="admins")),
    "groups are an object": lambda: by_pyjwt(claims(groups={"admins": True})),
    "a group is a number": lambda: by_pyjwt(claims(groups=["a", 7])),
    "a group is empty": lambda: by_pyjwt(claims(groups=[""])),
    "257 groups": lambda: by_pyjwt(claims(groups=[f"g{n}" for n in range(257)])),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes(case: str) -> None:
    refused(SHAPES[case](), "malformed_token")


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "iat", "exp"])
@pytest.mark.parametrize("null", [False, True], ids=["absent", "null"])
def test_missing_claims(name: str, null: bool) -> None:
    payload = claims(**{name: None}) | ({name: None} if null else {})
    refused(by_hand(payload), "missing_claim")


AUDIENCES: dict[str, object] = {
    "another vault": f"modelvault:{'cd' * 16}",
    "another service": "https://storage.example",
    "the vault's id alone": VAULT,
    "a prefix": AUDIENCE[:-1],
    "upper case": AUDIENCE.upper(),
    "two audiences": [AUDIENCE, "https://storage.example"],
    "ours in a list in a list": [[AUDIENCE]],
    "ours twice": [AUDIENCE, AUDIENCE],
    "an object": {"aud": AUDIENCE},
    "a number": 7,
    "an empty list": [],
    "a line feed": AUDIENCE + "\n",
}


@pytest.mark.parametrize("case", AUDIENCES)
@pytest.mark.parametrize("bound_to", [None, MINE], ids=["plain", "with a key"])
def test_audiences(case: str, bound_to: str | None) -> None:
    refused(by_hand(claims(aud=AUDIENCES[case])), "wrong_audience", bound_to=bound_to)


@pytest.mark.parametrize("bound_to", [None, THEIRS], ids=["no key", "another key"])
@pytest.mark.parametrize(
    "audience", [bound_audience(VAULT, MINE), f"{AUDIENCE}:", f"{AUDIENCE}:{MINE}\n"]
)
def test_tokens_bound_to_another_key(audience: str, bound_to: str | None) -> None:
    refused(by_hand(claims(aud=audience)), "bound_to_other_key", bound_to=bound_to)


@pytest.mark.parametrize(
    "iss",
    [
        "https://evil.example",
        "https://ci.example/",
        "HTTPS://ci.example",
        " https://ci.example",
        "",
    ],
)
def test_unknown_issuers(iss: str) -> None:
    refused(by_pyjwt(claims(iss=iss)), "unknown_issuer")


@pytest.mark.parametrize("kind", ["dpop+jwt", "logout+jwt", "JWE", "", 7, None])
def test_tokens_of_another_type(kind: object) -> None:
    refused(by_hand(claims(), {"alg": "EdDSA", "kid": "ed", "typ": kind}), "wrong_type")


class TestTime:
    @pytest.mark.parametrize(
        ("now", "code"),
        [
            (NOW + 600_000 + 10_000, "token_expired"),
            (NOW + 600_000 + 10_001, "token_expired"),
            (NOW + 3_600_000, "token_expired"),
            (NOW - 10_001, "token_not_yet_valid"),
            (NOW - 3_600_000, "token_not_yet_valid"),
        ],
    )
    def test_outside(self, now: int, code: str) -> None:
        refused(by_pyjwt(claims()), code, now=now)

    def test_not_before(self) -> None:
        refused(by_pyjwt(claims(nbf=ISSUED + 11)), "token_not_yet_valid")

    @pytest.mark.parametrize("life", [3601, 10**9, 0, -600])
    def test_lifetime(self, life: int) -> None:
        refused(by_pyjwt(claims(exp=ISSUED + life)), "token_lifetime")

    def test_an_old_iat_doesnt_stretch_the_cap(self) -> None:
        refused(by_pyjwt(claims(iat=0, exp=ISSUED + 60)), "token_lifetime")

    def test_a_negative_iat(self) -> None:
        refused(by_pyjwt(claims(iat=-1, exp=2000)), "token_expired")


class TestSize:
    def test_20_kib(self) -> None:
        refused(by_pyjwt(claims(padding="x" * (20 << 10))), "token_too_large")

    def test_a_megabyte_of_dots(self) -> None:
        refused("." * (1 << 20), "token_too_large")

    def test_claims_that_would_fill_every_decision(self) -> None:
        refused(by_pyjwt(claims(padding="x" * (9 << 10))), "token_too_large")


def test_the_table_starts_from_a_good_token() -> None:
    found = tokens.verify(by_pyjwt(claims()), (CI, CLUSTER), KEYS, NOW, vault=VAULT)
    assert found.id == "ci:job-7"
    by_hand_too = tokens.verify(by_hand(claims()), (CI, CLUSTER), KEYS, NOW, vault=VAULT)
    assert by_hand_too == found
