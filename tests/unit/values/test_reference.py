"""Model references."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.errors import InvalidRequest
from modelvault.reference import Reference

DIGEST = "sha256:" + "0a" * 32
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("minilm", Reference("default", "minilm")),
        ("minilm:prod", Reference("default", "minilm", tag="prod")),
        ("minilm@7", Reference("default", "minilm", version=7)),
        ("minilm@999999999", Reference("default", "minilm", version=999_999_999)),
        (f"minilm@{DIGEST}", Reference("default", "minilm", digest=DIGEST)),
        ("acme/MiniLM-2.1_x:v1.0", Reference("acme", "MiniLM-2.1_x", tag="v1.0")),
        ("a" * 96, Reference("default", "a" * 96)),
    ],
)
def test_good(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected
    assert str(expected) == text


def test_the_default_tenant_may_be_named() -> None:
    assert Reference.parse("default/m") == Reference.parse("m")
    assert Reference.parse("acme/m").name == "acme/m"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " m",
        "m ",
        "m\n",
        "m:prod\n",
        "m@7\n",
        "a" * 97,
        "-m",
        ".m",
        "_m",
        "m:",
        "m:-",
        "m@",
        "m@0",
        "m@07",
        "m@+7",
        "m@1000000000",
        "m@\u0667",
        "m@sha256:" + "0" * 63,
        "m@sha256:" + "0" * 65,
        "m@sha256:" + "A" * 64,
        "m@blake3:" + "0" * 64,
        "m:prod@7",
        "m@7:prod",
        "/m",
        "a/",
        "a//m",
        "a/b/m",
        "../m",
        "m/../n",
        "mö",
        "m\0",
        "m:prod:x",
        "m" * 600,
        "m\ud800",
    ],
)
def test_bad(text: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        Reference.parse(text)
    assert error.value.code == "bad_reference"
    assert error.value.hint
    assert error.value.message.isprintable()


def test_an_address_is_told_from_a_reference() -> None:
    with pytest.raises(InvalidRequest) as error:
        Reference.parse("modelvault://m:prod")
    assert "leave modelvault:// out" in error.value.hint


@given(
    tenant=NAMES,
    model=NAMES,
    end=st.one_of(
        st.none(),
        NAMES.map(lambda name: {"tag": name}),
        st.integers(1, 999_999_999).map(lambda number: {"version": number}),
        st.binary(min_size=32, max_size=32).map(lambda raw: {"digest": f"sha256:{raw.hex()}"}),
    ),
)
def test_round_trip(tenant: str, model: str, end: dict | None) -> None:
    reference = Reference(tenant, model, **(end or {}))
    assert Reference.parse(str(reference)) == reference
