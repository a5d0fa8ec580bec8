"""Making a vault that is served: from a deployment file and empty servers to a broker that starts.

Every step may be done again, and the last one decides: a vault stands once its ledger does. What a
run that was cut off left behind is used by the next one.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelvault import canonical
from modelvault import clock as clocks
from modelvault import deployment as deployments
from modelvault.client.pins import read_trust, write_private
from modelvault.crypto import dsse
from modelvault.deployment import Deployment, Login
from modelvault.errors import Conflict, IntegrityError, InvalidRequest, NotFound, Unavailable
from modelvault.lease import PolicyBundle
from modelvault.record import Entry, KeyPurpose, TrustFile, TrustKey
from modelvault.wiring import hcvault, places

if TYPE_CHECKING:
    from modelvault.adapters.keys_hcvault.setup import Setup
    from modelvault.adapters.ledger_sql import SqlLedger
    from modelvault.ports.keys import Signer

_PURPOSES: tuple[KeyPurpose, ...] = ("manifest", "record", "log", "bundle")
ACTOR = "init"


class Founded(msgspec.Struct, frozen=True, kw_only=True):
    """A new vault: its id, where its trust file is, the policy in force, who may do all, and the
    key in PEM that OPA verifies bundles with."""

    vault: str
    trust: Path
    policy_revision: str
    admins: tuple[str, ...]
    opa_key: str | None


def found(told: Deployment, admin_token: str, admins: Sequence[str]) -> Founded:
    """Set the key service up, make the ledger, put the shipped policies into force.

    `admin_token` is an administrator's at the key service, and is used for nothing else. `admins`
    are groups with their issuer's name in front (`idp:vault-admins`).

    Raises Conflict (`ledger_exists`), InvalidRequest, Unavailable as the parts do.
    """
    from modelvault.adapters.keys_hcvault.setup import Setup
    from modelvault.broker.kept import KeptPolicies

    _check_admins(told, admins)
    store = places.open_store(told)
    try:
        store.check()
    finally:
        store.close()
    with ExitStack() as opened:
        setup = Setup(hcvault.key_server(told), admin_token)
        opened.callback(setup.close)
        setup.mount()
        setup.policies()
        for role, login in (("broker", told.keys.broker), ("steward", told.keys.steward)):
            _log_in_later(setup, role, login)
        trust = _trust(told, setup.signer())
        ledger = _ledger(told)
        opened.callback(ledger.close)
        opa = setup.bundle_signer() if told.policy.opa is not None else None
        kept = KeptPolicies(trust, ledger, setup.signer(), opa)
        revision = kept.keep(_first_policy(told, admins))
        entry = Entry(
            id=secrets.token_hex(16),
            at=clocks.to_text(ledger.now()),
            actor=ACTOR,
            action="init",
            outcome="done",
            revision=revision,
        )
        ledger.set_policy_revision(revision, entry)
        return Founded(
            vault=trust.vault,
            trust=told.vault.trust,
            policy_revision=revision,
            admins=tuple(admins),
            opa_key=None if opa is None else opa.public_pem(),
        )


def check(told: Deployment, admins: Sequence[str]) -> None:
    """What `found` would refuse before it makes anything but at the key service and the store,
    which aren't asked. Changes nothing, and raises as `found` does."""
    from modelvault.adapters.ledger_sql import SqlLedger

    _check_admins(told, admins)
    url, deadline_s = places.ledger_url(told), told.ledger.deadline_s
    try:
        SqlLedger.check_absent(url, deadline_s)
    except Conflict:
        standing = _left_unused(url, deadline_s)
        if standing is None:
            raise
        standing.close()


def _check_admins(told: Deployment, admins: Sequence[str]) -> None:
    names = {str(each.get("name")) for each in told.issuers}
    strange = [group for group in admins if group.partition(":")[0] not in names]
    if strange or not admins:
        raise InvalidRequest(
            "bad_admins",
            "nobody could administer this vault: "
            + (f"{strange[0]!r} begins with no issuer's name" if strange else "no group is named"),
            f"name a group as issuer:group; the issuers are {', '.join(sorted(names))}",
        )


def _log_in_later(setup: Setup, role: str, login: Login | None) -> None:
    """An AppRole of the role id that the deployment names, its secret id in the file that it names.
    Other ways to log in are the operator's to set up, with the policy that was just written."""
    if login is None or login.approle is None:
        return
    way = login.approle
    if way.secret_id_file.exists():
        return
    credential = setup.approle(role, way.mount, way.role_id)
    _write(way.secret_id_file, credential.secret_id.encode())


def _trust(told: Deployment, signer: Signer) -> TrustFile:
    """The trust file: what an earlier run wrote, if its keys are these, else a new vault's."""
    path = told.vault.trust
    with suppress(NotFound):
        standing = read_trust(path)
        for purpose in _PURPOSES:
            if signer.public_key(purpose) not in standing.keys_for(purpose).values():
                raise IntegrityError(
                    "other_vault",
                    f"{path} is of another vault than this key service's mount",
                    "name another mount in [keys], or another file in [vault] trust",
                )
        return standing
    now = clocks.to_text(clocks.utc_ms())
    keys = []
    for purpose in _PURPOSES:
        public_key = signer.public_key(purpose)
        keys.append(
            TrustKey(
                keyid=dsse.keyid(public_key), purpose=purpose, public_key=public_key, valid_from=now
            )
        )
    made = TrustFile(vault=secrets.token_hex(16), keys=tuple(keys), serial=1)
    _write(path, canonical.encode(made))
    return made


def _ledger(told: Deployment) -> SqlLedger:
    """A new ledger; or the one that an earlier run made and was cut off right after. Raises
    Conflict (`ledger_exists`) for one in which anything was written."""
    from modelvault.adapters.ledger_sql import SqlLedger

    url, deadline_s = places.ledger_url(told), told.ledger.deadline_s
    try:
        return SqlLedger.create(url, clocks.utc_ms, deadline_s)
    except Conflict:
        standing = _left_unused(url, deadline_s)
        if standing is None:
            raise
        return standing


def _left_unused(url: str, deadline_s: float) -> SqlLedger | None:
    """The standing ledger, if nothing was ever written in it; else None."""
    from modelvault.adapters.ledger_sql import SqlLedger

    with ExitStack() as opened:
        standing = SqlLedger(url, clocks.utc_ms, deadline_s)
        opened.callback(standing.close)
        if standing.policy_revision() is not None or standing.entries(limit=1):
            return None
        opened.pop_all()
    return standing


def _first_policy(told: Deployment, admins: Sequence[str]) -> PolicyBundle:
    """The shipped policies, with this deployment's groups in place of the embedded vault's."""
    from modelvault_policies import files

    issuer = str(told.issuers[0].get("name"))
    data = files.data()
    grants: list[dict[str, Any]] = data["grants"]
    for grant in grants:
        if grant["role"] == "admin":
            grant["groups"] = list(admins)
        elif "groups" in grant:
            grant["groups"] = [
                group.replace("local:", f"{issuer}:", 1) for group in grant["groups"]
            ]
    return PolicyBundle(modules=files.modules(), data=json.dumps(data, indent=2))


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, content)
    except OSError as error:
        raise Unavailable(
            "cant_write",
            f"can't write {path}: {os.strerror(error.errno or 0)}",
            "check the folder's permissions and the free space",
        ) from None


def migrate(path: Path) -> tuple[int, int]:
    """Bring the ledger of a deployment to this program's schema: (version before, after)."""
    from modelvault.adapters.ledger_sql.migrating import migrate as upgrade

    return upgrade(places.ledger_url(deployments.read(path)))
