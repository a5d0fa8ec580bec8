"""The one gate: who is asking, what do verified documents say of it, what does the policy answer.

No call of the broker does anything before it has an `Authorised` from here. Whatever isn't a
clear yes is an error: a deny is AccessDenied and stands in the audit log before the caller hears
of it; an outage is Unavailable; what the caller may not `show` looks like what isn't there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelvault.access import AccessRequest, Action, Caller, Decision, Principal, Resource
from modelvault.broker.advice import advice
from modelvault.broker.asked import (
    EVERY,
    Authorised,
    Who,
    entry,
    model_name,
    revoked,
    unauthenticated,
)
from modelvault.broker.engines import Engines
from modelvault.broker.parts import Parts
from modelvault.broker.throttle import Throttle
from modelvault.broker.verified import KnownVersion, Records, absent
from modelvault.catalog import Standing, holder
from modelvault.clock import to_text
from modelvault.errors import AccessDenied, AuthenticationError, NotFound, unframed
from modelvault.identity import tokens
from modelvault.identity.issuer import Issuer
from modelvault.policy import document
from modelvault.ports.identity import IssuerKeys
from modelvault.reference import Reference

PURPOSE_CLAIM = "purpose"
PURPOSE_MISMATCH = "purpose_mismatch"
REVOKED = "revoked"
# A grant and a renewal look at revocations in their own transaction, where one that comes at the
# last moment counts too; and giving back a lease or an upload harms nobody.
_LOOKED_AT_LATER = frozenset({"load", "export", "renew", "release", "abandon"})
_OBLIGATION_REASONS = (document.UNKNOWN_OBLIGATION, document.UNFULFILLED_OBLIGATION)


class Gate:
    """Authenticates, asks the policy, writes denials down. Thread-safe."""

    def __init__(
        self,
        parts: Parts,
        records: Records,
        engines: Engines,
        issuers: Iterable[Issuer],
        issuer_keys: IssuerKeys,
        throttle: Throttle,
    ) -> None:
        self._vault = parts.vault
        self._ledger = parts.ledger
        self.records = records
        self._engines = engines
        self._issuers = tuple(issuers)
        self._issuer_keys = issuer_keys
        self._throttle = throttle

    def authenticate(
        self, caller: Caller, action: str, key_hash: str | tuple[str, ...] | None
    ) -> Who:
        """The caller, by its token, at the ledger's time.

        `key_hash` is that of the recipient key that the request names, those that it may be, or
        None: for no other key is a key-bound token good. Raises AuthenticationError, and
        AccessDenied (`revoked`) for a principal that may do nothing any more; both once they are in
        the audit log. Unavailable (`rate_limited`) for one request too many, of which only the
        metrics tell.
        """
        now = self._ledger.now()
        self._throttle.check_address(caller.source_ip, now)
        try:
            principal = tokens.verify(
                caller.token,
                self._issuers,
                self._issuer_keys,
                now,
                vault=self._vault,
                key_hash=key_hash,
            )
        except AuthenticationError as refused:
            self._throttle.failed(caller.source_ip, now)
            self._ledger.append(unauthenticated(caller, action, now, refused.code))
            raise unframed(refused) from None
        self._throttle.admit(holder(principal.id, principal.instance), now)
        who = Who(caller, principal, now)
        if action not in _LOOKED_AT_LATER:
            self._check_revoked(who, action)
        return who

    def decide(
        self,
        who: Who,
        action: Action,
        resource: Resource,
        *,
        purpose: str | None = None,
        ticket: str | None = None,
        destination: str | None = None,
        fulfils: Sequence[str] = (),
        seen: Standing | None = None,
    ) -> Authorised:
        """The policy's answer, which may be no. Raises Unavailable where there is none.

        `seen` is a look at the ledger of this same request, which has told the policy's revision.
        """
        bound = who.principal.claims.get(PURPOSE_CLAIM)
        request = AccessRequest(
            principal=who.principal,
            action=action,
            resource=resource,
            now=who.now,
            purpose=purpose,
            purpose_bound_by="caller" if bound is None else "token",
            ticket=ticket,
            destination=destination,
            source_ip=who.caller.source_ip,
            client=who.caller.client,
            fulfils=tuple(fulfils),
        )
        question = document.to_input(request)
        decision = (
            self._engines.decide(question)
            if seen is None
            else self._engines.decide_by(seen.revision, question)
        )
        if purpose is not None and bound is not None and bound != purpose:
            decision = denied(decision, PURPOSE_MISMATCH)
        return Authorised(who, request, decision)

    def authorise(
        self,
        who: Who,
        action: Action,
        resource: Resource,
        *,
        purpose: str | None = None,
        ticket: str | None = None,
        destination: str | None = None,
        fulfils: Sequence[str] = (),
        seen: Standing | None = None,
    ) -> Authorised:
        """An allowed request.

        Raises AccessDenied, or NotFound where the caller may not even `show` the model; both once
        the denial is in the audit log.
        """
        asked = self.decide(
            who,
            action,
            resource,
            purpose=purpose,
            ticket=ticket,
            destination=destination,
            fulfils=fulfils,
            seen=seen,
        )
        if asked.decision.allowed:
            return asked
        self._ledger.append(entry(asked, "denied"))
        if action != "create":  # there the model isn't there yet, and the caller named it
            self._hide(asked)
        raise refusal(asked)

    def refuse(self, asked: Authorised, code: str, hint: str) -> AccessDenied:
        """Write down that a request which the policy allowed fails on a rule of the broker."""
        refused = Authorised(asked.who, asked.request, denied(asked.decision, code))
        self._ledger.append(entry(refused, "denied"))
        return refusal(refused, code, hint)

    def limited(self, asked: Authorised, stopped: AccessDenied) -> AccessDenied:
        """Write down that the ledger stopped an allowed request: a limit or a revocation."""
        refused = Authorised(asked.who, asked.request, denied(asked.decision, stopped.code))
        self._ledger.append(entry(refused, "denied"))
        told = refusal(refused, stopped.code, stopped.hint)
        message = f"{told.message} ({stopped.message})"
        return AccessDenied(told.code, message, told.hint, **{**stopped.details, **told.details})

    def version(self, who: Who, reference: Reference) -> KnownVersion:
        """The version of a reference, verified.

        That a version or tag isn't there is told only to those who may `show` the model.
        """
        seen = self.records.look(reference)
        model = self.records.standing(reference, seen.model)
        try:
            return self.records.version(model, reference, seen)
        except NotFound:
            if not self.may_show(who, model.resource()):
                raise absent(reference) from None
            raise

    def may_show(self, who: Who, resource: Resource) -> bool:
        """Whether the caller may know of a model."""
        return self.decide(who, "show", resource).decision.allowed

    def _check_revoked(self, who: Who, action: str) -> None:
        subject = who.principal.id
        stands = self._ledger.revoked(subject=subject, version="", at=who.now)
        if stands is None:
            return
        self._ledger.append(revoked(who, action))
        until = None if stands.until is None else to_text(stands.until)
        raise AccessDenied(
            REVOKED,
            f"{subject} is revoked" + (f" until {until}" if until else ""),
            f"it ends by itself at {until}"
            if until
            else "nothing lifts it: ask an admin of this vault for another identity",
            subject=subject,
            action=action,
            reasons=[REVOKED],
            until=until,
        )

    def _hide(self, asked: Authorised) -> None:
        request = asked.request
        resource = request.resource
        if EVERY in {resource.tenant, resource.id}:
            return
        if request.action == "show" or not self.may_show(asked.who, resource):
            raise absent(Reference(resource.tenant, resource.id))


def denied(decision: Decision, code: str) -> Decision:
    """The decision as a deny with one more reason; grants that fired no longer matter."""
    before = () if decision.allowed else decision.reasons
    return Decision(
        allowed=False,
        reasons=(*before, code),
        obligations=decision.obligations,
        revision=decision.revision,
        decision_id=decision.decision_id,
    )


def refusal(asked: Authorised, code: str | None = None, hint: str | None = None) -> AccessDenied:
    """The error of a denied request: who, what, which, what for, why, and whom to ask."""
    request, decision = asked.request, asked.decision
    resource = request.resource
    name = model_name(resource)
    purpose = f" for {request.purpose}" if request.purpose else ""
    why = ", ".join(decision.reasons) or "no reason given"
    unfulfilled = any(reason.startswith(_OBLIGATION_REASONS) for reason in decision.reasons)
    if unfulfilled:
        code = code or "obligation_unfulfillable"
        hint = hint or "use a newer modelvault here, or ask whoever writes the policy"
    return AccessDenied(
        code or "denied",
        f"{asked.principal.id} may not {request.action} {name or 'this vault'}{purpose}: {why}",
        hint or advice(asked),
        subject=asked.principal.id,
        action=request.action,
        model=name,
        purpose=request.purpose,
        reasons=list(decision.reasons),
        decision_id=decision.decision_id,
        owner=resource.owner,
    )


def key_bound_to(principal: Principal, key_hash: str) -> bool:
    """Whether the principal's token is bound to this recipient key."""
    return principal.bound_by == "key" and principal.key_hash == key_hash
