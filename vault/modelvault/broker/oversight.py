"""What admins, owners and auditors look at and stop: revoke, leases, explain, entries."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

import msgspec

from modelvault.access import Action, Caller, Principal, Resource
from modelvault.broker.asked import (
    MAX_TEXT,
    Authorised,
    Who,
    check_texts,
    entry,
    new_id,
    whole_vault,
)
from modelvault.broker.catalogue import check_limit
from modelvault.broker.gate import Gate
from modelvault.broker.parts import Parts
from modelvault.broker.steward import bare
from modelvault.broker.verified import KnownVersion
from modelvault.catalog import LeaseRow, Revocation
from modelvault.clock import to_text
from modelvault.errors import Conflict, InvalidRequest, NotFound
from modelvault.lease import EntryPage, Explanation, LeaseSummary
from modelvault.record import Entry
from modelvault.reference import Reference

Kind = Literal["principal", "lease", "version"]


class Overseer:
    """`revoke`, `leases`, `explain`, `entries` of ports.broker.Steward. Thread-safe."""

    def __init__(self, parts: Parts, gate: Gate) -> None:
        self._ledger = parts.ledger
        self._terms = parts.terms
        self._gate = gate

    def revoke(
        self, caller: Caller, *, kind: str, target: str, reason: str, for_s: int | None
    ) -> int:
        """Stop a principal, a lease or a version, from now on; returns the leases it ended.

        A loader learns of it at its next renewal at the latest. Raises Conflict
        (`revokes_yourself`): a vault's only admin would be gone for good.
        """
        who = self._gate.authenticate(caller, "revoke", None)
        check_texts(target, reason)
        if for_s is not None and (kind != "principal" or for_s < 1):
            raise InvalidRequest(
                "bad_duration", "only a principal's revocation ends, after a second or more"
            )
        checked, name, resource = self._target(who, kind, target)
        asked = self._gate.authorise(who, "revoke", resource)
        if checked == "principal" and name == who.principal.id:
            raise Conflict(
                "revokes_yourself",
                f"{name} is you: you would be locked out, and nothing lifts it"
                + (" until it ends" if for_s is not None else ""),
                "have another admin revoke you; `modelvault revoke lease` ends what you have open",
            )
        revocation = Revocation(
            id=new_id(),
            kind=checked,
            target=name,
            at=who.now,
            by=who.principal.id,
            reason=reason,
            until=None if for_s is None else who.now + for_s * 1000,
        )
        told = entry(
            asked,
            "done",
            lease=name if checked == "lease" else None,
            kind=checked,
            target=name,
            reason=reason,
            for_s=for_s,
        )
        return self._ledger.revoke(revocation, told)

    def leases(
        self, caller: Caller, *, reference: str | None, ended: bool, limit: int
    ) -> tuple[LeaseSummary, ...]:
        """Leases, newest first; of one model where `reference` names it."""
        who = self._gate.authenticate(caller, "read_leases", None)
        check_limit(limit, self._terms.max_page)
        asked = self._scope(who, "read_leases", reference)
        tenant, model = _names(asked)
        rows = self._ledger.leases(
            tenant=tenant, model=model, running_at=None if ended else who.now, limit=limit
        )
        return tuple(_summary(row) for row in rows)

    def entries(
        self, caller: Caller, *, after: int, limit: int, reference: str | None
    ) -> EntryPage:
        """The audit log, oldest first; of one model where `reference` names it."""
        who = self._gate.authenticate(caller, "read_audit", None)
        check_limit(limit, self._terms.max_page)
        asked = self._scope(who, "read_audit", reference)
        tenant, model = _names(asked)
        found = tuple(self._ledger.entries(after=after, limit=limit, tenant=tenant, model=model))
        return EntryPage(entries=found, next=found[-1].seq if len(found) == limit else None)

    def last_entries(
        self, caller: Caller, *, before: int | None, limit: int, reference: str | None
    ) -> tuple[Entry, ...]:
        """The end of the audit log, or what is in front of an entry; as `entries`."""
        who = self._gate.authenticate(caller, "read_audit", None)
        check_limit(limit, self._terms.max_page)
        asked = self._scope(who, "read_audit", reference)
        tenant, model = _names(asked)
        return tuple(
            self._ledger.last_entries(before=before, limit=limit, tenant=tenant, model=model)
        )

    def explain(
        self,
        caller: Caller,
        *,
        action: Action,
        reference: str,
        purpose: str | None,
        subject: Principal | None,
        destination: str | None = None,
    ) -> Explanation:
        """What the policy says of a request. It grants nothing and stands in the audit log.

        For another subject it is the action `explain`, since it is an oracle; of oneself one may
        ask about whatever one may `show`, which tells no more than asking for the thing itself.
        """
        who = self._gate.authenticate(caller, "explain", None)
        _check_action(action)
        check_texts(purpose, destination)
        resource = self._explained(who, reference)
        asked = self._gate.decide(who, "explain", resource)
        for_self = subject is None or subject.id == who.principal.id
        if not asked.decision.allowed and (not for_self or not self._gate.may_show(who, resource)):
            asked = self._gate.authorise(who, "explain", resource)
        about = who.principal if subject is None or for_self else subject
        answer = self._gate.decide(
            Who(who.caller, about, who.now),
            action,
            resource,
            purpose=purpose,
            destination=destination,
        ).decision
        self._ledger.append(
            entry(
                asked,
                "done",
                reasons=answer.reasons,
                about=about.id[:MAX_TEXT],
                explained=action,
                for_purpose=purpose,
                destination=destination,
                allowed=answer.allowed,
            )
        )
        return Explanation(
            allowed=answer.allowed,
            reasons=answer.reasons,
            obligations=answer.obligations,
            revision=answer.revision,
            decision_id=answer.decision_id,
        )

    def _target(self, who: Who, kind: str, target: str) -> tuple[Kind, str, Resource]:
        """The kind, the target's exact name, and what the policy decides about."""
        if kind == "principal":
            _check_principal(target)
            return "principal", target, whole_vault()
        if kind == "lease":
            row = self._lease(target)
            if row is None:  # told only to those who may revoke anything
                self._gate.authorise(who, "revoke", whole_vault())
                why = f"there is no lease {target[:40]!r}"
                raise NotFound("no_lease", why, "see `modelvault lease list`")
            return "lease", row.id, self._of_lease(row)
        if kind == "version":
            version = self._version(who, Reference.parse(target))
            manifest = version.manifest
            name = f"{manifest.tenant}/{manifest.model}@{manifest.version}"
            return "version", name, version.resource()
        raise InvalidRequest(
            "bad_kind", f"{kind[:40]!r} can't be revoked", "revoke a principal, lease or version"
        )

    def _version(self, who: Who, named: Reference) -> KnownVersion:
        """The version that is meant, also one that was deleted: jobs may be using it still."""
        try:
            return self._gate.version(who, named)
        except NotFound:
            with suppress(NotFound):
                if named.version is not None:
                    row = self._ledger.model(named.tenant, named.model)
                    records = self._gate.records
                    return records.numbered(records.known(row), named.version)
            raise

    def _lease(self, lease: str) -> LeaseRow | None:
        try:
            return self._ledger.lease(lease)
        except NotFound:
            return None

    def _of_lease(self, row: LeaseRow) -> Resource:
        model = self._gate.records.known(self._ledger.model(row.tenant, row.model))
        return msgspec.structs.replace(
            model.resource(row.paths, row.bytes), version=row.version, manifest=row.manifest
        )

    def _scope(self, who: Who, action: Action, reference: str | None) -> Authorised:
        if reference is None:
            return self._gate.authorise(who, action, whole_vault())
        model = self._gate.records.model(bare(reference))
        return self._gate.authorise(who, action, model.resource())

    def _explained(self, who: Who, reference: str) -> Resource:
        """The version's facts; the model's alone while it has no version."""
        named = Reference.parse(reference)
        try:
            return self._gate.version(who, named).resource()
        except NotFound:
            if named.tag or named.version or named.digest:
                raise
            return self._gate.records.model(named).resource()


def _names(asked: Authorised) -> tuple[str | None, str | None]:
    resource = asked.request.resource
    if resource == whole_vault():
        return None, None
    return resource.tenant, resource.id


def _check_principal(target: str) -> None:
    # Without the issuer's name it would hit nobody, and look as if it had.
    if not all(target.partition(":")):
        raise InvalidRequest(
            "bad_target",
            f"{target[:80]!r} isn't a principal of this vault",
            "name it with its issuer, as `modelvault whoami` and the audit log do: local:alice",
        )


def _check_action(action: str) -> None:
    try:
        msgspec.convert(action, Action)
    except msgspec.ValidationError:
        raise InvalidRequest("bad_action", f"no action is called {action[:40]!r}") from None


def _summary(row: LeaseRow) -> LeaseSummary:
    return LeaseSummary(
        id=row.id,
        subject=row.subject,
        tenant=row.tenant,
        model=row.model,
        version=row.version,
        purpose=row.purpose,
        action=row.action,
        granted_at=to_text(row.granted_at),
        expires_at=to_text(row.expires_at),
        ended_at=None if row.ended_at is None else to_text(row.ended_at),
        end_reason=row.end_reason,
        bytes=row.bytes,
    )
