"""Bundles: one revision for one content."""

from __future__ import annotations

import msgspec
import pytest

from modelvault.errors import InvalidRequest, Unavailable
from modelvault.policy import shipped
from modelvault.policy.bundle import Bundle, combine, parse_data

ONE = Bundle(modules={"a.rego": "package a", "b.rego": "package b"}, data={"x": [1], "y": None})


def test_the_revision_is_of_the_content_and_not_of_its_order():
    turned = Bundle(
        modules=dict(reversed(ONE.modules.items())), data=dict(reversed(ONE.data.items()))
    )
    assert ONE.revision == turned.revision
    assert ONE.revision == (
        "sha256:7ff622df7c17ecc554ce1b5ca5708364abbfc553e712c82f89114cd71d4f8b49"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"modules": {"a.rego": "package a", "b.rego": "package b "}},
        {"modules": {"a.rego": "package a", "c.rego": "package b"}},
        {"modules": {"a.rego": "package a"}},
        {"data": {"x": [1]}},
        {"data": {"x": [2], "y": None}},
    ],
)
def test_any_change_is_another_revision(change):
    other = msgspec.structs.replace(ONE, **change)
    assert other.revision != ONE.revision
    with pytest.raises(Unavailable) as caught:
        other.at(ONE.revision)
    assert caught.value.code == "policy_unavailable"


def test_at_its_revision_it_is_itself():
    assert ONE.at(ONE.revision) is ONE


def test_site_rules_lie_beside_the_shipped_ones():
    bundle = combine(ONE.modules, {"z": 1}, {"house.rego": "package modelvault.site"})
    assert set(bundle.modules) == {"a.rego", "b.rego", "site/house.rego"}
    assert bundle.document == {"modelvault": {"z": 1}}


def test_the_shipped_bundle_holds_rules_and_no_tests():
    modules = shipped.bundle().modules
    assert {path.rpartition("/")[2] for path in modules} == {
        "authz.rego",
        "grants.rego",
        "purposes.rego",
        "limits.rego",
    }


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'"text"', b"{", b'{"a": 1.5}', b'{"a":1,"a":2}', b"\xff"]
)
def test_data_that_isnt_a_strict_object_is_refused(text):
    with pytest.raises(InvalidRequest) as caught:
        parse_data(text)
    assert caught.value.code == "bad_policy"
