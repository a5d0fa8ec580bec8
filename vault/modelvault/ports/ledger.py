"""Catalog and audit log in one: what changes something also writes the entry that tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from modelvault.catalog import (
    Admission,
    LeaseRow,
    Limits,
    Revocation,
    Standing,
)
from modelvault.ports.catalog import CatalogLedger
from modelvault.record import Entry


class Ledger(CatalogLedger, Protocol):
    """Each method that takes an Entry commits it in one transaction with its change, or neither.

    Not-found is NotFound with the code named; a lost race is Conflict. Transactions are
    serialisable: two callers never both see the old state and both win. Unavailable
    (`ledger_unavailable`) when the database doesn't answer in its deadline.

    A call that finds nothing left to change (where it says idempotent) writes no entry. New rows
    bring their own now (`created_at`, `granted_at`, `Revocation.at`); whether an upload or a lease
    that stands has expired is told by the ledger's clock. Ids that stand already are Conflict
    (`already_recorded`), a `limit` outside 1 to 10,000 is InvalidRequest (`bad_limit`), rows that
    can't be read back are IntegrityError (`ledger_corrupt`).
    """

    def now(self) -> int:
        """The database's clock, in milliseconds since the epoch."""
        ...

    # what a request needs to know before it is decided, in one go
    def standing(
        self,
        tenant: str,
        model: str,
        *,
        tag: str | None = None,
        version: int | None = None,
        digest: str | None = None,
    ) -> Standing:
        """The model, and the version that a tag, a number or a digest means (one of them at most;
        with none of them, the model's head). Nothing is raised for what isn't there."""
        ...

    def leased(self, lease: str) -> tuple[LeaseRow, Standing]:
        """A lease, and the version that it is of. Raises NotFound (`no_lease`)."""
        ...

    # leases
    def admit(self, lease: LeaseRow, limits: Limits, entry: Entry) -> Admission:
        """The one transaction of a grant.

        Rechecks that the version stands with that manifest, that neither subject nor version is
        revoked and that the policy revision is still `lease.revision`. Then the same ask_hash
        again returns the lease that stands, charging nothing and writing no entry; for a new one
        slot (running leases of that subject and model) and bytes (all of that subject's on the UTC
        day) must fit, and lease, charge and entry are inserted. Raises AccessDenied with codes
        `revoked`, `max_concurrent_leases` or `max_bytes_per_day` (details: limit, used, resets_at
        as RFC 3339 text, None where waiting won't help), Conflict (`lease_ended`) for a repeated
        ask whose lease ended, Conflict (`ask_reused`) for one that asks for anything else than
        that lease holds, NotFound (`no_version`), Unavailable (`policy_moved`).
        """
        ...

    def lease(self, lease: str) -> LeaseRow:
        """Raises NotFound (`no_lease`)."""
        ...

    def leases(
        self, *, tenant: str | None = None, model: str | None = None, running_at: int | None = None,
        limit: int = 100,
    ) -> Sequence[LeaseRow]:  # fmt: skip
        """Newest first; with `running_at`, those neither ended nor expired then."""
        ...

    def running_leases(self) -> int:
        """How many have neither ended nor expired now, by the ledger's clock."""
        ...

    def extend(self, lease: str, expires_at: int, entry: Entry, *, late_ms: int = 0) -> LeaseRow:
        """A renewal. Rechecks revocations. AccessDenied (`revoked`, `lease_ended`: also expired),
        NotFound (`no_lease`), InvalidRequest (`over_total`) beyond the lease's `total_until`.

        One that expired less than `late_ms` ago can still be had: that is the grace for an
        outage. It held no slot meanwhile, and is refused if any revocation hit it since its grant.
        """
        ...

    def end(self, lease: str, at: int, reason: str, entry: Entry) -> None:
        """Idempotent: an ended lease stays as it was ended, without a new entry.

        Raises NotFound (`no_lease`)."""
        ...

    def revoke(self, revocation: Revocation, entry: Entry) -> int:
        """Record it and end the running leases it hits (`end_reason` `revoked`); their number.

        What isn't there yet can be revoked too. InvalidRequest (`bad_target`) for a version that
        isn't written as `tenant/model@7`."""
        ...

    def revoked(self, *, subject: str, version: str, at: int) -> Revocation | None:
        """A revocation that stands for this subject or version (`tenant/model@version`)."""
        ...

    def usage(self, subject: str, day: str) -> int:
        """Bytes charged to the subject on a UTC day (`2026-01-31`)."""
        ...

    # policy revision, log
    def policy_revision(self) -> str | None:
        """The revision whose decisions count; None before the first publication."""
        ...

    def set_policy_revision(self, revision: str, entry: Entry) -> None:
        """From now on admission takes decisions of this revision only."""
        ...

    def append(self, entry: Entry) -> Entry:
        """An entry by itself; returns it with its seq."""
        ...

    def entries(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        tenant: str | None = None,
        model: str | None = None,
    ) -> Sequence[Entry]:
        """By seq, from the one behind `after` on."""
        ...

    def last_entries(
        self,
        *,
        before: int | None = None,
        limit: int = 100,
        tenant: str | None = None,
        model: str | None = None,
    ) -> Sequence[Entry]:
        """The last ones in front of the entry `before` (None: of all), by seq as well. What is
        older than those isn't read."""
        ...

    def hashes(self, first: int, last: int) -> Sequence[bytes]:
        """Leaf hashes of entries `first` (from 1) to `last` by seq, both included; fewer only where
        the log ends. Raises IntegrityError (`ledger_corrupt`) when one is missing."""
        ...

    # what brokers count together
    def count(self, bucket: str, window: int, by: int = 1) -> int:
        """Add `by` to the counter of `bucket` in the stretch of time numbered `window`; the sum.

        For limits on requests: in no audit entry, and of older windows nothing is kept.
        """
        ...
