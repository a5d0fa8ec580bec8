"""The vault's service, as clients call it: in this process or over HTTP."""

from __future__ import annotations

from typing import Protocol

from modelvault.access import Action, Caller, Principal
from modelvault.copies import (
    HandedOver,
    HandOverAsk,
    ImportAsk,
    ImportDraft,
    Importing,
)
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


class Broker(Protocol):
    """Everyday calls. Each authenticates its caller and asks the policy.

    All raise AuthenticationError, AccessDenied, NotFound (also for what the caller may not see)
    and Unavailable.
    """

    def open_version(self, caller: Caller, ask: PushAsk) -> Upload:
        """Begin a version: a fresh DEK, FileKeys and content keys sealed to the ask's recipient."""
        ...

    def compare(self, caller: Caller, upload: str, ask: CompareAsk) -> Compared:
        """Which files of an open upload are unchanged, by their content tags: as they are in the
        newest version that the same principal pushed. Those may stay in the draft's `unchanged`.

        Only the principal that opened it may, and only while the policy allows the push. Raises
        NotFound (`no_upload`), Conflict (`upload_closed`), InvalidRequest (`not_as_declared`).
        """
        ...

    def commit(self, caller: Caller, upload: str, draft: Draft) -> Published:
        """Check what was uploaded and publish it as the next version.

        Only the principal that opened it may. Repeating a commit that succeeded gives its result
        again. Raises InvalidRequest or IntegrityError when draft, objects and declaration differ,
        and InvalidRequest (`not_unchanged`) when a file that the draft tells to be unchanged isn't.
        """
        ...

    def abandon(self, caller: Caller, upload: str) -> None:
        """Give an upload up: from now on no commit of it succeeds, and it no longer counts.

        Only the principal that opened it may. Raises NotFound (`no_upload`), also once it is given
        up, and Conflict (`upload_closed`) when it is published: then its objects are in use.
        """
        ...

    def resume(self, caller: Caller, upload: str, ask: ResumeAsk) -> Upload:
        """Go on with an open upload: the same artifact and FileKeys, sealed to a new recipient.

        With `ask.keys` the recipient joins those that there are, and gets the keys of these paths
        alone: so many processes of one principal write one version, and one commits. Which of
        them is up to them, since each could take the upload over by resuming it. Raises then
        InvalidRequest (`not_as_declared`), Conflict (`too_many_ranks`).

        Only the principal that opened it may, and only while the policy allows the push. Raises
        NotFound (`no_upload`: also expired or given up), Conflict (`upload_closed`: published).
        """
        ...

    def put_links(self, caller: Caller, upload: str, ask: PutAsk) -> Putting:
        """Links to put one object of an open upload at the store; the upload is kept alive by it.

        Only the principal that opened it may. Raises NotFound (`no_upload`, `no_transfer`) and
        InvalidRequest (`no_links`) where the store can't give any.
        """
        ...

    def put_done(self, caller: Caller, upload: str, ask: PutAsk) -> None:
        """The parts of that object are all at the store: make it one. Idempotent.

        Errors as `put_links`, IntegrityError (`parts_missing`), Conflict (`object_exists`).
        """
        ...

    def lease_links(self, caller: Caller, lease: str, objects: tuple[str, ...]) -> Links:
        """Links to read objects of the granted files, for a running lease of the caller's own.

        They last no longer than the lease. Raises NotFound (`no_lease`, `no_object`: not among the
        granted files'), AccessDenied (`lease_ended`), Unavailable (`lease_lapsed`: it ran out, and
        may still be renewed), InvalidRequest (`no_links`, `bad_links`).
        """
        ...

    def pull_links(self, caller: Caller, reference: str, objects: tuple[str, ...]) -> Links:
        """Links to read the objects of a version: the action `pull`. Errors as `lease_links`."""
        ...

    def lease(self, caller: Caller, ask: LeaseAsk) -> Lease:
        """Keys for some files of a version. The same ask again gives the same lease, uncharged."""
        ...

    def renew(self, caller: Caller, lease: str, key_hash: str) -> Renewal:
        """Ask again for what was granted; `key_hash` is that of the first ask's recipient.

        AccessDenied means wipe; Unavailable means keep until ttl and grace have run out.
        """
        ...

    def release(self, caller: Caller, lease: str) -> None:
        """The job is done with it. Idempotent."""
        ...

    def list(
        self, caller: Caller, *, tenant: str, filter: str = "", limit: int = 100, after: str = ""
    ) -> tuple[ModelSummary, ...]:
        """The models that the caller may show, by name; `filter` is a shell-style pattern."""
        ...

    def show(self, caller: Caller, reference: str) -> ModelDetail:
        """A model with its versions and tags."""
        ...

    def pull(self, caller: Caller, reference: str) -> SignedVersion:
        """The documents of a version, for copying its ciphertext."""
        ...

    def open_import(self, caller: Caller, ask: ImportAsk) -> Importing:
        """Begin to take in a version of another vault: the action `push`.

        Objects are put as an upload's (`put_links`), `abandon` gives it up. Raises AccessDenied
        (`untrusted_vault`, `too_many_uploads`), IntegrityError for documents that the giver's
        pinned trust file doesn't confirm, InvalidRequest (`wrong_digest_alg`, `same_vault`),
        Conflict (`already_copied`: details name the `version`; `artifact_here`).
        """
        ...

    def hand_over(self, caller: Caller, ask: HandOverAsk) -> HandedOver:
        """A version's DEKs, sealed for the broker of the vault that invites: the action `export`
        with that vault as `destination`, charged and counted as one.

        The same invitation again gives the same keys, uncharged. Raises AccessDenied
        (`untrusted_vault`), IntegrityError for an invitation that isn't signed by that vault's
        pinned manifest keys, Conflict (`invitation_expired`; `invitation_used`: its grant has
        ended; `ask_reused`: it served for another version), and as `lease`.
        """
        ...

    def commit_import(self, caller: Caller, upload: str, draft: ImportDraft) -> Published:
        """Check what came, wrap its keys anew, and publish it as the model's next version.

        As `commit` for who may and for repeating it. A draft without files only asks whether all
        else is well, and is InvalidRequest (`files_missing`) then. Raises as `open_import`,
        IntegrityError (`not_for_us`: keys for another import, version or vault; `other_key`),
        InvalidRequest where objects and manifest differ.
        """
        ...

    def whoami(self, caller: Caller) -> Principal:
        """Who the token says is asking."""
        ...


class Steward(Protocol):
    """Admins' calls, each an action of its own for the policy. Errors as in Broker."""

    def create(
        self, caller: Caller, reference: str, *, owner: str | None, classification: str
    ) -> ModelSummary:
        """A new, empty model with its KEK. Raises Conflict (`model_exists`)."""
        ...

    def classify(
        self, caller: Caller, reference: str, *, owner: str | None, classification: str | None
    ) -> ModelSummary:
        """Change owner or classification."""
        ...

    def tag(self, caller: Caller, reference: str, tag: str) -> SignedVersion:
        """Make `tag` mean the version that `reference` means now. Raises NotFound."""
        ...

    def delete(self, caller: Caller, reference: str, tags: tuple[str, ...] = ()) -> None:
        """Hide a version (`name@7`) or a model (`name`); `gc` removes it after a grace.

        Raises Conflict (`tagged`) for a version with a tag that isn't among `tags`; those that are
        go with it, in the same transaction, where the policy allows the action `tag`, too.
        """
        ...

    def rotate(self, caller: Caller, reference: str) -> Rotated:
        """A new KEK version; every wrapped key of the model under it; older versions retired.

        Idempotent when it is resumed after an interruption. No object with weights is touched.
        """
        ...

    def revoke(
        self, caller: Caller, *, kind: str, target: str, reason: str, for_s: int | None = None
    ) -> int:
        """Revoke a `principal`, `lease` or `version`; returns how many running leases it ended."""
        ...

    def leases(
        self, caller: Caller, *, reference: str | None = None, ended: bool = False, limit: int = 100
    ) -> tuple[LeaseSummary, ...]:
        """Leases, newest first; running ones only unless `ended`."""
        ...

    def explain(
        self, caller: Caller, *, action: Action, reference: str, purpose: str | None,
        subject: Principal | None, destination: str | None = None,
    ) -> Explanation:  # fmt: skip
        """What the policy says of a request, for `subject` or for the caller, granting nothing.

        `destination` is the other vault that keys would be handed over to."""
        ...

    def entries(
        self, caller: Caller, *, after: int = 0, limit: int = 100, reference: str | None = None
    ) -> EntryPage:
        """The audit log, oldest first, from the one behind `after` on."""
        ...

    def last_entries(
        self,
        caller: Caller,
        *,
        before: int | None = None,
        limit: int = 100,
        reference: str | None = None,
    ) -> tuple[Entry, ...]:
        """The last entries of the audit log in front of the one `before` (None: of all), also
        oldest first."""
        ...

    def keep_policy(self, caller: Caller, policy: PolicyBundle) -> str:
        """Sign a policy and keep it under its revision, which is returned. Decides nothing yet.

        Raises InvalidRequest (`bad_policy`), and (`policy_elsewhere`) where policies are kept in
        the home's folder. Idempotent.
        """
        ...

    def policy(self, caller: Caller, revision: str | None) -> PolicyBundle:
        """A policy that is kept, or the one that counts. Raises NotFound (`no_policy`)."""
        ...

    def policies(self, caller: Caller) -> tuple[PolicyRevision, ...]:
        """The policies that are kept, newest first: what one can roll back to."""
        ...

    def publish_policy(self, caller: Caller, revision: str) -> None:
        """Make `revision` the only one whose decisions count, once it evaluates and still lets
        the caller write policies (`policy_lockout`)."""
        ...

    def gc(self, caller: Caller, *, dry_run: bool = False) -> Swept:
        """Remove what was hidden long enough, dead uploads and their objects."""
        ...
