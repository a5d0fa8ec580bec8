"""The broker's part that an `Overseer` answers for: revocations, leases, questions, the log."""

from __future__ import annotations

from modelvault.access import Action, Caller, Principal
from modelvault.broker.checked import checked
from modelvault.broker.oversight import Overseer
from modelvault.lease import EntryPage, Explanation, LeaseSummary
from modelvault.record import Entry


class Overseen:
    """A part of `LocalBroker`."""

    _overseer: Overseer

    def revoke(
        self, caller: Caller, *, kind: str, target: str, reason: str, for_s: int | None = None
    ) -> int:
        """See ports.broker.Steward."""
        return self._overseer.revoke(caller, kind=kind, target=target, reason=reason, for_s=for_s)

    def leases(
        self, caller: Caller, *, reference: str | None = None, ended: bool = False, limit: int = 100
    ) -> tuple[LeaseSummary, ...]:
        """See ports.broker.Steward."""
        return self._overseer.leases(caller, reference=reference, ended=ended, limit=limit)

    def explain(
        self, caller: Caller, *, action: Action, reference: str, purpose: str | None,
        subject: Principal | None, destination: str | None = None,
    ) -> Explanation:  # fmt: skip
        """See ports.broker.Steward."""
        return self._overseer.explain(
            caller,
            action=action,
            reference=reference,
            purpose=purpose,
            subject=None if subject is None else checked(subject, "subject"),
            destination=destination,
        )

    def entries(
        self, caller: Caller, *, after: int = 0, limit: int = 100, reference: str | None = None
    ) -> EntryPage:
        """See ports.broker.Steward."""
        return self._overseer.entries(caller, after=after, limit=limit, reference=reference)

    def last_entries(
        self, caller: Caller, *, before: int | None = None, limit: int = 100,
        reference: str | None = None,
    ) -> tuple[Entry, ...]:  # fmt: skip
        """See ports.broker.Steward."""
        return self._overseer.last_entries(caller, before=before, limit=limit, reference=reference)
