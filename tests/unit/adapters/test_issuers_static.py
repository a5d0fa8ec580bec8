from __future__ import annotations

import pytest

from modelvault.adapters.issuers_static import StaticIssuers, ed25519_keys
from modelvault.crypto import dsse
from modelvault.errors import AuthenticationError, InvalidRequest
from modelvault.ports.identity import VerifyingKey
from support.tokens import ED, OTHER_ED, P256, P384, ed448_key, pem, rsa_key

ISS = "https://ci.example"
RAW = ED.public_key().public_bytes_raw()
OTHER_RAW = OTHER_ED.public_key().public_bytes_raw()


def test_of_the_vaults_own_issuer() -> None:
    keys = StaticIssuers({ISS: ed25519_keys(RAW, OTHER_RAW)})
    assert keys.key(ISS, dsse.keyid(RAW)) == VerifyingKey("EdDSA", pem(ED))
    assert keys.key(ISS, dsse.keyid(OTHER_RAW)) == VerifyingKey("EdDSA", pem(OTHER_ED))


def test_without_kid() -> None:
    one = StaticIssuers({ISS: ed25519_keys(RAW)})
    assert one.key(ISS, None) == VerifyingKey("EdDSA", pem(ED))
    two = StaticIssuers({ISS: ed25519_keys(RAW, OTHER_RAW)})
    with pytest.raises(AuthenticationError):
        two.key(ISS, None)


@pytest.mark.parametrize(
    ("issuer", "kid"), [(ISS, "other"), (ISS, ""), (ISS + "/", dsse.keyid(RAW)), ("", None)]
)
def test_unknown(issuer: str, kid: str | None) -> None:
    with pytest.raises(AuthenticationError) as caught:
        StaticIssuers({ISS: ed25519_keys(RAW)}).key(issuer, kid)
    assert caught.value.code == "unknown_signing_key"


GOOD = {"EdDSA": ED, "ES256": P256, "ES384": P384, "RS256": rsa_key, "PS256": rsa_key}


@pytest.mark.parametrize("algorithm", GOOD)
@pytest.mark.parametrize("kind", GOOD)
def test_a_key_must_be_of_its_algorithms_kind(algorithm: str, kind: str) -> None:
    key = GOOD[kind]() if callable(GOOD[kind]) else GOOD[kind]
    fits = kind == algorithm or {kind, algorithm} == {"RS256", "PS256"}
    keys = {ISS: {"k": VerifyingKey(algorithm, pem(key))}}
    if fits:
        assert StaticIssuers(keys).key(ISS, "k").algorithm == algorithm
        return
    with pytest.raises(InvalidRequest) as caught:
        StaticIssuers(keys)
    assert caught.value.code == "bad_issuer_key"


@pytest.mark.parametrize(
    ("algorithm", "make"),
    [
        ("EdDSA", lambda: pem(ed448_key())),
        ("RS256", lambda: pem(rsa_key(1024))),
        ("EdDSA", lambda: b"not a key"),
        ("EdDSA", lambda: b""),
        ("HS256", lambda: pem(ED)),
    ],
    ids=["Ed448", "RSA of 1024 bits", "text", "nothing", "a secret's algorithm"],
)
def test_keys_that_are_never_taken(algorithm: str, make: object) -> None:
    with pytest.raises(InvalidRequest):
        StaticIssuers({ISS: {"k": VerifyingKey(algorithm, make())}})
