"""Errors over HTTP: problem documents of RFC 9457, and back."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

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

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:modelvault:problem:"
MAX_PROBLEM = 256 << 10

_FAMILIES: dict[str, type[ModelVaultError]] = {
    kind.family: kind
    for kind in (
        InvalidRequest,
        AuthenticationError,
        AccessDenied,
        NotFound,
        Conflict,
        IntegrityError,
        Unavailable,
    )
}

# An error's own arguments: as names of details they would be somebody's mistake, or trick.
_OWN = frozenset({"self", "code", "message", "hint"})

Text = Annotated[str, Meta(max_length=16 << 10)]


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document. `type` is `urn:modelvault:problem:<code>`, `instance` the request's id;
    `family` and `details` are ours. What else is in it is read over, as the RFC wants."""

    type: Annotated[str, Meta(pattern=r"^urn:modelvault:problem:[a-z0-9_]{1,64}\Z")]
    title: Text
    status: int
    detail: Text
    family: str
    hint: Text = ""
    instance: Text = ""
    details: dict[str, Any] = {}

    @property
    def code(self) -> str:
        """The error's code."""
        return self.type.removeprefix(TYPE)


def of(error: ModelVaultError, status: int, request: str) -> Problem:
    """The document of an error."""
    return Problem(
        type=TYPE + error.code,
        title=error.code.replace("_", " "),
        status=status,
        detail=error.message,
        family=error.family,
        hint=error.hint,
        instance=request,
        details={key: _plain(value) for key, value in error.details.items()},
    )


def error_of(document: Problem) -> ModelVaultError:
    """The error of a document. A family that isn't known is an outage: never taken for a no.

    What it says is one line of printable text, whoever wrote it: it ends up on terminals.
    """
    kind = _FAMILIES.get(document.family, Unavailable)
    details = {key: value for key, value in document.details.items() if key not in _OWN}
    return kind(document.code, _line(document.detail), _line(document.hint), **details)


def _line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _plain(value: object) -> object:
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value)
