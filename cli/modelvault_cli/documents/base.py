"""What all documents have in common, and what any command may print instead of its own."""

from __future__ import annotations

from typing import Any

import msgspec


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all documents."""


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
