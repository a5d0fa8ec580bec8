"""What the ledger's documents say, once their signatures have been checked.

Columns of a database are nobody's word: whoever may write to it could change an owner, a
classification or where a tag points. So the broker takes all that it decides on from documents
signed by keys of its own trust file, and refuses rows that disagree with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from modelvault import canonical
from modelvault.access import Resource
from modelvault.artifact import trust as trusting
from modelvault.artifact.trust import Seen, Verified
from modelvault.broker.parts import Parts
from modelvault.catalog import ModelRow, Standing, TagRow, VersionRow
from modelvault.crypto import dsse
from modelvault.crypto.dsse import Envelope
from modelvault.crypto.remembered import Remembered
from modelvault.errors import IntegrityError, NotFound
from modelvault.manifest import FileEntry, Manifest
from modelvault.record import (
    MAX_RECORD,
    MODEL_TYPE,
    TAG_TYPE,
    ModelRecord,
    SignedVersion,
    TagRecord,
)
from modelvault.reference import Reference

_REMEMBERED = 8 << 20  # bytes of each kind of record; four times as much of manifests


class KnownModel(msgspec.Struct, frozen=True):
    """A model that stands, by its verified record."""

    row: ModelRow
    record: ModelRecord

    @property
    def reference(self) -> Reference:
        """The bare model."""
        return Reference(self.record.tenant, self.record.model)

    def resource(
        self, files: Sequence[str] = (), size: int | None = None, created_by: str | None = None
    ) -> Resource:
        """The policy's facts of the model, of files that are to be pushed, and of who is about to
        make a version of them."""
        return Resource(
            tenant=self.record.tenant,
            id=self.record.model,
            created_by=created_by,
            owner=self.record.owner,
            classification=self.record.classification,
            files=tuple(files),
            bytes=size,
        )


class KnownVersion(msgspec.Struct, frozen=True):
    """A version, by its verified manifest."""

    model: KnownModel
    row: VersionRow
    manifest: Manifest
    signed: SignedVersion
    read: Standing | None = None  # where it came from one look at the ledger

    def resource(self, files: Sequence[FileEntry] | None = None) -> Resource:
        """The policy's facts of some or all files of the version."""
        wanted = self.manifest.files if files is None else files
        return Resource(
            tenant=self.manifest.tenant,
            id=self.manifest.model,
            version=self.manifest.version,
            manifest=self.row.digest,
            created_by=self.manifest.created_by,
            owner=self.model.record.owner,
            classification=self.model.record.classification,
            labels=dict(self.manifest.labels),
            pickles=self.manifest.hints.pickles,
            formats=self.manifest.hints.formats,
            files=tuple(file.path for file in wanted),
            bytes=sum(file.size for file in wanted),
        )


def absent(reference: Reference) -> NotFound:
    """The one answer for a model that isn't there, is hidden, or may not be seen by the caller."""
    return NotFound(
        "no_model",
        f"there is no model {reference.name}, or you may not see it",
        "check the name with `modelvault list`, make it with `modelvault create`, or ask an admin "
        "for access",
    )


class Records:
    """Reads rows and verifies their documents. Raises IntegrityError for what doesn't hold.

    A document is verified once and then known by all of its bytes, signatures included: whether it
    holds depends on these and on the trust file, which stays the same. That it is the one that its
    row tells of is looked at each time.
    """

    def __init__(self, parts: Parts) -> None:
        self._vault = parts.vault
        self._ledger = parts.ledger
        self._trust = parts.trust
        self._models: Remembered[ModelRecord] = Remembered(_REMEMBERED)
        self._tags: Remembered[TagRecord] = Remembered(_REMEMBERED)
        self._versions: Remembered[Verified] = Remembered(4 * _REMEMBERED)

    def look(self, reference: Reference) -> Standing:
        """What the ledger knows of a reference, by one look at it."""
        return self._ledger.standing(
            reference.tenant,
            reference.model,
            tag=reference.tag,
            version=reference.version,
            digest=reference.digest,
        )

    def model(self, reference: Reference) -> KnownModel:
        """The model of a reference. NotFound (`no_model`), also when it is hidden."""
        try:
            row = self._ledger.model(reference.tenant, reference.model)
        except NotFound:
            raise absent(reference) from None
        return self.standing(reference, row)

    def standing(self, reference: Reference, row: ModelRow | None) -> KnownModel:
        """The model by the row that was found. NotFound (`no_model`) where it is none or hidden."""
        if row is None or row.hidden_at is not None:
            raise absent(reference)
        return self.known(row)

    def known(self, row: ModelRow) -> KnownModel:
        """A row's verified model."""
        what = f"the model record of {row.tenant}/{row.model}"

        def verified() -> ModelRecord:
            payload = dsse.verify(row.record, MODEL_TYPE, self._trust.keys_for("record"), what)
            return canonical.decode(payload, ModelRecord, limit=MAX_RECORD, what=what)

        record = self._models.get(row.record, _size(row.record), verified)
        said = (record.vault, record.tenant, record.model, record.serial)
        if said != (self._vault, row.tenant, row.model, row.serial):
            raise _altered(what)
        return KnownModel(row, record)

    def version(
        self, model: KnownModel, reference: Reference, seen: Standing | None = None
    ) -> KnownVersion:
        """The version that a reference means now; hidden ones are NotFound (`no_version`).

        `seen` is what a look at that reference has found, where there was one.
        """
        seen = seen or self.look(reference)
        if reference.tag is not None:
            return self._tagged(model, reference, seen)
        row = seen.version
        by_name = reference.version is None and reference.digest is None
        if by_name and (row is None or row.hidden_at is not None):
            row = self._newest(model, reference)
        if row is None or row.hidden_at is not None:
            raise _no_version(reference)
        return self._with(seen, self.verify(model, row))

    def verify(self, model: KnownModel, row: VersionRow, tag: TagRow | None = None) -> KnownVersion:
        """A version row's verified manifest, and its tag record where one led here."""
        signed = SignedVersion(
            model=model.row.record, manifest=row.manifest, tag=None if tag is None else tag.record
        )
        wanted = (
            msgspec.structs.replace(model.reference, version=row.version)
            if tag is None
            else msgspec.structs.replace(model.reference, tag=tag.tag)
        )
        verified = self._versions.get(
            (signed, wanted),
            sum(map(_size, (signed.model, signed.manifest, signed.tag))),
            lambda: trusting.verify(signed, wanted, self._trust, Seen()),
        )
        said = (verified.digest, verified.manifest.version, verified.manifest.artifact)
        if said != (row.digest, row.version, row.artifact):
            raise _altered(f"the manifest of {wanted}")
        return KnownVersion(model, row, verified.manifest, signed)

    def numbered(self, model: KnownModel, version: int) -> KnownVersion:
        """A version by its number, hidden or not: for leases that run already."""
        row = self._ledger.version(model.record.tenant, model.record.model, version)
        return self.verify(model, row)

    def leased(self, seen: Standing) -> KnownVersion | None:
        """The version of a lease that runs already, hidden or not; None where it is gone."""
        if seen.model is None or seen.version is None:
            return None
        return self._with(seen, self.verify(self.known(seen.model), seen.version))

    def tag_record(self, row: TagRow) -> TagRecord:
        """A tag's verified record, which agrees with its row."""
        what = f"the tag record of {row.tenant}/{row.model}:{row.tag}"

        def verified() -> TagRecord:
            payload = dsse.verify(row.record, TAG_TYPE, self._trust.keys_for("record"), what)
            return canonical.decode(payload, TagRecord, limit=MAX_RECORD, what=what)

        record = self._tags.get(row.record, _size(row.record), verified)
        said = (record.vault, record.tenant, record.model, record.tag)
        if said != (self._vault, row.tenant, row.model, row.tag):
            raise _altered(what)
        if (record.version, record.serial) != (row.version, row.serial):
            raise _altered(what)
        return record

    def _tagged(self, model: KnownModel, reference: Reference, seen: Standing) -> KnownVersion:
        tag, row = seen.tag, seen.version
        if tag is None:
            raise NotFound(
                "no_tag",
                f"{reference.name} has no tag {reference.tag}",
                f"see the tags with `modelvault show {reference.name}`",
            )
        self.tag_record(tag)
        if row is None or row.hidden_at is not None:
            raise _no_version(reference)
        return self._with(seen, self.verify(model, row, tag))

    def _newest(self, model: KnownModel, reference: Reference) -> VersionRow | None:
        """The newest that isn't hidden, where the head is."""
        if not model.row.head_version:
            return None
        rows = self._ledger.versions(reference.tenant, reference.model)
        return next((row for row in rows if row.hidden_at is None), None)

    @staticmethod
    def _with(seen: Standing, version: KnownVersion) -> KnownVersion:
        return msgspec.structs.replace(version, read=seen)


def _size(envelope: Envelope | None) -> int:
    """Of what is kept of it."""
    return 0 if envelope is None else len(envelope.payload) + 200 * len(envelope.signatures)


def _no_version(reference: Reference) -> NotFound:
    if reference.version is None and reference.digest is None and reference.tag is None:
        return NotFound(
            "no_version",
            f"{reference} has no version yet",
            f"push one: modelvault push FOLDER {reference}",
        )
    return NotFound(
        "no_version",
        f"there is no version {reference}",
        f"see the versions with `modelvault show {reference.name}`",
    )


def _altered(what: str) -> IntegrityError:
    return IntegrityError(
        "ledger_altered",
        f"{what} isn't the one that its row in the ledger tells of",
        "somebody changed the ledger by hand: restore it from a backup",
    )
