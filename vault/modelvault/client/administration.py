"""What admins do with a vault: each an action of its own for the policy."""

from __future__ import annotations

from collections.abc import Sequence

from modelvault.access import Action, Caller, Principal
from modelvault.artifact.trust import Verified
from modelvault.client.context import Context
from modelvault.client.tag import move_tag
from modelvault.lease import (
    EntryPage,
    Explanation,
    LeaseSummary,
    ModelSummary,
    PolicyBundle,
    PolicyRevision,
    Rotated,
    Swept,
)
from modelvault.record import Entry
from modelvault.reference import Reference


class Administration:
    """The admins' part of a Session; errors as there."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def create(
        self, reference: str, *, owner: str | None = None, classification: str = "internal"
    ) -> ModelSummary:
        """Make a model, without any version yet. Raises Conflict (`model_exists`)."""
        return self._context.steward.create(
            self._caller(), reference, owner=owner, classification=classification
        )

    def classify(
        self, reference: str, *, owner: str | None = None, classification: str | None = None
    ) -> ModelSummary:
        """Change a model's owner or classification."""
        return self._context.steward.classify(
            self._caller(), reference, owner=owner, classification=classification
        )

    def tag(self, reference: str, tag: str) -> Verified:
        """Make `tag` mean the version that `reference` means now; also backwards."""
        return move_tag(self._context, Reference.parse(reference), tag)

    def delete(self, reference: str, *, tags: Sequence[str] = ()) -> None:
        """Hide a version (`name@7`) or a model (`name`); `gc` removes it after a grace.

        Raises Conflict (`tagged`) for a version with a tag that isn't among `tags`: name all that
        may go with it.
        """
        self._context.steward.delete(self._caller(), reference, tuple(tags))

    def rotate(self, reference: str) -> Rotated:
        """Give the model a new KEK version and rewrap its keys; no file is touched."""
        return self._context.steward.rotate(self._caller(), reference)

    def revoke(self, kind: str, target: str, *, reason: str, for_s: int | None = None) -> int:
        """Revoke a `principal` (id), `lease` (id) or `version` (`tenant/name@7`).

        Returns how many running leases it ended; jobs notice at their next renewal.
        """
        return self._context.steward.revoke(
            self._caller(), kind=kind, target=target, reason=reason, for_s=for_s
        )

    def leases(
        self, reference: str | None = None, *, ended: bool = False, limit: int = 100
    ) -> tuple[LeaseSummary, ...]:
        """Leases, newest first; running ones only unless `ended`."""
        return self._context.steward.leases(
            self._caller(), reference=reference, ended=ended, limit=limit
        )

    def explain(
        self,
        action: Action,
        reference: str,
        *,
        purpose: str | None = None,
        subject: Principal | None = None,
        destination: str | None = None,
    ) -> Explanation:
        """What the policy says of a request by `subject`, or by the caller; grants nothing.

        `destination` is the id of the vault that a copy would go to."""
        return self._context.steward.explain(
            self._caller(),
            action=action,
            reference=reference,
            purpose=purpose,
            subject=subject,
            destination=destination,
        )

    def entries(
        self, *, after: int = 0, limit: int = 100, reference: str | None = None
    ) -> EntryPage:
        """The audit log, oldest first, from the entry behind `after` on."""
        return self._context.steward.entries(
            self._caller(), after=after, limit=limit, reference=reference
        )

    def last_entries(
        self, *, before: int | None = None, limit: int = 100, reference: str | None = None
    ) -> tuple[Entry, ...]:
        """The last entries of the audit log, those in front of the entry `before` where that is
        named; also oldest first."""
        return self._context.steward.last_entries(
            self._caller(), before=before, limit=limit, reference=reference
        )

    def gc(self, *, dry_run: bool = False) -> Swept:
        """Remove what was hidden long enough, dead uploads and their objects."""
        return self._context.steward.gc(self._caller(), dry_run=dry_run)

    # policies that a service keeps for all its brokers

    def keep_policy(self, policy: PolicyBundle) -> str:
        """Have a policy signed and kept; its revision. It decides nothing before `enforce_policy`.

        Raises InvalidRequest (`bad_policy`; `policy_elsewhere` for an embedded vault).
        """
        return self._context.steward.keep_policy(self._caller(), policy)

    def enforce_policy(self, revision: str) -> None:
        """Make a kept policy the one that counts, an older one too.

        Raises InvalidRequest (`policy_unusable`), Conflict (`policy_lockout`), NotFound
        (`no_policy`).
        """
        self._context.steward.publish_policy(self._caller(), revision)

    def policy(self, revision: str | None = None) -> PolicyBundle:
        """A kept policy, or the one that counts. Raises NotFound (`no_policy`)."""
        return self._context.steward.policy(self._caller(), revision)

    def policies(self) -> tuple[PolicyRevision, ...]:
        """The kept policies, newest first."""
        return self._context.steward.policies(self._caller())

    def _caller(self) -> Caller:
        return self._context.credentials.caller()
