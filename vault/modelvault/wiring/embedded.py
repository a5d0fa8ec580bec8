"""An embedded vault, opened: the adapters that its home needs, and the broker over them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelvault import clock as clocks
from modelvault.client.pins import read_trust
from modelvault.errors import IntegrityError, NotFound
from modelvault.settings import Settings
from modelvault.wiring import roots, trusted
from modelvault.wiring.home import Description, Home
from modelvault.wiring.roots import Ask

if TYPE_CHECKING:
    from modelvault.adapters.keys_local import LocalKeyring
    from modelvault.adapters.ledger_sql import SqlLedger
    from modelvault.adapters.objects_folder import FolderStore
    from modelvault.adapters.policy_files import PolicyFolder
    from modelvault.broker.service import LocalBroker
    from modelvault.policy.bundle import Bundle
    from modelvault.ports.policy import PolicyEngine
    from modelvault.record import TrustFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The opened parts of one home. `close` lets go of all of them."""

    home: Home
    described: Description
    trust: TrustFile
    keyring: LocalKeyring
    ledger: SqlLedger
    store: FolderStore
    policies: PolicyFolder
    trusted: dict[str, TrustFile]
    broker: LocalBroker
    close: Callable[[], None]

    def policy_in_force(self) -> str:
        """The revision that counts, after its engine has answered a question.

        Raises Unavailable (`policy_unavailable`).
        """
        from modelvault.broker import engines as deciding

        revision = self.ledger.policy_revision() or ""
        engine = engine_of(self.policies.published(revision))
        try:
            deciding.decide(engine, revision, _question(self.described, clocks.utc_ms()))
        finally:
            deciding.close(engine)
        return revision

    def policy_edited(self) -> str:
        """The revision that the working copy would have."""
        return self.policies.working().revision


def open_parts(home: Home, settings: Settings, ask: Ask | None) -> Parts:
    """Open the vault in `home`; what was opened is closed again when a later part refuses.

    Raises NotFound (`no_home`), AuthenticationError (`wrong_root_key`), IntegrityError and
    Unavailable as the parts do.
    """
    from modelvault.adapters.issuers_static import StaticIssuers, ed25519_keys
    from modelvault.adapters.keys_local import LocalKeyring
    from modelvault.adapters.ledger_sql import SqlLedger
    from modelvault.adapters.objects_folder import FolderStore
    from modelvault.adapters.policy_files import PolicyFolder
    from modelvault.broker.service import LocalBroker
    from modelvault.identity.issuer import local_issuer

    described = home.read()
    trust = read_trust(home.trust, described.vault)
    issuer = local_issuer(described.vault)
    source = roots.source(described.root, described.vault, settings, ask)
    with ExitStack() as opened:
        keyring = LocalKeyring(home.keyring, source)
        roots.forget(source)
        opened.callback(keyring.close)
        _check_trust(trust, keyring, home)
        ledger = SqlLedger(home.ledger_url, clocks.utc_ms)
        opened.callback(ledger.close)
        store = FolderStore(home.path)
        opened.callback(store.close)
        policies = PolicyFolder(home.policy)
        others = trusted.read(home, trust)
        broker = LocalBroker(
            vault=described.vault,
            ledger=ledger,
            objects=store,
            keys=keyring,
            admin=keyring,
            signer=keyring,
            trust=trust,
            engine_for=engines(policies),
            candidate_for=candidates(policies),
            issuers=(issuer,),
            issuer_keys=StaticIssuers({issuer.iss: ed25519_keys(keyring.public_key("token"))}),
            digest_alg=described.digest_alg,
            segment_length=described.segment_length,
            trusted=others,
        )
        opened.callback(broker.close)
        close = opened.pop_all().close
    return Parts(
        home=home,
        described=described,
        trust=trust,
        keyring=keyring,
        ledger=ledger,
        store=store,
        policies=policies,
        trusted=others,
        broker=broker,
        close=close,
    )


def _check_trust(trust: TrustFile, keyring: LocalKeyring, home: Home) -> None:
    """The trust file lies beside what it vouches for, where whoever owns the disk can write. The
    keyring is sealed under the root key: no key but its own may vouch for anything."""
    for key in trust.keys:
        if key.public_key not in keyring.public_keys(key.purpose):
            raise IntegrityError(
                "trust_altered",
                f"the trust file {home.trust} names a {key.purpose} key that isn't this vault's",
                "somebody changed it, and maybe what it vouches for: restore the home from a copy",
            )


def engines(policies: PolicyFolder) -> Callable[[str], PolicyEngine]:
    """The engine of a published revision."""
    from modelvault.adapters.policy_regorus import RegorusEngine

    return lambda revision: RegorusEngine.of(policies.published(revision))


def candidates(policies: PolicyFolder) -> Callable[[str], PolicyEngine]:
    """The engine of a revision that somebody names, to make it count.

    NotFound (`no_policy`) where it was never published. For the one in force that's an outage.
    """
    of = engines(policies)

    def candidate(revision: str) -> PolicyEngine:
        if revision not in policies.revisions():
            raise NotFound(
                "no_policy",
                f"no policy {revision[:19]}… was published here",
                f"those that were lie in {policies.root / 'published'}",
            )
        return of(revision)

    return candidate


def engine_of(bundle: Bundle) -> PolicyEngine:
    """An engine over any bundle, such as one that is being edited."""
    from modelvault.adapters.policy_regorus import RegorusEngine

    return RegorusEngine.of(bundle)


def _question(described: Description, now: int) -> dict[str, Any]:
    """Whether the default identity may list models: harmless, and answered by any policy."""
    from modelvault.access import AccessRequest, Principal, Resource
    from modelvault.identity.issuer import LOCAL
    from modelvault.policy import document
    from modelvault.reference import DEFAULT_TENANT

    identity = described.identity
    who = Principal(
        id=f"{LOCAL}:{identity.sub}",
        issuer=LOCAL,
        groups=tuple(f"{LOCAL}:{group}" for group in identity.groups),
        claims={},
        issued_at=now,
        expires_at=now,
    )
    resource = Resource(tenant=DEFAULT_TENANT, id="")
    return document.to_input(
        AccessRequest(principal=who, action="list", resource=resource, now=now)
    )
