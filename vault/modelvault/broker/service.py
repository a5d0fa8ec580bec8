"""The broker, put together: one object that is both `Broker` and `Steward`.

Nothing is decided here. Values that come from a caller in this process are parsed as strictly as
those that come over a wire: a Python object is no proof that its fields keep to their limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modelvault.access import Caller, Principal
from modelvault.broker.catalogue import Catalogue
from modelvault.broker.checked import checked
from modelvault.broker.comparing import Comparer
from modelvault.broker.engines import EngineFor, Engines
from modelvault.broker.gate import Gate
from modelvault.broker.giving import Giver
from modelvault.broker.housekeeping import Housekeeper
from modelvault.broker.importing import Importer
from modelvault.broker.kept import KeptPolicies
from modelvault.broker.links import Linker
from modelvault.broker.overseen import Overseen
from modelvault.broker.oversight import Overseer
from modelvault.broker.parts import Parts
from modelvault.broker.policing import Publication
from modelvault.broker.publish import Publisher
from modelvault.broker.release import Releaser
from modelvault.broker.renewal import Renewer
from modelvault.broker.rotation import Rotator
from modelvault.broker.steward import Steward
from modelvault.broker.terms import Terms
from modelvault.broker.throttle import Rates, Throttle, unlimited
from modelvault.broker.verified import Records
from modelvault.copies import HandedOver, HandOverAsk, ImportAsk, ImportDraft, Importing
from modelvault.identity.issuer import Issuer
from modelvault.lease import (
    Lease,
    LeaseAsk,
    Links,
    ModelDetail,
    ModelSummary,
    PolicyBundle,
    PolicyRevision,
    Renewal,
    Rotated,
    Swept,
)
from modelvault.manifest import DigestAlgorithm
from modelvault.ports.identity import IssuerKeys
from modelvault.ports.keys import KeyAdmin, KeyService, Signer
from modelvault.ports.ledger import Ledger
from modelvault.ports.objects import ObjectStore, UrlSigner
from modelvault.record import SignedVersion, TrustFile
from modelvault.upload import (
    CompareAsk,
    Compared,
    Draft,
    Published,
    PushAsk,
    PutAsk,
    Putting,
    ResumeAsk,
    Upload,
)


class LocalBroker(Overseen):
    """The vault's service over its ports. Any number of threads may call it at once.

    `trust` names the keys whose documents the broker believes; `engine_for(revision)` builds the
    policy engine of a published revision, or raises Unavailable (`policy_unavailable`). The
    ledger's policy revision must be set before the first call: until then all is refused.
    `segment_length` is in bytes of encrypted segment. `urls` gives links to the objects. `kept` are
    the policies that a service keeps for all its brokers, and `candidate_for` builds the engine
    that tries one before it counts. `rates` limit requests. `trusted` are the trust files, by
    vault, of those that versions may be copied to and from.
    """

    def __init__(
        self,
        *,
        vault: str,
        ledger: Ledger,
        objects: ObjectStore,
        keys: KeyService,
        admin: KeyAdmin,
        signer: Signer,
        trust: TrustFile,
        engine_for: EngineFor,
        issuers: Iterable[Issuer],
        issuer_keys: IssuerKeys,
        digest_alg: DigestAlgorithm,
        segment_length: int,
        terms: Terms | None = None,
        urls: UrlSigner | None = None,
        kept: KeptPolicies | None = None,
        candidate_for: EngineFor | None = None,
        rates: Rates | None = None,
        trusted: Mapping[str, TrustFile] | None = None,
    ) -> None:
        parts = Parts(
            vault=vault,
            ledger=ledger,
            objects=objects,
            keys=keys,
            admin=admin,
            signer=signer,
            trust=trust,
            digest_alg=digest_alg,
            segment_length=segment_length,
            terms=terms or Terms(),
            trusted={} if trusted is None else trusted,
        )
        self._engines = Engines(ledger, engine_for, candidate_for)
        throttle = unlimited() if rates is None else Throttle(ledger.count, rates)
        self._gate = Gate(parts, Records(parts), self._engines, issuers, issuer_keys, throttle)
        self._comparer = Comparer(parts, self._gate)
        self._publisher = Publisher(parts, self._gate, self._comparer)
        self._releaser = Releaser(parts, self._gate)
        self._giver = Giver(parts, self._gate, self._releaser)
        self._importer = Importer(parts, self._gate)
        self._renewer = Renewer(parts, self._gate)
        self._linker = Linker(parts, self._gate, self._renewer, self._comparer, urls)
        self._catalogue = Catalogue(parts, self._gate)
        self._steward = Steward(parts, self._gate)
        self._rotator = Rotator(parts, self._gate)
        self._overseer = Overseer(parts, self._gate)
        self._publication = Publication(parts, self._gate, self._engines, kept)
        self._housekeeper = Housekeeper(parts, self._gate)

    def close(self) -> None:
        """Let go of the policy engines; the ports belong to whoever gave them."""
        self._engines.close()

    def check_policy(self) -> None:
        """Whether there is a policy that answers, for readiness: a harmless question to whoever
        decides. Raises Unavailable (`policy_unavailable`)."""
        self._publication.check()

    # Broker
    def open_version(self, caller: Caller, ask: PushAsk) -> Upload:
        """See ports.broker.Broker."""
        return self._publisher.open_version(caller, checked(ask, "push request"))

    def compare(self, caller: Caller, upload: str, ask: CompareAsk) -> Compared:
        """See ports.broker.Broker."""
        return self._comparer.compare(caller, upload, checked(ask, "comparison"))

    def commit(self, caller: Caller, upload: str, draft: Draft) -> Published:
        """See ports.broker.Broker."""
        return self._publisher.commit(caller, upload, checked(draft, "draft"))

    def abandon(self, caller: Caller, upload: str) -> None:
        """See ports.broker.Broker."""
        self._publisher.abandon(caller, upload)

    def resume(self, caller: Caller, upload: str, ask: ResumeAsk) -> Upload:
        """See ports.broker.Broker."""
        return self._linker.resume(caller, upload, checked(ask, "resume request"))

    def put_links(self, caller: Caller, upload: str, ask: PutAsk) -> Putting:
        """See ports.broker.Broker."""
        return self._linker.put_links(caller, upload, checked(ask, "put request"))

    def put_done(self, caller: Caller, upload: str, ask: PutAsk) -> None:
        """See ports.broker.Broker."""
        self._linker.put_done(caller, upload, checked(ask, "put request"))

    def lease_links(self, caller: Caller, lease: str, objects: tuple[str, ...]) -> Links:
        """See ports.broker.Broker."""
        return self._linker.lease_links(caller, lease, objects)

    def pull_links(self, caller: Caller, reference: str, objects: tuple[str, ...]) -> Links:
        """See ports.broker.Broker."""
        return self._linker.pull_links(caller, reference, objects)

    def lease(self, caller: Caller, ask: LeaseAsk) -> Lease:
        """See ports.broker.Broker."""
        return self._releaser.lease(caller, checked(ask, "lease request"))

    def renew(self, caller: Caller, lease: str, key_hash: str) -> Renewal:
        """See ports.broker.Broker."""
        return self._renewer.renew(caller, lease, key_hash)

    def release(self, caller: Caller, lease: str) -> None:
        """See ports.broker.Broker."""
        self._renewer.release(caller, lease)

    def list(
        self, caller: Caller, *, tenant: str, filter: str = "", limit: int = 100, after: str = ""
    ) -> tuple[ModelSummary, ...]:
        """See ports.broker.Broker."""
        return self._catalogue.list(caller, tenant=tenant, filter=filter, limit=limit, after=after)

    def show(self, caller: Caller, reference: str) -> ModelDetail:
        """See ports.broker.Broker."""
        return self._catalogue.show(caller, reference)

    def pull(self, caller: Caller, reference: str) -> SignedVersion:
        """See ports.broker.Broker."""
        return self._catalogue.pull(caller, reference)

    def open_import(self, caller: Caller, ask: ImportAsk) -> Importing:
        """See ports.broker.Broker."""
        return self._importer.open_import(caller, checked(ask, "import request"))

    def hand_over(self, caller: Caller, ask: HandOverAsk) -> HandedOver:
        """See ports.broker.Broker."""
        return self._giver.hand_over(caller, checked(ask, "request for keys"))

    def commit_import(self, caller: Caller, upload: str, draft: ImportDraft) -> Published:
        """See ports.broker.Broker."""
        return self._importer.commit_import(caller, upload, checked(draft, "import draft"))

    def whoami(self, caller: Caller) -> Principal:
        """See ports.broker.Broker."""
        return self._gate.authenticate(caller, "whoami", None).principal

    # Steward
    def create(
        self, caller: Caller, reference: str, *, owner: str | None, classification: str
    ) -> ModelSummary:
        """See ports.broker.Steward."""
        return self._steward.create(caller, reference, owner=owner, classification=classification)

    def classify(
        self, caller: Caller, reference: str, *, owner: str | None, classification: str | None
    ) -> ModelSummary:
        """See ports.broker.Steward."""
        return self._steward.classify(caller, reference, owner=owner, classification=classification)

    def tag(self, caller: Caller, reference: str, tag: str) -> SignedVersion:
        """See ports.broker.Steward."""
        return self._steward.tag(caller, reference, tag)

    def delete(self, caller: Caller, reference: str, tags: tuple[str, ...] = ()) -> None:
        """See ports.broker.Steward."""
        self._steward.delete(caller, reference, tags)

    def rotate(self, caller: Caller, reference: str) -> Rotated:
        """See ports.broker.Steward."""
        return self._rotator.rotate(caller, reference)

    def keep_policy(self, caller: Caller, policy: PolicyBundle) -> str:
        """See ports.broker.Steward."""
        return self._publication.keep_policy(caller, policy)

    def policy(self, caller: Caller, revision: str | None) -> PolicyBundle:
        """See ports.broker.Steward."""
        return self._publication.policy(caller, revision)

    def policies(self, caller: Caller) -> tuple[PolicyRevision, ...]:
        """See ports.broker.Steward."""
        return self._publication.policies(caller)

    def publish_policy(self, caller: Caller, revision: str) -> None:
        """See ports.broker.Steward."""
        self._publication.publish_policy(caller, revision)

    def gc(self, caller: Caller, *, dry_run: bool = False) -> Swept:
        """See ports.broker.Steward."""
        return self._housekeeper.gc(caller, dry_run=dry_run)
