"""A question that was put to the policy, with its answer, and how the audit log tells of it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Literal

import msgspec

from modelvault.access import AccessRequest, Caller, Decision, Principal, Resource
from modelvault.clock import to_text
from modelvault.errors import InvalidRequest
from modelvault.record import Entry

EVERY = "*"
UNAUTHENTICATED = "unauthenticated"
MAX_TEXT = 512
_CLIENT_CHARS = 64

Outcome = Literal["allowed", "denied", "failed", "done"]


class Who(msgspec.Struct, frozen=True):
    """An authenticated caller, and the one moment at which all of this request is decided."""

    caller: Caller
    principal: Principal
    now: int


class Authorised(msgspec.Struct, frozen=True):
    """The request as the policy saw it, and what it decided."""

    who: Who
    request: AccessRequest
    decision: Decision

    @property
    def principal(self) -> Principal:
        """Who asked."""
        return self.who.principal

    @property
    def now(self) -> int:
        """When, in milliseconds since the epoch."""
        return self.who.now


def new_id() -> str:
    """16 random bytes as 32 lowercase hex."""
    return secrets.token_hex(16)


def check_texts(*texts: str | None) -> None:
    """Refuse what callers may not write into decisions, messages and the audit log.

    Raises InvalidRequest (`bad_text`).
    """
    given = [text for text in texts if text is not None]
    if any(not 1 <= len(text) <= MAX_TEXT or not text.isprintable() for text in given):
        raise InvalidRequest(
            "bad_text",
            f"targets, reasons, purposes, tickets and owners are 1 to {MAX_TEXT} printable "
            "characters",
            "leave out line feeds, control characters and what isn't Unicode",
        )


def whole_vault(tenant: str = EVERY) -> Resource:
    """The resource of actions that aren't about one model: only a grant for `*` covers it."""
    return Resource(tenant=tenant, id=EVERY)


def model_name(resource: Resource) -> str | None:
    """`tenant/model`, with `@version` where there is one; None for the whole vault."""
    if EVERY in {resource.tenant, resource.id}:
        return None
    name = f"{resource.tenant}/{resource.id}"
    return name if resource.version is None else f"{name}@{resource.version}"


def entry(
    asked: Authorised,
    outcome: Outcome,
    *,
    version: int | None = None,
    lease: str | None = None,
    reasons: Sequence[str] | None = None,
    **details: str | int | bool | None,
) -> Entry:
    """The audit entry of what was decided and what became of it."""
    request, decision = asked.request, asked.decision
    resource = request.resource
    return Entry(
        id=new_id(),
        at=to_text(asked.now),
        actor=asked.principal.id,
        action=request.action,
        outcome=outcome,
        tenant=None if resource.tenant == EVERY else resource.tenant,
        model=None if resource.id == EVERY else resource.id,
        version=resource.version if version is None else version,
        purpose=request.purpose,
        lease=lease,
        decision_id=decision.decision_id,
        revision=decision.revision,
        reasons=tuple(decision.reasons if reasons is None else reasons),
        details=details,
    )


def unauthenticated(caller: Caller, action: str, now: int, code: str) -> Entry:
    """The entry of a token that proved nothing: where it came from, and no word of the token."""
    return Entry(
        id=new_id(),
        at=to_text(now),
        actor=UNAUTHENTICATED,
        action=action,
        outcome="denied",
        reasons=(code,),
        details={
            "source_ip": caller.source_ip and caller.source_ip[:_CLIENT_CHARS],
            "client": caller.client[:_CLIENT_CHARS],
        },
    )


def revoked(who: Who, action: str) -> Entry:
    """The entry of a revoked principal that asked for something all the same."""
    return Entry(
        id=new_id(),
        at=to_text(who.now),
        actor=who.principal.id,
        action=action,
        outcome="denied",
        reasons=("revoked",),
    )
