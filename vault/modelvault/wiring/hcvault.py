"""The key service of a deployment: an identity of its own for each role that is served here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, cast

from modelvault import deployment as deployments
from modelvault.deployment import Deployment
from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.record import KeyPurpose, TrustFile

if TYPE_CHECKING:
    from modelvault.adapters.keys_hcvault import Connection, Login, Server
    from modelvault.ports.keys import BundleSigner, KeyAdmin, KeyService, Signer, SigningPurpose

_BROKER: tuple[KeyPurpose, ...] = ("manifest",)
_STEWARD: tuple[KeyPurpose, ...] = ("record", "log", "bundle")


def connections(told: Deployment) -> tuple[Connection | None, Connection | None]:
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


def signer(broker: Connection | None, steward: Connection | None) -> Signer:
    """Signs with each purpose's key by the identity that may."""
    from modelvault.adapters.keys_hcvault import HcvaultSigner

    by_purpose: dict[SigningPurpose, Connection] = {}
    if broker is not None:
        by_purpose |= dict.fromkeys(_BROKER, broker)
    if steward is not None:
        by_purpose |= dict.fromkeys(_STEWARD, steward)
    return HcvaultSigner(by_purpose)


def opa_signer(told: Deployment, steward: Connection | None) -> BundleSigner | None:
    """Who signs policies for OPA; nobody where none is asked or no steward is served."""
    from modelvault.adapters.keys_hcvault import HcvaultBundleSigner

    if told.policy.opa is None or steward is None:
        return None
    return HcvaultBundleSigner(steward)


def check_trust(trust: TrustFile, signer: Signer, told: Deployment) -> None:
    """Nobody would believe what this broker signs with a key that the trust file doesn't name.

    Raises IntegrityError (`trust_altered`)."""
    for purpose in purposes(told):
        if signer.public_key(purpose) not in trust.keys_for(purpose).values():
            raise IntegrityError(
                "trust_altered",
                f"the trust file doesn't name the key service's {purpose} key",
                "check [vault] trust and [keys] mount; after a rotation of signing keys, publish "
                "the new trust file first",
            )


def purposes(told: Deployment) -> tuple[KeyPurpose, ...]:
    """Which keys are signed with by what is served here."""
    role = told.serve.role
    return (*(_BROKER if role != "steward" else ()), *(_STEWARD if role != "broker" else ()))


def keys(broker: Connection | None) -> KeyService:
    """Makes and unwraps DEKs, as the broker."""
    from modelvault.adapters.keys_hcvault import HcvaultKeys

    return cast("KeyService", _Absent("broker")) if broker is None else HcvaultKeys(broker)


def admin(steward: Connection | None) -> KeyAdmin:
    """Makes, rotates and rewraps KEKs, as the steward."""
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
