"""Policy engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from modelvault.access import Evaluation


class PolicyEngine(Protocol):
    """Evaluates `data.modelvault.authz.decision`."""

    def evaluate(self, document: dict[str, Any]) -> Evaluation:
        """The rule's value for this input, unexamined, with the bundle's revision.

        Raises Unavailable (`policy_unavailable`) when the rule is undefined, throws, takes longer
        than the engine's deadline or more than its memory, or the engine can't be reached.
        Free of side effects on the vault; may be repeated.
        """
        ...


class PolicyShelf(Protocol):
    """Where the policies that a service has kept lie, by revision: opaque bytes, never changed.

    What lies here counts for nothing by itself: it is signed, and the ledger names the one in
    force. `modelvault.errors` as in Ledger.
    """

    def put_bundle(self, revision: str, bundle: bytes) -> None:
        """Keep `bundle`. Idempotent; Conflict (`bundle_exists`) if other bytes stand there."""
        ...

    def bundle(self, revision: str) -> bytes:
        """What was kept. Raises NotFound (`no_bundle`)."""
        ...

    def bundles(self) -> Sequence[tuple[str, int]]:
        """Each revision, and when it was kept in milliseconds since the epoch; newest first."""
        ...
