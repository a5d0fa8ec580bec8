"""A lease that stands: renewed by a new decision, or given back.

A renewal asks the policy and looks at revocations, and never asks the key service. An outage is
Unavailable and ends nothing; a deny ends the lease, and its loader wipes.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelvault.access import OBLIGATION_TYPES, Caller
from modelvault.broker import grant
from modelvault.broker.asked import Authorised, Who, entry, new_id
from modelvault.broker.gate import Gate, denied, key_bound_to, refusal
from modelvault.broker.parts import Parts
from modelvault.broker.verified import KnownVersion
from modelvault.catalog import LeaseRow, Standing
from modelvault.clock import to_text
from modelvault.errors import AccessDenied, NotFound
from modelvault.lease import Renewal
from modelvault.manifest import FileEntry
from modelvault.record import Entry


class Renewer:
    """`renew` and `release` of ports.broker.Broker. Thread-safe."""

    def __init__(self, parts: Parts, gate: Gate) -> None:
        self._parts = parts
        self._gate = gate

    def renew(self, caller: Caller, lease: str, key_hash: str) -> Renewal:
        """A new decision by policy and revocations about what was granted before.

        A lease that expired during an outage is renewed within the grace that stands now.
        """
        who = self._gate.authenticate(caller, "renew", key_hash)
        found, seen = self._leased(lease)
        row = _owned(who, found)
        if row.key_hash != key_hash:
            raise _no_lease()
        if row.ended_at is not None:
            raise _over(row)
        version = self.standing(row, seen)
        files = [file for file in version.manifest.files if file.path in set(row.paths)]
        # Which obligations this loader can keep was settled when it took the lease, and what the
        # renewal brings is in the answer for it to look at.
        asked = self._gate.decide(
            who,
            "renew",
            version.resource(files),
            purpose=row.purpose,
            fulfils=sorted(OBLIGATION_TYPES),
            seen=seen,
        )
        obligations = asked.decision.obligations
        if not asked.decision.allowed:
            raise self._ended(asked, row, refusal(asked), "denied")
        code = self._unfit(who, row, version, files, asked)
        if code is not None:
            asked = Authorised(who, asked.request, denied(asked.decision, code))
            raise self._ended(asked, row, refusal(asked, code, grant.HINTS.get(code)), code)
        until = grant.renewed_until(row, who.now, obligations, self._parts.terms.default_ttl_s)
        told = entry(asked, "allowed", lease=row.id, until=to_text(until))
        try:
            extended = self._parts.ledger.extend(
                row.id, until, told, late_ms=1000 * (obligations.grace_s or 0)
            )
        except AccessDenied as stopped:
            raise self._gate.limited(asked, stopped) from None
        return Renewal(
            ttl_s=(until - who.now) // 1000,
            expires_at=to_text(extended.expires_at),
            obligations=obligations,
        )

    def release(self, caller: Caller, lease: str) -> None:
        """End a lease of the caller's own."""
        who, own, _ = self.own(caller, "release", lease)
        told = Entry(
            id=new_id(),
            at=to_text(who.now),
            actor=who.principal.id,
            action="release",
            outcome="done",
            tenant=own.tenant,
            model=own.model,
            version=own.version,
            purpose=own.purpose,
            lease=own.id,
        )
        self._parts.ledger.end(own.id, who.now, "released", told)

    def own(self, caller: Caller, action: str, lease: str) -> tuple[Who, LeaseRow, Standing]:
        """The caller, a lease of its own, running or not, and the version that it is of.

        Raises NotFound (`no_lease`)."""
        row, seen = self._leased(lease)
        who = self._gate.authenticate(caller, action, None if row is None else row.key_hash)
        return who, _owned(who, row), seen

    def standing(self, row: LeaseRow, seen: Standing) -> KnownVersion:
        """The version that a lease is of. `delete` hides it from new leases only: a running job
        isn't stopped by tidying up; `revoke` does that."""
        version = self._gate.records.leased(seen)
        if version is None or version.row.digest != row.manifest:
            raise _no_lease()
        return version

    def _leased(self, lease: str) -> tuple[LeaseRow | None, Standing]:
        try:
            return self._parts.ledger.leased(lease)
        except NotFound:
            return None, Standing(revision=None, model=None)

    def _unfit(
        self,
        who: Who,
        row: LeaseRow,
        version: KnownVersion,
        files: Sequence[FileEntry],
        asked: Authorised,
    ) -> str | None:
        """Why a renewal that the policy allows can't be had, or None."""
        obligations = asked.decision.obligations
        if row.bound and not key_bound_to(who.principal, row.key_hash):
            return "key_bound_token_required"
        if not grant.permitted(files, obligations, named=True):
            return grant.FILES_NOT_ALLOWED
        if grant.holds_pickle(version, row.paths, obligations):
            return grant.PICKLE_REFUSED
        until = grant.renewed_until(row, who.now, obligations, self._parts.terms.default_ttl_s)
        return "max_total_s" if until - who.now < 1000 else None

    def _ended(
        self, asked: Authorised, row: LeaseRow, refused: AccessDenied, reason: str
    ) -> AccessDenied:
        """The denial ends the lease: its loader wipes, so its slot is free."""
        told = entry(asked, "denied", lease=row.id)
        self._parts.ledger.end(row.id, asked.now, reason, told)
        return refused


def _owned(who: Who, row: LeaseRow | None) -> LeaseRow:
    if row is None or row.subject != who.principal.id:
        raise _no_lease()
    return row


def _over(row: LeaseRow) -> AccessDenied:
    reason = row.end_reason or "ended"
    code = "revoked" if reason == "revoked" else "lease_ended"
    return AccessDenied(
        code,
        f"the lease of {row.tenant}/{row.model}@{row.version} is over: {reason}",
        "load the model again, or ask its owner if that is refused",
        reason=reason,
        subject=row.subject,
        model=f"{row.tenant}/{row.model}@{row.version}",
    )


def _no_lease() -> NotFound:
    return NotFound(
        "no_lease",
        "there is no such lease, or it is somebody else's or of another key",
        "load the model again",
    )
