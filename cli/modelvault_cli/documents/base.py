"""What all documents have in common, and what any command may print instead of its own."""

from __future__ import annotations

from typing import Any

import msgspec

from modelvault import access


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all documents."""


class Obligations(access.Obligations, frozen=True, kw_only=True, omit_defaults=False):
    """The strictest of each obligation that the policy gave; null means not limited, and no member
    is left out. Seconds, bytes and counts are whole numbers; `files` are the only paths that may be
    had. `terminate_on_revoke` is how many seconds a process lives on after its lease's end."""

    @classmethod
    def of(cls, obligations: access.Obligations) -> Obligations:
        """The same, told whole."""
        return cls(**msgspec.structs.asdict(obligations))


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong: `code` is stable, `hint` says what to do next."""

    code: str
    family: str
    message: str
    hint: str
    exit_code: int
    details: dict[str, Any]


class Failure(Document, frozen=True, kw_only=True):
    """Any command that fails."""

    error: ErrorBody


class Plan(Document, frozen=True, kw_only=True):
    """What `--dry-run` tells: nothing was changed. `notes` are worth knowing before, and
    `unchecked` is what only the run itself can tell."""

    dry_run: bool = True
    action: str
    target: str
    effect: str
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
