from __future__ import annotations

import jwt
import pytest

from modelvault.adapters.issuers_static import StaticIssuers, ed25519_keys
from modelvault.errors import Conflict, InvalidRequest
from modelvault.identity import mint, tokens
from modelvault.identity.binding import bound_audience, key_hash, plain_audience
from modelvault.identity.issuer import local_issuer
from support.tokens import ED, NOW, OTHER_ED, VAULT, PlainSigner

ISSUER = local_issuer(VAULT)
KEYS = StaticIssuers({ISSUER.iss: ed25519_keys(ED.public_key().public_bytes_raw())})


def minted(**changes: object) -> str:
    given = {
        "sub": "alice",
        "groups": ["ml", "admins", "ml"],
        "audience": plain_audience(VAULT),
        "lifetime_s": 60,
        "now": NOW + 999,
        "claims": {"purpose": "inference"},
    }
    return mint.mint(PlainSigner(), ISSUER, **(given | changes))


def test_what_is_minted_verifies() -> None:
    found = tokens.verify(minted(), (ISSUER,), KEYS, NOW, vault=VAULT)
    assert found.id == "local:alice"
    assert found.groups == ("local:admins", "local:ml")
    assert found.claims == {"purpose": "inference"}
    assert (found.issued_at, found.expires_at) == (NOW, NOW + 60_000)


def test_pyjwt_reads_it_too() -> None:
    token = minted()
    assert jwt.get_unverified_header(token)["typ"] == "JWT"
    options = {"verify_exp": False, "verify_iat": False}
    read = jwt.decode(token, ED.public_key(), ["EdDSA"], options, audience=plain_audience(VAULT))
    assert read["sub"] == "alice"


def test_a_bound_token() -> None:
    mine = key_hash("x25519", bytes(32))
    token = minted(audience=bound_audience(VAULT, mine))
    found = tokens.verify(token, (ISSUER,), KEYS, NOW, vault=VAULT, key_hash=mine)
    assert found.key_hash == mine


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"lifetime_s": 0}, "bad_lifetime"),
        ({"lifetime_s": 3601}, "bad_lifetime"),
        ({"sub": ""}, "bad_subject"),
        ({"sub": "a\nb"}, "bad_subject"),
        ({"groups": ["g" * 257]}, "bad_subject"),
        ({"groups": [f"g{n}" for n in range(257)]}, "bad_subject"),
        ({"claims": {"sub": "root"}}, "reserved_claim"),
        ({"claims": {"groups": ["admins"]}}, "reserved_claim"),
        ({"claims": {"exp": 2**40}}, "reserved_claim"),
        ({"claims": {"score": 0.5}}, "bad_json"),
        ({"claims": {"padding": "x" * 9000}}, "token_too_large"),
        ({"claims": {"padding": "x" * 20_000}}, "token_too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_what_wouldnt_verify_isnt_minted(changes: dict[str, object], code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        minted(**changes)
    assert caught.value.code == code


def test_a_key_that_is_rotated_meanwhile() -> None:
    class Rotating(PlainSigner):
        def public_key(self, purpose: str) -> bytes:
            return OTHER_ED.public_key().public_bytes_raw()

    with pytest.raises(Conflict) as caught:
        mint.mint(
            Rotating(), ISSUER, sub="a", groups=(), audience="x", lifetime_s=1, now=NOW, claims={}
        )
    assert caught.value.code == "key_rotated"
