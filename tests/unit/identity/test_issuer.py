from __future__ import annotations

import msgspec
import pytest

from modelvault.errors import AuthenticationError, InvalidRequest
from modelvault.identity import claims
from modelvault.identity.issuer import Derived, Field, Issuer, by_iss, local_issuer

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


FIELD = Field(name="project", path=("project_id",), pattern="[0-9]+")


@pytest.mark.parametrize(
    "change",
    [
        {"instance": "pod"},
        {"groups": (Derived("project:{other}"),)},
        {"subjects": (Derived("p:{project}", (("protected", "true"),)),)},
        {"sub_is": Derived("{nobody}")},
        {"fields": (FIELD, FIELD)},
    ],
    ids=str,
)
def test_fields_that_arent_there(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a field"):
        Issuer(**(GOOD | {"fields": (FIELD,)} | change))


@pytest.mark.parametrize(
    "change", [{"name": "Pod"}, {"name": ""}, {"path": ()}, {"path": ("a", "")}], ids=str
)
def test_a_field_has_a_name_and_a_path(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a name and a path"):
        Field(**({"name": "pod", "path": ("pod",), "pattern": "x"} | change))


def test_a_subject_that_cant_be_made() -> None:
    optional = Field(name="run", path=("run",), pattern=".+", optional=True)
    issuer = Issuer(**GOOD, fields=(optional,), subjects=(Derived("run:{run}"),))
    assert claims.subject("sub", {"run": "7"}, issuer) == "ci:run:7"
    with pytest.raises(AuthenticationError) as caught:
        claims.subject("sub", {}, issuer)
    assert caught.value.code == "missing_claim"
