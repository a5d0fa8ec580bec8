"""Who decides for a deployment, and whose word about a caller counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelvault import clock as clocks
from modelvault.deployment import Deployment

if TYPE_CHECKING:
    from modelvault.adapters.issuers_jwks import JwksIssuers
    from modelvault.adapters.policy_regorus import RegorusEngine
    from modelvault.broker.engines import EngineFor
    from modelvault.broker.kept import KeptPolicies
    from modelvault.identity.issuer import Issuer


def engines(told: Deployment, kept: KeptPolicies) -> tuple[EngineFor, EngineFor]:
    """(what decides, what tries a policy before it counts)."""
    from modelvault.adapters.policy_regorus import RegorusEngine

    def in_process(revision: str) -> RegorusEngine:
        return RegorusEngine.of(kept.bundle(revision))

    def candidate(revision: str) -> RegorusEngine:
        kept.check_kept(revision)
        return in_process(revision)

    opa = told.policy.opa
    if opa is None:
        return in_process, candidate
    from modelvault.adapters.policy_opa import OpaAddress, OpaEngine

    server = OpaAddress(
        address=opa.address, token_file=opa.token_file, ca=opa.ca, deadline_s=opa.deadline_s
    )
    return (lambda revision: OpaEngine(server, revision)), candidate


def issuers(told: Deployment) -> tuple[tuple[Issuer, ...], JwksIssuers]:
    """The issuers that the deployment names, and their keys, kept as long as they count."""
    from modelvault.adapters.issuers_jwks import JwksIssuers
    from modelvault.identity import presets

    listed = presets.read(told.issuers)
    return tuple(one.issuer for one in listed), JwksIssuers(listed, clocks.boot_ms)
