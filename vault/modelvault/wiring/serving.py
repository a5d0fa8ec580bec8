"""A broker for many: real parts by one deployment file, and the HTTP server over them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from modelvault import deployment as deployments
from modelvault.client.pins import read_trust
from modelvault.deployment import Deployment
from modelvault.errors import InvalidRequest, ModelVaultError
from modelvault.record import TrustFile
from modelvault.wiring import deciding, hcvault, places, trusted

if TYPE_CHECKING:
    from modelvault.adapters.ledger_sql import SqlLedger
    from modelvault.adapters.objects_s3 import S3Store
    from modelvault.broker.kept import KeptPolicies
    from modelvault.broker.service import LocalBroker
    from modelvault.ports.keys import Signer
    from modelvault.server.metrics import Metrics
    from modelvault.server.service import Service, States


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The opened parts of one deployment. `close` lets go of all of them."""

    told: Deployment
    trust: TrustFile
    ledger: SqlLedger
    store: S3Store
    signer: Signer
    kept: KeptPolicies
    broker: LocalBroker
    close: Callable[[], None]

    def states(self) -> States:
        """Each part, and what is wrong with it; None where it answers."""
        return {
            "ledger": _wrong(self.ledger.now),
            "keys": _wrong(self._public_keys),
            "policy": _wrong(self.broker.check_policy),
            "store": _wrong(self.store.reach),
        }

    def _public_keys(self) -> list[bytes]:
        return [self.signer.public_key(purpose) for purpose in hcvault.purposes(self.told)]


def serve(path: Path) -> None:
    """Serve the deployment that the file at `path` tells of, until SIGTERM.

    Raises InvalidRequest for settings that can't be used, IntegrityError (`trust_altered`), and
    Unavailable where a part doesn't answer at the start.
    """
    from modelvault.server.app import create
    from modelvault.server.metrics import Metrics
    from modelvault.server.serving import Server, Serving, log
    from modelvault.wiring import hardening

    told = deployments.read(path)
    log(told.serve.log_level)
    hardening.harden()
    parts = open_parts(told)
    try:
        server, metrics = Server(), Metrics()
        metrics.watch_leases(parts.ledger.running_leases)
        service = _service(parts, metrics, server.draining)
        if told.serve.metrics_port is not None:
            _listen(metrics, told.serve.metrics_host, told.serve.metrics_port)
        tls = told.serve.tls
        server.run(
            create(service, told.serve.threads),
            Serving(
                host=told.serve.host,
                port=told.serve.port,
                certificate=None if tls is None else tls.certificate,
                key=None if tls is None else tls.key,
                client_ca=None if tls is None else tls.client_ca,
                client_optional=tls is not None and tls.client_optional,
                notice_s=told.serve.notice_s,
                drain_s=told.serve.drain_s,
            ),
        )
    finally:
        parts.close()


def _listen(metrics: Metrics, host: str, port: int) -> None:
    try:
        metrics.listen(host, port)
    except OSError as failure:
        raise InvalidRequest(
            "bad_serving",
            f"can't listen on {host} port {port} for metrics: {failure.strerror or 'no address'}",
            "choose another metrics_host or metrics_port in [serve], or end what listens there",
        ) from None


def open_parts(told: Deployment) -> Parts:
    """Open everything; what was opened is closed again when a later part refuses."""
    from modelvault.adapters.objects_s3 import S3Signer
    from modelvault.broker.kept import KeptPolicies
    from modelvault.broker.service import LocalBroker
    from modelvault.broker.throttle import Rates

    trust = read_trust(told.vault.trust)
    with ExitStack() as opened:
        ledger = places.open_ledger(told)
        opened.callback(ledger.close)
        store = places.open_store(told)
        opened.callback(store.close)
        broker, steward = hcvault.connections(told)
        for connection in (broker, steward):
            if connection is not None:
                opened.callback(connection.close)
        signer = hcvault.signer(broker, steward)
        hcvault.check_trust(trust, signer, told)
        kept = KeptPolicies(trust, ledger, signer, hcvault.opa_signer(told, steward))
        issuers, issuer_keys = deciding.issuers(told)
        opened.callback(issuer_keys.close)
        engine_for, candidate_for = deciding.engines(told, kept)
        made = LocalBroker(
            vault=trust.vault,
            ledger=ledger,
            objects=store,
            keys=hcvault.keys(broker),
            admin=hcvault.admin(steward),
            signer=signer,
            trust=trust,
            engine_for=engine_for,
            issuers=issuers,
            issuer_keys=issuer_keys,
            digest_alg=told.vault.digest_alg,
            segment_length=told.vault.segment_length,
            urls=S3Signer(store),
            kept=kept,
            candidate_for=candidate_for,
            rates=Rates(
                principal=told.limits.principal_per_minute, failures=told.limits.failures_per_minute
            ),
            trusted=trusted.of(told.copies.trusted, trust.vault),
        )
        opened.callback(made.close)
        close = opened.pop_all().close
    return Parts(
        told=told,
        trust=trust,
        ledger=ledger,
        store=store,
        signer=signer,
        kept=kept,
        broker=made,
        close=close,
    )


def _service(parts: Parts, metrics: Metrics, draining: Callable[[], bool]) -> Service:
    from modelvault.server.service import Service

    told = parts.told
    role = told.serve.role
    token = told.policy.bundle_token_file
    return Service(
        broker=parts.broker if role in {"broker", "both"} else None,
        steward=parts.broker if role in {"steward", "both"} else None,
        states=parts.states,
        metrics=metrics,
        revision=parts.ledger.policy_revision,
        bundle=parts.kept.archive if told.policy.opa is not None else None,
        bundle_token=None if token is None else deployments.secret_text(token),
        proxies=tuple(_network(text) for text in told.serve.proxies),
        draining=draining,
    )


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError:
        raise InvalidRequest(
            "bad_deployment", f"[serve] proxies: {text[:64]!r} is no network", "write 10.0.0.0/8"
        ) from None


def _wrong(ask: Callable[[], object]) -> str | None:
    try:
        ask()
    except ModelVaultError as failure:
        return failure.code
    return None
