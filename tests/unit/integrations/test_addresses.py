"""What a modelvault:// address names."""

from __future__ import annotations

import pytest

from modelvault.errors import InvalidRequest
from modelvault.integrations.addresses import Address

DIGEST = "sha256:" + "0" * 64

ADDRESSES = [
    ("modelvault://data@1/x.csv", "data@1", "x.csv"),
    ("modelvault://data:prod/deep/x.csv", "data:prod", "deep/x.csv"),
    ("modelvault://data/deep/x.csv", "data", "deep/x.csv"),
    (f"modelvault://data@{DIGEST}/x.csv", f"data@{DIGEST}", "x.csv"),
    ("modelvault://team/data@1/x.csv", "team/data@1", "x.csv"),
    ("modelvault://team/data:prod/x.csv", "team/data:prod", "x.csv"),
    ("modelvault://data@1/a@b/x.csv", "data@1", "a@b/x.csv"),
    ("modelvault://data@1", "data@1", ""),
    ("modelvault://team/data@1/", "team/data@1", ""),
    ("data@1/x.csv", "data@1", "x.csv"),
    ("/data@1/x.csv/", "data@1", "x.csv"),
]


@pytest.mark.parametrize(("text", "reference", "path"), ADDRESSES)
def test_an_address(text: str, reference: str, path: str) -> None:
    address = Address.parse(text)
    assert (address.reference, address.path) == (reference, path)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "no_model_named"),
        ("modelvault://", "no_model_named"),
        ("///", "no_model_named"),
        ("..", "bad_reference"),
        ("../data@1/x", "bad_reference"),
        ("da ta@1/x", "bad_reference"),
        ("s3://bucket/x", "bad_reference"),
        ("data@0/x", "bad_reference"),
    ],
)
def test_no_address(text: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Address.parse(text)
    assert refused.value.code == code
