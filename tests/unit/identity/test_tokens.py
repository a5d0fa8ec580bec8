from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.access import Principal
from modelvault.errors import AuthenticationError, InvalidRequest, ModelVaultError, Unavailable
from modelvault.identity import tokens
from modelvault.identity.binding import bound_audience, key_hash
from modelvault.identity.issuer import Issuer
from modelvault.ports.identity import VerifyingKey
from support.tokens import (
    AUDIENCE,
    CI,
    CLUSTER,
    ED,
    ISSUED,
    KEYS,
    NOW,
    P384,
    VAULT,
    by_hand,
    by_pyjwt,
    claims,
    pem,
    rsa_key,
)


def verify(token: str, now: int = NOW, key_hash: str | None = None) -> Principal:
    return tokens.verify(token, (CI, CLUSTER), KEYS, now, vault=VAULT, key_hash=key_hash)


class OneKey:
    """IssuerKeys that gives the same key whoever asks, or raises."""

    def __init__(self, key: VerifyingKey | Exception) -> None:
        self._key = key
        self.asked: list[tuple[str, str | None]] = []

    def key(self, issuer: str, kid: str | None) -> VerifyingKey:
        self.asked.append((issuer, kid))
        if isinstance(self._key, Exception):
            raise self._key
        return self._key


def test_a_good_token() -> None:
    assert verify(by_pyjwt(claims(jti="1", team={"id": 7}))) == Principal(
        id="ci:job-7",
        issuer="ci",
        groups=("ci:all", "ci:builders"),
        claims={"purpose": "inference", "team": {"id": 7}},
        bound_by="bearer",
        key_hash=None,
        issued_at=NOW,
        expires_at=NOW + 600_000,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": None},
        {"groups": []},
        {"purpose": None},
        {"nbf": ISSUED},
        {"nbf": ISSUED + 10},
        {"sub": "s" * 256},
        {"sub": "système:été"},
        {"exp": ISSUED + 3600},
        {"exp": ISSUED + 1},
    ],
    ids=str,
)
def test_what_else_is_good(changes: dict[str, object]) -> None:
    found = verify(by_hand(claims(**changes)))
    assert found.id == f"ci:{changes.get('sub', 'job-7')}"


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt"])
def test_types(typ: str) -> None:
    verify(by_hand(claims(), {"alg": "EdDSA", "kid": "ed", "typ": typ, "x5t": "ignored"}))


@pytest.mark.parametrize(
    "now", [NOW - 10_000, NOW - 1, NOW, NOW + 599_999, NOW + 600_000, NOW + 609_999]
)
def test_the_times_within_leeway(now: int) -> None:
    assert verify(by_pyjwt(claims()), now).expires_at == NOW + 600_000


def test_the_wall_clock_is_never_asked() -> None:
    year_1971 = 40_000_000
    token = by_pyjwt(claims(iat=year_1971, exp=year_1971 + 60))
    assert verify(token, now=year_1971 * 1000).id == "ci:job-7"


def test_a_bound_token() -> None:
    mine = key_hash("x25519", bytes(32))
    found = verify(by_pyjwt(claims(aud=bound_audience(VAULT, mine))), key_hash=mine)
    assert (found.bound_by, found.key_hash) == ("key", mine)


def test_a_plain_token_stays_a_bearer_token_whatever_key_is_named() -> None:
    found = verify(by_pyjwt(claims()), key_hash=key_hash("x25519", bytes(32)))
    assert (found.bound_by, found.key_hash) == ("bearer", None)


def test_an_issuers_only_key_needs_no_kid() -> None:
    token = by_pyjwt(claims(iss=CLUSTER.iss), P384, algorithm="ES384", headers={})
    assert verify(token).groups == ("cluster:all", "cluster:builders")


@pytest.mark.parametrize("algorithm", ["RS256", "PS256"])
def test_rsa(algorithm: str) -> None:
    issuer = Issuer(name="idp", iss="https://idp.example", algorithms=("RS256", "PS256"))
    token = by_pyjwt(claims(iss=issuer.iss), rsa_key(), algorithm=algorithm)
    keys = OneKey(VerifyingKey(algorithm, pem(rsa_key())))
    assert tokens.verify(token, (issuer,), keys, NOW, vault=VAULT).id == "idp:job-7"
    assert keys.asked == [("https://idp.example", "ed")]
    other = OneKey(VerifyingKey("PS256" if algorithm == "RS256" else "RS256", pem(rsa_key())))
    with pytest.raises(AuthenticationError) as caught:
        tokens.verify(token, (issuer,), other, NOW, vault=VAULT)
    assert caught.value.code == "wrong_algorithm"


def test_groups_come_from_the_configured_claim_alone() -> None:
    issuer = Issuer(
        name="idp", iss="https://idp.example", algorithms=("EdDSA",), groups_claim="roles"
    )
    token = by_pyjwt(claims(iss=issuer.iss, roles=["r", "r"], groups=["admins"]))
    found = tokens.verify(
        token, (issuer,), OneKey(VerifyingKey("EdDSA", pem(ED))), NOW, vault=VAULT
    )
    assert found.groups == ("idp:r",)
    assert found.claims["groups"] == ["admins"]


@pytest.mark.parametrize(
    "key",
    [
        VerifyingKey("EdDSA", b"not a key"),
        VerifyingKey("EdDSA", pem(P384)),
        VerifyingKey("EdDSA", b"\xff\xfe"),
        VerifyingKey("EdDSA", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"),
    ],
    ids=["text", "other kind", "not UTF-8", "broken PEM"],
)
def test_a_key_that_cant_be_used_is_an_outage_not_a_forgery(key: VerifyingKey) -> None:
    with pytest.raises(Unavailable) as caught:
        tokens.verify(by_pyjwt(claims()), (CI,), OneKey(key), NOW, vault=VAULT)
    assert caught.value.code == "issuer_unavailable"
    assert caught.value.__suppress_context__


def test_an_outage_of_the_issuer_comes_through() -> None:
    keys = OneKey(Unavailable("issuer_unavailable", "no answer"))
    with pytest.raises(Unavailable):
        tokens.verify(by_pyjwt(claims()), (CI,), keys, NOW, vault=VAULT)


def test_no_key_is_asked_for_before_the_cheap_checks() -> None:
    keys = OneKey(Unavailable("issuer_unavailable", "no answer"))
    for token in [by_pyjwt(claims(iss="https://evil.example")), "x" * 20_000, "a.b.c"]:
        with pytest.raises(AuthenticationError):
            tokens.verify(token, (CI,), keys, NOW, vault=VAULT)
    assert keys.asked == []


def test_two_issuers_of_one_iss_are_a_mistake_in_the_configuration() -> None:
    twin = Issuer(name="twin", iss=CI.iss, algorithms=("EdDSA",))
    with pytest.raises(InvalidRequest) as caught:
        tokens.verify(by_pyjwt(claims()), (CI, twin), KEYS, NOW, vault=VAULT)
    assert caught.value.code == "bad_issuers"


GOOD = by_pyjwt(claims())


@settings(max_examples=150, deadline=None)
@given(
    at=st.integers(0, len(GOOD) - 1),
    char=st.characters(codec="utf-8", max_codepoint=0x2FF),
    keep=st.booleans(),
)
def test_no_changed_character_is_believed(at: int, char: str, keep: bool) -> None:
    changed = GOOD[:at] + char + (GOOD[at:] if keep else GOOD[at + 1 :])
    if changed == GOOD:
        return
    with pytest.raises(AuthenticationError):
        verify(changed)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    with pytest.raises(ModelVaultError):
        verify(text)


def test_the_audience_is_named_in_the_hint() -> None:
    with pytest.raises(AuthenticationError) as caught:
        verify(by_pyjwt(claims(aud="other")))
    assert AUDIENCE in caught.value.hint
