"""Errors travel whole."""

from __future__ import annotations

import copy
import pickle

import pytest

from modelvault import errors

FAMILIES = [
    errors.InvalidRequest,
    errors.AuthenticationError,
    errors.AccessDenied,
    errors.NotFound,
    errors.Conflict,
    errors.IntegrityError,
    errors.Unavailable,
]


@pytest.mark.parametrize("family", FAMILIES)
def test_pickle_and_copy_keep_all(family: type[errors.ModelVaultError]) -> None:
    error = family("a_code", "a message", "a hint", limit=3)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301
        assert type(again) is family
        assert (again.code, again.message, again.hint) == ("a_code", "a message", "a hint")
        assert again.details == {"limit": 3}
        assert str(again) == "a message"


def test_families_are_distinct() -> None:
    assert len({family.family for family in FAMILIES}) == len(FAMILIES)
