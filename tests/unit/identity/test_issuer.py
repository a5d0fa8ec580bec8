from __future__ import annotations

import msgspec
import pytest

from modelvault.errors import InvalidRequest
from modelvault.identity.issuer import Issuer, by_iss, local_issuer

GOOD = {"name": "ci", "iss": "https://ci.example", "algorithms": ["EdDSA"]}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a:b"},
        {"name": ""},
        {"name": "CI"},
        {"name": "ci\n"},
        {"iss": ""},
        {"algorithms": []},
        {"algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"leeway_s": 31},
        {"leeway_s": -1},
        {"max_lifetime_s": 0},
        {"max_lifetime_s": 86_401},
        {"groups_claim": ""},
        {"jku": "https://ci.example/keys"},
    ],
    ids=str,
)
def test_what_a_configuration_may_not_say(change: dict[str, object]) -> None:
    msgspec.convert(GOOD, Issuer)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(GOOD | change, Issuer)


@pytest.mark.parametrize(
    "change",
    [{"leeway_s": 31}, {"max_lifetime_s": 0}, {"name": "a:b"}, {"algorithms": ()}],
    ids=str,
)
def test_nor_code(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="issuer"):
        Issuer(**(GOOD | change))


def test_names_and_iss_are_each_ones_own() -> None:
    ci = Issuer(name="ci", iss="https://ci.example", algorithms=("EdDSA",))
    local = local_issuer("ab" * 16)
    assert by_iss([ci, local]) == {ci.iss: ci, local.iss: local}
    for name, iss in [("ci", "https://other.example"), ("other", ci.iss)]:
        with pytest.raises(InvalidRequest) as caught:
            by_iss([ci, Issuer(name=name, iss=iss, algorithms=("EdDSA",))])
        assert caught.value.code == "bad_issuers"
