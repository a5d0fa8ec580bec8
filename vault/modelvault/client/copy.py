"""A version from one vault into another: ciphertext unchanged, keys from broker to broker.

The client speaks to both and is trusted by neither with anything: it carries what it can't open,
and verifies what each says by that vault's own trust file.
"""

from __future__ import annotations

from contextlib import suppress

from modelvault.artifact import trust as trusting
from modelvault.client.carrying import Carrying, Handed, open_carrying
from modelvault.client.context import Context
from modelvault.client.copied import (
    PURPOSE,
    Copied,
    Source,
    check_invitation,
    check_published,
    find,
    hand_over,
)
from modelvault.client.progress import Progress, counter
from modelvault.client.tag import exact, move_tag
from modelvault.client.transfer import transfer
from modelvault.copies import (
    HandedOver,
    ImportAsk,
    ImportDraft,
    ImportedFile,
    Importing,
)
from modelvault.errors import Conflict, ModelVaultError, NotFound, Unavailable
from modelvault.manifest import object_names
from modelvault.ports.objects import UploadStore
from modelvault.record import SignedVersion
from modelvault.reference import Reference

_GONE = frozenset({"no_upload", "upload_closed", "invitation_expired", "invitation_used"})


def copy(
    giver: Context,
    receiver: Context,
    reference: Reference,
    target: Reference,
    *,
    purpose: str = PURPOSE,
    ticket: str | None = None,
    progress: Progress | None = None,
) -> Copied:
    """Copy the version that `reference` means into the model `target`, and tag it where that names
    a tag. Doing it again finds the copy that stands; one that was cut off goes on.

    Raises what both brokers and stores raise; AccessDenied (`untrusted_vault`) until an admin of
    each vault has pinned the other's trust file.
    """
    source = documents(giver, reference)
    journal = open_carrying(receiver.journals, source.verified.digest, str(target))
    work = _Copy(giver, receiver, source, target, purpose, ticket, progress, journal)
    try:
        copied = work.do()
    except BaseException as failure:
        if journal is not None:
            journal.close() if _may_go_on(failure) else journal.remove()
        raise
    if journal is not None:
        journal.remove()
    if target.tag is not None:
        move_tag(
            receiver, Reference(copied.tenant, copied.model, version=copied.version), target.tag
        )
    return copied


def documents(giver: Context, reference: Reference) -> Source:
    """The version's documents, verified by the giving vault's trust file."""
    seen = giver.pins.seen()
    signed = giver.broker.pull(giver.credentials.caller(), str(reference))
    verified = trusting.verify(signed, reference, giver.trust, seen)
    giver.pins.remember(verified.seen)
    return Source(SignedVersion(model=signed.model, manifest=signed.manifest), verified)


class _Copy:
    """One version on its way."""

    def __init__(
        self,
        giver: Context,
        receiver: Context,
        source: Source,
        target: Reference,
        purpose: str,
        ticket: str | None,
        progress: Progress | None,
        journal: Carrying | None,
    ) -> None:
        self._giver = giver
        self._receiver = receiver
        self._source = source
        self._target = target
        self._purpose = purpose
        self._ticket = ticket
        self._progress = progress
        self._journal = journal

    def do(self) -> Copied:
        """Go on with what an earlier run left; begin anew where the receiver has given it up."""
        journal, receiver = self._journal, self._receiver
        if journal is not None and journal.importing is not None:
            try:
                return self._carry(journal.importing)
            except (NotFound, Conflict) as gone:
                if gone.code not in _GONE:
                    raise
        ask = ImportAsk(reference=str(self._target), source=self._source.signed)
        try:
            importing = receiver.broker.open_import(receiver.credentials.caller(), ask)
        except Conflict as stands:
            version = stands.details.get("version")
            if stands.code != "already_copied" or type(version) is not int:
                raise
            return find(receiver, self._source, self._target, version)
        if journal is not None:
            journal.start(importing)
        return self._carry(importing)

    def _carry(self, importing: Importing) -> Copied:
        receiver, manifest = self._receiver, self._source.manifest
        store = receiver.places.opened(importing.id, None)
        put: tuple[ImportedFile, ...] = ()
        try:
            handed = self._handed(importing)  # before the files: a refusal should come first
            named = str(exact(self._source.verified))
            reader = self._giver.places.pulled(named, object_names(manifest.files))
            count = counter(self._progress, manifest.size)
            put = transfer(reader, store, manifest, count, self._journal)
            draft = ImportDraft(source=self._source.signed, sealed=handed.sealed, files=put)
            caller = receiver.credentials.caller()
            published = receiver.broker.commit_import(caller, importing.id, draft)
        except BaseException as failure:
            if self._journal is None or not _may_go_on(failure):
                give_up(receiver, store, importing.id, put)
            raise
        return check_published(receiver, self._source, self._target, published, put)

    def _handed(self, importing: Importing) -> HandedOver:
        """The sealed keys, for an invitation that is the receiving vault's own."""
        if self._journal is not None and self._journal.handed is not None:
            return self._journal.handed
        check_invitation(self._receiver.trust, importing, self._target)
        verified = self._source.verified
        handed = hand_over(
            self._giver, exact(verified), verified.digest, importing, self._purpose, self._ticket
        )
        if self._journal is not None:
            self._journal.write(Handed(handed))
        return handed


def give_up(
    receiver: Context, store: UploadStore, upload: str, put: tuple[ImportedFile, ...]
) -> None:
    """Free the import, then delete what was put; without the broker's word that no commit can be
    any more, what is left is gc's."""
    with suppress(ModelVaultError):
        receiver.broker.abandon(receiver.credentials.caller(), upload)
        for each in put:
            store.delete(each.object)
            store.delete(each.leaves)


def _may_go_on(failure: BaseException) -> bool:
    """Whether the same copy may succeed later: an outage, or somebody pressed Ctrl-C."""
    return isinstance(failure, (Unavailable, KeyboardInterrupt, SystemExit))
