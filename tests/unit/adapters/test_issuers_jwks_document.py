from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.adapters.issuers_jwks.document import MAX_BYTES, MAX_KEYS, find, parse
from modelvault.ports.identity import VerifyingKey
from support.servers.jwks import document, jwk, number, text
from support.tokens import ED, OTHER_ED, P256, P384, pem, rsa_key

ALL = ("RS256", "PS256", "ES256", "ES384", "EdDSA")


def test_each_kind_of_key() -> None:
    found = parse(
        document(jwk(rsa_key(), "r"), jwk(P256, "e2"), jwk(P384, "e3", alg="ES384"), jwk(ED, "ed")),
        ALL,
    )
    assert found == {
        "r": VerifyingKey("RS256", pem(rsa_key())),
        "e2": VerifyingKey("ES256", pem(P256)),
        "e3": VerifyingKey("ES384", pem(P384)),
        "ed": VerifyingKey("EdDSA", pem(ED)),
    }


@pytest.mark.parametrize(
    ("algorithms", "alg", "found"),
    [
        (("RS256",), None, "RS256"),
        (("PS256", "RS256"), None, "PS256"),
        (("PS256", "RS256"), "RS256", "RS256"),
        (("PS256",), "RS256", None),
        (("ES256",), None, None),
        (("RS256",), "RS512", None),
        (("RS256",), "HS256", None),
        (("RS256",), 7, None),
    ],
    ids=str,
)
def test_the_algorithm_is_the_configurations_and_the_keys(
    algorithms: tuple[str, ...], alg: object, found: str | None
) -> None:
    keys = parse(document(jwk(rsa_key(), "k", alg=alg)), algorithms)
    assert [key.algorithm for key in keys.values()] == ([found] if found else [])


P521 = ec.derive_private_key(7, ec.SECP521R1())
NEVER: dict[str, Callable[[], dict[str, object]]] = {
    "for encryption": lambda: jwk(ED, "k", use="enc"),
    "use isn't text": lambda: jwk(ED, "k", use=["sig"]),
    "for signing": lambda: jwk(ED, "k", key_ops=["sign"]),
    "key_ops isn't a list": lambda: jwk(ED, "k", key_ops="verify"),
    "with its private half": lambda: jwk(ED, "k", d=text(bytes(range(32)))),
    "a secret": lambda: {"kty": "oct", "kid": "k", "k": text(b"s" * 32), "alg": "HS256"},
    "another kind": lambda: {"kty": "AKP", "kid": "k", "alg": "ML-DSA-44", "pub": text(bytes(99))},
    "kind isn't text": lambda: jwk(ED, "k", kty=["OKP"]),
    "curve isn't text": lambda: jwk(ED, "k", crv={"a": 1}),
    "X25519": lambda: jwk(ED, "k", crv="X25519"),
    "Ed448": lambda: jwk(ED, "k", crv="Ed448"),
    "P-521": lambda: jwk(P521, "k"),
    "an RSA key with a curve": lambda: jwk(rsa_key(), "k", crv="P-256"),
    "RSA of 1024 bits": lambda: jwk(rsa_key(1024), "k"),
    "RSA of 16,384 bits": lambda: jwk(rsa_key(), "k", n=number((1 << 16_383) + 1)),
    "RSA with exponent 1": lambda: jwk(rsa_key(), "k", e=number(1)),
    "RSA with exponent 3": lambda: jwk(rsa_key(), "k", e=number(3)),
    "RSA with an even exponent": lambda: jwk(rsa_key(), "k", e=number(65_538)),
    "RSA with an exponent of 64 bits": lambda: jwk(rsa_key(), "k", e=number((1 << 63) + 1)),
    "RSA with an even modulus": lambda: jwk(rsa_key(), "k", n=number((1 << 2047) + 2)),
    "RSA without modulus": lambda: jwk(rsa_key(), "k", n=None),
    "base64 with padding": lambda: jwk(ED, "k", x=base64.urlsafe_b64encode(bytes(32)).decode()),
    "plain base64": lambda: jwk(ED, "k", x="+" + "A" * 42),
    "one character over": lambda: jwk(ED, "k", x="A" * 45),
    "cut": lambda: jwk(ED, "k", x=text(bytes(31))),
    "a number": lambda: jwk(ED, "k", x=7),
    "very long": lambda: jwk(rsa_key(), "k", n="A" * 5000),
    "off its curve": lambda: jwk(P256, "k", y=number(1, 32)),
    "a coordinate too short": lambda: jwk(P256, "k", x=number(1)),
    "another curve's length": lambda: jwk(P384, "k", crv="P-256"),
    "kid isn't text": lambda: jwk(ED, None) | {"kid": 7},
    "kid is empty": lambda: jwk(ED, None) | {"kid": ""},
    "kid is very long": lambda: jwk(ED, "k" * 513),
}


@pytest.mark.parametrize("case", NEVER)
def test_a_key_that_isnt_for_us_is_as_if_it_werent_there(case: str) -> None:
    found = parse(document(NEVER[case](), jwk(OTHER_ED, "good")), ALL)
    assert found == {"good": VerifyingKey("EdDSA", pem(OTHER_ED))}


def test_two_keys_of_one_id_are_neither() -> None:
    twice = document(jwk(ED, "k"), jwk(OTHER_ED, "k"), jwk(P256, "other"))
    assert set(parse(twice, ALL)) == {"other"}
    # One of them isn't for signatures: there is no doubt which is meant.
    assert set(parse(document(jwk(ED, "k"), jwk(OTHER_ED, "k", use="enc")), ALL)) == {"k"}


def test_without_a_key_id() -> None:
    alone = parse(document(jwk(ED)), ALL)
    assert find(alone, None) == VerifyingKey("EdDSA", pem(ED))
    assert find(alone, "k") is None
    named = parse(document(jwk(ED, "k")), ALL)
    assert find(named, None) == find(named, "k") is not None
    two = parse(document(jwk(ED, "k"), jwk(OTHER_ED)), ALL)
    assert find(two, None) is None


WRONG = {
    "not JSON": b"<html></html>",
    "not UTF-8": b"\xff",
    "empty": b"",
    "a list": b"[]",
    "no keys": b"{}",
    "keys aren't a list": b'{"keys": {}}',
    "a key isn't an object": b'{"keys": ["k"]}',
    "keys twice": b'{"keys": [], "keys": []}',
    "deep": b'{"keys": [' + b"[" * 40 + b"]" * 40 + b"]}",
    "too many": document(*[{}] * (MAX_KEYS + 1)),
    "too large": b'{"keys": [], "a": "' + b"x" * MAX_BYTES + b'"}',
}


@pytest.mark.parametrize("case", WRONG)
def test_what_isnt_a_key_set(case: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  its text is for the log
        parse(WRONG[case], ALL)
    assert str(caught.value)


def test_a_set_without_a_key_for_us_is_a_set() -> None:
    assert parse(b'{"keys": []}', ALL) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
MEMBERS = st.sampled_from(["kty", "crv", "kid", "use", "alg", "x", "y", "n", "e", "key_ops", "d"])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(MEMBERS, JSON | st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519"])))
def test_any_members(members: dict[str, object]) -> None:
    for key in (members, jwk(P256, "k") | members, jwk(ED, "k") | members):
        for found in parse(json.dumps({"keys": [key]}).encode(), ALL).values():
            assert found.pem in {pem(P256), pem(ED)}


def test_a_larger_rsa_key() -> None:
    big = rsa.generate_private_key(65537, 3072)
    assert parse(document(jwk(big, "k")), ALL)["k"].pem == pem(big)
