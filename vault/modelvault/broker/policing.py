"""Making a policy revision count: only one that answers, and that can be replaced again."""

from __future__ import annotations

import msgspec

from modelvault.access import AccessRequest, Action, Caller, Principal, Resource
from modelvault.broker.asked import Authorised, entry, whole_vault
from modelvault.broker.engines import Engines, close, decide
from modelvault.broker.gate import Gate
from modelvault.broker.kept import KeptPolicies
from modelvault.broker.parts import Parts
from modelvault.errors import Conflict, InvalidRequest, Unavailable
from modelvault.lease import PolicyBundle, PolicyRevision
from modelvault.manifest import Sha256
from modelvault.policy import document
from modelvault.ports.policy import PolicyEngine

# Asked of a candidate besides the caller's own question: a bundle may answer one action and fail
# on another. What it answers is its own business.
_PROBES: tuple[Action, ...] = ("load", "renew", "push", "show")
_PROBED = Resource(tenant="probe", id="probe", version=1, classification="internal")


class Publication:
    """The steward's calls about policies (ports.broker.Steward). Thread-safe.

    `kept` is None where policies lie in the home's folder, under its owner's own hands.
    """

    def __init__(
        self, parts: Parts, gate: Gate, engines: Engines, kept: KeptPolicies | None
    ) -> None:
        self._ledger = parts.ledger
        self._gate = gate
        self._engines = engines
        self._kept = kept

    def check(self) -> None:
        """Ask the policy in force whether nobody may list nothing: any answer will do.

        Raises Unavailable (`policy_unavailable`).
        """
        now = self._ledger.now()
        nobody = Principal(
            id="probe", issuer="probe", groups=(), claims={}, issued_at=now, expires_at=now
        )
        request = AccessRequest(principal=nobody, action="list", resource=whole_vault(), now=now)
        self._engines.decide(document.to_input(request))

    def keep_policy(self, caller: Caller, policy: PolicyBundle) -> str:
        """Sign a policy and keep it; returns its revision."""
        asked = self._authorise(caller)
        revision = self._shelf().keep(policy)
        self._ledger.append(entry(asked, "done", step="keep", new_revision=revision))
        return revision

    def policy(self, caller: Caller, revision: str | None) -> PolicyBundle:
        """A policy that is kept, or the one that counts."""
        self._authorise(caller)
        if revision is not None:
            _check_revision(revision)
        return self._shelf().read(revision or self._ledger.policy_revision() or "")

    def policies(self, caller: Caller) -> tuple[PolicyRevision, ...]:
        """Those that are kept, newest first."""
        self._authorise(caller)
        return self._shelf().revisions(self._ledger.policy_revision())

    def publish_policy(self, caller: Caller, revision: str) -> None:
        """Make `revision` the only one whose decisions count.

        Raises InvalidRequest (`bad_revision`, `policy_unusable`), Conflict (`policy_lockout`),
        NotFound (`no_policy`).
        """
        asked = self._authorise(caller)
        _check_revision(revision)
        engine = self._engines.candidate(revision)
        try:
            _check_answers(engine, revision, asked)
        finally:
            close(engine)
        told = entry(asked, "done", new_revision=revision, old_revision=asked.decision.revision)
        self._ledger.set_policy_revision(revision, told)

    def _authorise(self, caller: Caller) -> Authorised:
        who = self._gate.authenticate(caller, "write_policy", None)
        return self._gate.authorise(who, "write_policy", whole_vault())

    def _shelf(self) -> KeptPolicies:
        if self._kept is None:
            raise InvalidRequest(
                "policy_elsewhere",
                "this vault's policies are kept in its home's folder",
                "look into policy/published/ of the home (~/.modelvault without --home);"
                " `modelvault policy publish` makes what was edited in policy/ count",
            )
        return self._kept


def _check_answers(engine: PolicyEngine, revision: str, asked: Authorised) -> None:
    request = asked.request
    probes = [
        msgspec.structs.replace(request, action=action, resource=_PROBED, purpose="inference")
        for action in _PROBES
    ]
    try:
        for probe in probes:
            decide(engine, revision, document.to_input(probe))
        mine = decide(engine, revision, document.to_input(request))
    except Unavailable as broken:
        raise InvalidRequest(
            "policy_unusable",
            f"policy {revision} gives no usable answer: {broken.message}",
            "mend it, and see `modelvault policy test`; the standing policy still counts",
        ) from None
    if not mine.allowed:
        raise Conflict(
            "policy_lockout",
            f"policy {revision} wouldn't let you write policies any more: "
            f"{', '.join(mine.reasons)}",
            "let a grant of it give you `write_policy`, or have its new admin publish it",
        )


def _check_revision(revision: str) -> None:
    try:
        msgspec.convert(revision, Sha256)
    except msgspec.ValidationError:
        raise InvalidRequest("bad_revision", "a policy revision is sha256:<64 hex>") from None
