"""The policy engine of the revision that counts, and of no other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from modelvault.access import Decision, Evaluation
from modelvault.errors import Unavailable
from modelvault.policy import document
from modelvault.ports.ledger import Ledger
from modelvault.ports.policy import PolicyEngine

EngineFor = Callable[[str], PolicyEngine]

_HINT = "run `modelvault policy publish`, or restore the bundle that the ledger names"


class Engines:
    """Asks the engine of the ledger's current revision; another broker may have moved it.

    Thread-safe. `engine_for(revision)` builds an engine, or raises Unavailable
    (`policy_unavailable`); `candidate_for` builds one that can be asked before its revision counts,
    where that takes another kind of engine: an OPA server loads only what is in force.
    """

    def __init__(
        self, ledger: Ledger, engine_for: EngineFor, candidate_for: EngineFor | None = None
    ) -> None:
        self._ledger = ledger
        self._engine_for = engine_for
        self._candidate_for = candidate_for or engine_for
        self._lock = threading.Lock()
        self._current: tuple[str, PolicyEngine] | None = None
        self._previous: PolicyEngine | None = None

    def decide(self, question: dict[str, Any]) -> Decision:
        """The current policy's decision.

        Raises Unavailable (`policy_unavailable`) for everything but a well-formed answer of the
        ledger's revision: an old bundle replayed is an outage, neither a grant nor a deny.
        """
        return self.decide_by(self._ledger.policy_revision(), question)

    def decide_by(self, revision: str | None, question: dict[str, Any]) -> Decision:
        """The same by the revision that this request has read from the ledger just now."""
        if revision is None:
            raise Unavailable("policy_unavailable", "no policy has been published yet", _HINT)
        return decide(self._engine(revision), revision, question)

    def candidate(self, revision: str) -> PolicyEngine:
        """An engine of a revision that may not count yet; the caller closes it."""
        return self._candidate_for(revision)

    def close(self) -> None:
        """Close the engines that this object had built."""
        with self._lock:
            engines = (self._previous, self._current and self._current[1])
            self._previous = self._current = None
        for engine in engines:
            close(engine)

    def _engine(self, revision: str) -> PolicyEngine:
        with self._lock:
            if self._current is not None and self._current[0] == revision:
                return self._current[1]
            engine = self._engine_for(revision)
            # Closed one generation late: an evaluation that is under way still ends well.
            retired, self._previous = self._previous, self._current and self._current[1]
            self._current = (revision, engine)
        close(retired)
        return engine


def decide(engine: PolicyEngine, revision: str, question: dict[str, Any]) -> Decision:
    """One engine's decision. Raises Unavailable (`policy_unavailable`) as `Engines.decide` does."""
    evaluation: Evaluation = engine.evaluate(question)
    if evaluation.revision != revision:
        raise Unavailable(
            "policy_unavailable",
            "the policy engine answered by another revision than the ledger's current one",
            _HINT,
        )
    return document.to_decision(evaluation)


def close(engine: PolicyEngine | None) -> None:
    """Let go of an engine's process or connection, where it has one."""
    closing = getattr(engine, "close", None)
    if closing is not None:
        closing()
