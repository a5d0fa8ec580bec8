from __future__ import annotations

import pytest

from modelvault.identity import peek
from support.tokens import NOW, by_hand, by_pyjwt, claims


@pytest.mark.parametrize(
    ("token", "ends"),
    [
        (by_pyjwt(claims()), NOW + 600_000),
        (by_pyjwt(claims(exp=None)), None),
        (by_hand(claims(exp="soon")), None),
        (by_hand(claims(exp=True)), None),
        (by_hand([1]), None),
        (by_hand(b"not JSON"), None),
        ("opaque", None),
        ("a.b.c", None),
        ("a.e30.c.d", None),
        ("a.e30." + "x" * 20_000, None),
        (None, None),
        ("a.\u0661.c", None),
        ("", None),
    ],
)
def test_when_a_token_ends(token: object, ends: int | None) -> None:
    assert peek.expires_at(token) == ends


def test_what_it_says() -> None:
    assert peek.claims(by_pyjwt(claims(groups=None))) == claims(groups=None)
