"""Errors travel whole."""

from __future__ import annotations

import copy
import pickle
import traceback

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
        assert again.__notes__ == ["code: a_code", "hint: a hint"]


def test_a_traceback_says_what_to_do() -> None:
    error = errors.Conflict("in_use", "it is in use", "close it first", secret_like="kept out")
    for one in (error, errors.unframed(error)):
        told = "".join(traceback.format_exception(one)).splitlines()
        assert told == [
            "modelvault.errors.Conflict: it is in use", "code: in_use", "hint: close it first",
        ]  # fmt: skip
    bare = "".join(traceback.format_exception(errors.Conflict("in_use", "it is in use")))
    assert bare.splitlines()[1:] == ["code: in_use"]


def test_families_are_distinct() -> None:
    assert len({family.family for family in FAMILIES}) == len(FAMILIES)
