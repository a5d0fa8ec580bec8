"""Policy engines."""

from __future__ import annotations

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
