"""Errors as problem documents, there and back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.errors import (
    AccessDenied,
    AuthenticationError,
    Conflict,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
    Unavailable,
)
from modelvault.wire import problem
from modelvault.wire.problem import Problem

FAMILIES = (
    AccessDenied, AuthenticationError, Conflict, IntegrityError, InvalidRequest, NotFound,
    Unavailable,
)  # fmt: skip
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)
LINES = st.text(max_size=60).filter(str.isprintable)


def sent(error: ModelVaultError) -> ModelVaultError:
    return problem.error_of(
        msgspec.json.decode(msgspec.json.encode(problem.of(error, 400, "id")), type=Problem)
    )


@given(
    family=st.sampled_from(FAMILIES),
    code=st.from_regex(r"[a-z0-9_]{1,40}", fullmatch=True),
    message=LINES,
    hint=LINES,
    details=st.dictionaries(
        st.text(max_size=12).filter(lambda name: name not in {"self", "code", "message", "hint"}),
        PLAIN,
        max_size=4,
    ),
)
def test_nothing_is_lost_on_the_way(
    family: type[ModelVaultError], code: str, message: str, hint: str, details: dict[str, Any]
) -> None:
    error = family(code, message, hint, **details)
    back = sent(error)
    assert type(back) is family
    assert (back.code, back.message, back.hint) == (code, message, hint)
    assert back.details == details


def test_tuples_come_as_lists_and_strange_values_as_text() -> None:
    back = sent(AccessDenied("denied", "no", reasons=("a", ("b",)), ratio=0.5, at={"x": 1}))
    assert back.details == {"reasons": ["a", ["b"]], "ratio": "0.5", "at": "{'x': 1}"}


@pytest.mark.parametrize("family", ["access denied", "", "AccessDenied", "deny"])
def test_an_unknown_family_is_an_outage_and_no_deny(family: str) -> None:
    told = Problem(type=problem.TYPE + "revoked", title="", status=403, detail="x", family=family)
    assert type(problem.error_of(told)) is Unavailable


def test_details_with_the_names_of_arguments_do_no_harm() -> None:
    told = Problem(
        type=problem.TYPE + "denied", title="", status=403, detail="real", family="access_denied",
        hint="real", details={"self": 1, "code": "x", "message": "x", "hint": "x", "kept": 2},
    )  # fmt: skip
    error = problem.error_of(told)
    assert (error.code, error.message, error.hint) == ("denied", "real", "real")
    assert error.details == {"kept": 2}


def test_what_it_says_is_one_printable_line() -> None:
    told = Problem(
        type=problem.TYPE + "denied", title="", status=403, family="access_denied",
        detail="no\n\x1b[31mroot\u202e", hint="a\r\nb",
    )  # fmt: skip
    error = problem.error_of(told)
    assert (error.message, error.hint) == ("no  [31mroot ", "a  b")


@pytest.mark.parametrize(
    "type",
    ["about:blank", "urn:modelvault:problem:", "urn:modelvault:problem:No", "x", "",
     "urn:modelvault:problem:a\n", "urn:modelvault:problem:" + "a" * 65],
)  # fmt: skip
def test_only_our_own_documents_are_taken(type: str) -> None:
    document = {"type": type, "title": "", "status": 403, "detail": "", "family": "access_denied"}
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(document), type=Problem)
