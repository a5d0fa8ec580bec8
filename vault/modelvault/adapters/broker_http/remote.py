"""`Broker` and `Steward` by HTTP: each call sends its arguments and gives back the answer."""

from __future__ import annotations

from typing import Any

import msgspec

from modelvault.access import Action, Caller, Principal
from modelvault.adapters.broker_http.connection import Connection
from modelvault.copies import HandedOver, HandOverAsk, ImportAsk, ImportDraft, Importing
from modelvault.lease import (
    EntryPage,
    Explanation,
    Lease,
    LeaseAsk,
    LeaseSummary,
    Links,
    ModelDetail,
    ModelSummary,
    PolicyBundle,
    PolicyRevision,
    Renewal,
    Rotated,
    Swept,
)
from modelvault.record import Entry, SignedVersion
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
from modelvault.wire import bodies
from modelvault.wire.calls import CALLS


class RemoteBroker:
    """Thread-safe. Documented in ports.broker; errors are the broker's own, and Unavailable
    (`broker_unavailable`, `broker_untrusted`)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _ask(self, name: str, caller: Caller, id: str = "", body: object = None) -> Any:  # noqa: ANN401
        return self._connection.ask(CALLS[name], caller, id, body)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    # Broker
    def open_version(self, caller: Caller, ask: PushAsk) -> Upload:
        """See ports.broker.Broker."""
        upload: Upload = self._ask("open_version", caller, body=ask)
        return upload

    def compare(self, caller: Caller, upload: str, ask: CompareAsk) -> Compared:
        """See ports.broker.Broker."""
        compared: Compared = self._ask("compare", caller, upload, ask)
        return compared

    def commit(self, caller: Caller, upload: str, draft: Draft) -> Published:
        """See ports.broker.Broker."""
        published: Published = self._ask("commit", caller, upload, draft)
        return published

    def abandon(self, caller: Caller, upload: str) -> None:
        """See ports.broker.Broker."""
        self._ask("abandon", caller, upload)

    def resume(self, caller: Caller, upload: str, ask: ResumeAsk) -> Upload:
        """See ports.broker.Broker."""
        resumed: Upload = self._ask("resume", caller, upload, ask)
        return resumed

    def put_links(self, caller: Caller, upload: str, ask: PutAsk) -> Putting:
        """See ports.broker.Broker."""
        putting: Putting = self._ask("put_links", caller, upload, ask)
        return putting

    def put_done(self, caller: Caller, upload: str, ask: PutAsk) -> None:
        """See ports.broker.Broker."""
        self._ask("put_done", caller, upload, ask)

    def lease(self, caller: Caller, ask: LeaseAsk) -> Lease:
        """See ports.broker.Broker."""
        lease: Lease = self._ask("lease", caller, body=ask)
        return lease

    def renew(self, caller: Caller, lease: str, key_hash: str) -> Renewal:
        """See ports.broker.Broker."""
        renewal: Renewal = self._ask("renew", caller, lease, bodies.RenewAsk(key_hash=key_hash))
        return renewal

    def release(self, caller: Caller, lease: str) -> None:
        """See ports.broker.Broker."""
        self._ask("release", caller, lease)

    def lease_links(self, caller: Caller, lease: str, objects: tuple[str, ...]) -> Links:
        """See ports.broker.Broker."""
        links: Links = self._ask("lease_links", caller, lease, bodies.ObjectsAsk(objects=objects))
        return links

    def pull_links(self, caller: Caller, reference: str, objects: tuple[str, ...]) -> Links:
        """See ports.broker.Broker."""
        body = bodies.PullObjectsAsk(reference=reference, objects=objects)
        links: Links = self._ask("pull_links", caller, body=body)
        return links

    def list(
        self, caller: Caller, *, tenant: str, filter: str = "", limit: int = 100, after: str = ""
    ) -> tuple[ModelSummary, ...]:
        """See ports.broker.Broker."""
        body = bodies.ListAsk(tenant=tenant, filter=filter, limit=limit, after=after)
        found: tuple[ModelSummary, ...] = self._ask("list", caller, body=body)
        return found

    def show(self, caller: Caller, reference: str) -> ModelDetail:
        """See ports.broker.Broker."""
        detail: ModelDetail = self._ask("show", caller, body=bodies.Named(reference=reference))
        return detail

    def pull(self, caller: Caller, reference: str) -> SignedVersion:
        """See ports.broker.Broker."""
        signed: SignedVersion = self._ask("pull", caller, body=bodies.Named(reference=reference))
        return signed

    def open_import(self, caller: Caller, ask: ImportAsk) -> Importing:
        """See ports.broker.Broker."""
        importing: Importing = self._ask("open_import", caller, body=ask)
        return importing

    def hand_over(self, caller: Caller, ask: HandOverAsk) -> HandedOver:
        """See ports.broker.Broker."""
        handed: HandedOver = self._ask("hand_over", caller, body=ask)
        return handed

    def commit_import(self, caller: Caller, upload: str, draft: ImportDraft) -> Published:
        """See ports.broker.Broker."""
        published: Published = self._ask("commit_import", caller, upload, draft)
        return published

    def whoami(self, caller: Caller) -> Principal:
        """See ports.broker.Broker."""
        principal: Principal = self._ask("whoami", caller)
        return principal

    # Steward
    def create(
        self, caller: Caller, reference: str, *, owner: str | None, classification: str
    ) -> ModelSummary:
        """See ports.broker.Steward."""
        body = bodies.CreateAsk(reference=reference, owner=owner, classification=classification)
        made: ModelSummary = self._ask("create", caller, body=body)
        return made

    def classify(
        self, caller: Caller, reference: str, *, owner: str | None, classification: str | None
    ) -> ModelSummary:
        """See ports.broker.Steward."""
        body = bodies.ClassifyAsk(reference=reference, owner=owner, classification=classification)
        changed: ModelSummary = self._ask("classify", caller, body=body)
        return changed

    def tag(self, caller: Caller, reference: str, tag: str) -> SignedVersion:
        """See ports.broker.Steward."""
        body = bodies.TagAsk(reference=reference, tag=tag)
        signed: SignedVersion = self._ask("tag", caller, body=body)
        return signed

    def delete(self, caller: Caller, reference: str, tags: tuple[str, ...] = ()) -> None:
        """See ports.broker.Steward."""
        self._ask("delete", caller, body=bodies.DeleteAsk(reference=reference, tags=tags))

    def rotate(self, caller: Caller, reference: str) -> Rotated:
        """See ports.broker.Steward."""
        rotated: Rotated = self._ask("rotate", caller, body=bodies.Named(reference=reference))
        return rotated

    def revoke(
        self, caller: Caller, *, kind: str, target: str, reason: str, for_s: int | None = None
    ) -> int:
        """See ports.broker.Steward."""
        body = bodies.RevokeAsk(kind=kind, target=target, reason=reason, for_s=for_s)
        ended: bodies.Ended = self._ask("revoke", caller, body=body)
        return ended.ended

    def leases(
        self, caller: Caller, *, reference: str | None = None, ended: bool = False, limit: int = 100
    ) -> tuple[LeaseSummary, ...]:
        """See ports.broker.Steward."""
        body = bodies.LeasesAsk(reference=reference, ended=ended, limit=limit)
        found: tuple[LeaseSummary, ...] = self._ask("leases", caller, body=body)
        return found

    def explain(
        self, caller: Caller, *, action: Action, reference: str, purpose: str | None,
        subject: Principal | None, destination: str | None = None,
    ) -> Explanation:  # fmt: skip
        """See ports.broker.Steward."""
        about = None
        if subject is not None:
            about = bodies.Subject(**msgspec.structs.asdict(subject))
        body = bodies.ExplainAsk(
            action=action,
            reference=reference,
            purpose=purpose,
            subject=about,
            destination=destination,
        )
        explanation: Explanation = self._ask("explain", caller, body=body)
        return explanation

    def entries(
        self, caller: Caller, *, after: int = 0, limit: int = 100, reference: str | None = None
    ) -> EntryPage:
        """See ports.broker.Steward."""
        body = bodies.EntriesAsk(after=after, limit=limit, reference=reference)
        page: EntryPage = self._ask("entries", caller, body=body)
        return page

    def last_entries(
        self, caller: Caller, *, before: int | None = None, limit: int = 100,
        reference: str | None = None,
    ) -> tuple[Entry, ...]:  # fmt: skip
        """See ports.broker.Steward."""
        body = bodies.LastEntriesAsk(before=before, limit=limit, reference=reference)
        found: tuple[Entry, ...] = self._ask("last_entries", caller, body=body)
        return found

    def keep_policy(self, caller: Caller, policy: PolicyBundle) -> str:
        """See ports.broker.Steward."""
        kept: bodies.Revision = self._ask("keep_policy", caller, body=policy)
        return kept.revision

    def policy(self, caller: Caller, revision: str | None) -> PolicyBundle:
        """See ports.broker.Steward."""
        body = bodies.PolicyAsk(revision=revision)
        bundle: PolicyBundle = self._ask("policy", caller, body=body)
        return bundle

    def policies(self, caller: Caller) -> tuple[PolicyRevision, ...]:
        """See ports.broker.Steward."""
        found: tuple[PolicyRevision, ...] = self._ask("policies", caller)
        return found

    def publish_policy(self, caller: Caller, revision: str) -> None:
        """See ports.broker.Steward."""
        self._ask("publish_policy", caller, body=bodies.PublishAsk(revision=revision))

    def gc(self, caller: Caller, *, dry_run: bool = False) -> Swept:
        """See ports.broker.Steward."""
        swept: Swept = self._ask("gc", caller, body=bodies.GcAsk(dry_run=dry_run))
        return swept
