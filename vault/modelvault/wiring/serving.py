"""A broker for many: real parts by one deployment file, and the HTTP server over them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from modelvault import clock as clocks
from modelvault import deployment as deployments
from modelvault.client.pins import read_trust
from modelvault.deployment import Deployment
from modelvault.errors import IntegrityError, InvalidRequest, ModelVaultError, Unavailable
from modelvault.record import KeyPurpose, TrustFile

if TYPE_CHECKING:
    from modelvault.adapters.issuers_jwks import JwksIssuers
    from modelvault.adapters.keys_hcvault import Connection, Login, Server
    from modelvault.adapters.ledger_sql import SqlLedger
    from modelvault.adapters.objects_s3 import S3Store
    from modelvault.broker.engines import EngineFor
    from modelvault.broker.kept import KeptPolicies
    from modelvault.broker.service import LocalBroker
    from modelvault.identity.issuer import Issuer
    from modelvault.ports.keys import BundleSigner, KeyAdmin, KeyService, Signer, SigningPurpose
    from modelvault.server.metrics import Metrics
    from modelvault.server.service import Service, States

MAX_SKEW_MS = 30_000
_BROKER: tuple[KeyPurpose, ...] = ("manifest",)
_STEWARD: tuple[KeyPurpose, ...] = ("record", "log", "bundle")


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
            "keys": _wrong(lambda: [self.signer.public_key(each) for each in _purposes(self.told)]),
            "policy": _wrong(self.broker.check_policy),
            "store": _wrong(self.store.reach),
        }


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
        service = _service(parts, metrics, server.draining)
        if told.serve.metrics_port is not None:
            metrics.listen(told.serve.metrics_host, told.serve.metrics_port)
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
                drain_s=told.serve.drain_s,
            ),
        )
    finally:
        parts.close()


def open_parts(told: Deployment) -> Parts:
    """Open everything; what was opened is closed again when a later part refuses."""
    from modelvault.adapters.objects_s3 import S3Signer
    from modelvault.broker.kept import KeptPolicies
    from modelvault.broker.service import LocalBroker
    from modelvault.broker.throttle import Rates

    trust = read_trust(told.vault.trust)
    with ExitStack() as opened:
        ledger = _ledger(told)
        opened.callback(ledger.close)
        _check_clock(ledger)
        store = open_store(told)
        opened.callback(store.close)
        broker, steward = _connections(told)
        for connection in (broker, steward):
            if connection is not None:
                opened.callback(connection.close)
        signer = _signer(broker, steward)
        _check_trust(trust, signer, told)
        kept = KeptPolicies(trust, ledger, signer, _opa_signer(told, steward))
        issuers, issuer_keys = _issuers(told)
        opened.callback(issuer_keys.close)
        engine_for, candidate_for = _engines(told, kept)
        made = LocalBroker(
            vault=trust.vault,
            ledger=ledger,
            objects=store,
            keys=_keys(broker),
            admin=_admin(steward),
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


def _ledger(told: Deployment) -> SqlLedger:
    from modelvault.adapters.ledger_sql import SqlLedger

    return SqlLedger(ledger_url(told), clocks.utc_ms, told.ledger.deadline_s)


def ledger_url(told: Deployment) -> str:
    """The ledger's address with its password, which is in no settings and no message."""
    from modelvault.adapters.ledger_sql.database import with_password

    file = told.ledger.password_file
    return with_password(told.ledger.url, None if file is None else deployments.secret_text(file))


def _check_clock(ledger: SqlLedger) -> None:
    """Leases and tokens are judged by the database's time: a broker that disagrees is no use."""
    skew = abs(ledger.now() - clocks.utc_ms())
    if skew > MAX_SKEW_MS:
        raise Unavailable(
            "clock_skew",
            f"this machine's clock and the database's differ by {skew // 1000} s",
            "set the clocks (NTP) of both machines; up to 30 s are taken",
        )


def open_store(told: Deployment) -> S3Store:
    """The bucket of a deployment."""
    from modelvault.adapters.objects_s3 import Bucket, S3Store

    s3 = told.objects
    return S3Store(
        Bucket(
            name=s3.bucket,
            prefix=s3.prefix,
            endpoint=s3.endpoint,
            public_endpoint=s3.public_endpoint,
            region=s3.region,
            ca=s3.ca,
            credentials_file=s3.credentials_file,
            path_style=s3.path_style,
            encryption=s3.encryption,
            kms_key=s3.kms_key,
            lock_mode=s3.lock_mode,
            lock_days=s3.lock_days,
            timeout_s=s3.timeout_s,
        )
    )


def _connections(told: Deployment) -> tuple[Connection | None, Connection | None]:
    """The broker's and the steward's own: what isn't served here has no login here."""
    role = told.serve.role
    return (
        _connection(told, told.keys.broker, "broker") if role in {"broker", "both"} else None,
        _connection(told, told.keys.steward, "steward") if role in {"steward", "both"} else None,
    )


def _connection(told: Deployment, login: deployments.Login | None, role: str) -> Connection:
    from modelvault.adapters.keys_hcvault import Connection

    if login is None:
        raise InvalidRequest(
            "bad_deployment",
            f"[keys.{role}] is missing",
            f"the role {role} needs a login of its own",
        )
    return Connection(key_server(told), _login(login))


def key_server(told: Deployment) -> Server:
    """Where the key service is."""
    from modelvault.adapters.keys_hcvault import Server

    keys = told.keys
    return Server(
        address=keys.address,
        mount=keys.mount,
        namespace=keys.namespace,
        ca=keys.ca,
        certificate=keys.certificate,
        key=keys.key,
        timeout_s=keys.timeout_s,
    )


def _login(told: deployments.Login) -> Login:
    from modelvault.adapters.keys_hcvault import AppRole, TokenFile, Workload

    if told.approle is not None:
        way = told.approle
        return AppRole(role_id=way.role_id, secret_id_file=way.secret_id_file, mount=way.mount)
    workload = told.kubernetes or told.jwt
    if workload is not None:
        return Workload(role=workload.role, token_file=workload.token_file, mount=workload.mount)
    if told.token_file is None:
        raise InvalidRequest("bad_deployment", "a login names nothing", "see [keys]")
    return TokenFile(token_file=told.token_file)


def _signer(broker: Connection | None, steward: Connection | None) -> Signer:
    from modelvault.adapters.keys_hcvault import HcvaultSigner

    by_purpose: dict[SigningPurpose, Connection] = {}
    if broker is not None:
        by_purpose |= dict.fromkeys(_BROKER, broker)
    if steward is not None:
        by_purpose |= dict.fromkeys(_STEWARD, steward)
    return HcvaultSigner(by_purpose)


def _opa_signer(told: Deployment, steward: Connection | None) -> BundleSigner | None:
    from modelvault.adapters.keys_hcvault import HcvaultBundleSigner

    wanted = told.policy.opa is not None and steward is not None
    return HcvaultBundleSigner(steward) if wanted and steward is not None else None


def _check_trust(trust: TrustFile, signer: Signer, told: Deployment) -> None:
    """Nobody would believe what this broker signs with a key that the trust file doesn't name."""
    for purpose in _purposes(told):
        if signer.public_key(purpose) not in trust.keys_for(purpose).values():
            raise IntegrityError(
                "trust_altered",
                f"the trust file doesn't name the key service's {purpose} key",
                "check [vault] trust and [keys] mount; after a rotation of signing keys, publish "
                "the new trust file first",
            )


def _purposes(told: Deployment) -> tuple[KeyPurpose, ...]:
    role = told.serve.role
    return (*(_BROKER if role != "steward" else ()), *(_STEWARD if role != "broker" else ()))


def _keys(broker: Connection | None) -> KeyService:
    from modelvault.adapters.keys_hcvault import HcvaultKeys

    return cast("KeyService", _Absent("broker")) if broker is None else HcvaultKeys(broker)


def _admin(steward: Connection | None) -> KeyAdmin:
    from modelvault.adapters.keys_hcvault import HcvaultAdmin

    return cast("KeyAdmin", _Absent("steward")) if steward is None else HcvaultAdmin(steward)


class _Absent:
    """A part that this process has no identity for. Its calls aren't served, so none gets here."""

    def __init__(self, role: str) -> None:
        self._role = role

    def __getattr__(self, name: str) -> NoReturn:
        raise InvalidRequest(
            "not_served_here", f"this broker doesn't serve the role {self._role}", "ask another"
        )


def _engines(told: Deployment, kept: KeptPolicies) -> tuple[EngineFor, EngineFor]:
    """(what decides, what tries a policy before it counts)."""
    from modelvault.adapters.policy_regorus import RegorusEngine

    def in_process(revision: str) -> RegorusEngine:
        return RegorusEngine.of(kept.bundle(revision))

    opa = told.policy.opa
    if opa is None:
        return in_process, in_process
    from modelvault.adapters.policy_opa import OpaAddress, OpaEngine

    server = OpaAddress(
        address=opa.address, token_file=opa.token_file, ca=opa.ca, deadline_s=opa.deadline_s
    )
    return (lambda revision: OpaEngine(server, revision)), in_process


def _issuers(told: Deployment) -> tuple[tuple[Issuer, ...], JwksIssuers]:
    from modelvault.adapters.issuers_jwks import JwksIssuers
    from modelvault.identity import presets

    listed = presets.read(told.issuers)
    return tuple(one.issuer for one in listed), JwksIssuers(listed, clocks.boot_ms)


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
