"""What the ledger's documents say, once their signatures have been checked.

Columns of a database are nobody's word: whoever may write to it could change an owner, a
classification or where a tag points. So the broker takes all that it decides on from documents
signed by keys of its own trust file, and refuses rows that disagree with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from modelvault import canonical
from modelvault.access import Resource
from modelvault.artifact import trust as trusting
from modelvault.artifact.trust import Seen
from modelvault.broker.parts import Parts
from modelvault.catalog import ModelRow, TagRow, VersionRow
from modelvault.crypto import dsse
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


class KnownModel(msgspec.Struct, frozen=True):
    """A model that stands, by its verified record."""

    row: ModelRow
    record: ModelRecord

    @property
    def reference(self) -> Reference:
        """The bare model."""
        return Reference(self.record.tenant, self.record.model)

    def resource(self, files: Sequence[str] = (), size: int | None = None) -> Resource:
        """The policy's facts of the model, and of files that are to be pushed."""
        return Resource(
            tenant=self.record.tenant,
            id=self.record.model,
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

    def resource(self, files: Sequence[FileEntry] | None = None) -> Resource:
        """The policy's facts of some or all files of the version."""
        wanted = self.manifest.files if files is None else files
        return Resource(
            tenant=self.manifest.tenant,
            id=self.manifest.model,
            version=self.manifest.version,
            manifest=self.row.digest,
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
    """Reads rows and verifies their documents. Raises IntegrityError for what doesn't hold."""

    def __init__(self, parts: Parts) -> None:
        self._vault = parts.vault
        self._ledger = parts.ledger
        self._trust = parts.trust

    def model(self, reference: Reference) -> KnownModel:
        """The model of a reference. NotFound (`no_model`), also when it is hidden."""
        try:
            row = self._ledger.model(reference.tenant, reference.model)
        except NotFound:
            raise absent(reference) from None
        if row.hidden_at is not None:
            raise absent(reference)
        return self.known(row)

    def known(self, row: ModelRow) -> KnownModel:
        """A row's verified model."""
        what = f"the model record of {row.tenant}/{row.model}"
        payload = dsse.verify(row.record, MODEL_TYPE, self._trust.keys_for("record"), what)
        record = canonical.decode(payload, ModelRecord, limit=MAX_RECORD, what=what)
        said = (record.vault, record.tenant, record.model, record.serial)
        if said != (self._vault, row.tenant, row.model, row.serial):
            raise _altered(what)
        return KnownModel(row, record)

    def version(self, model: KnownModel, reference: Reference) -> KnownVersion:
        """The version that a reference means now; hidden ones are NotFound (`no_version`)."""
        if reference.tag is not None:
            return self._tagged(model, reference)
        row = self._row(model, reference)
        if row.hidden_at is not None:
            raise _no_version(reference)
        return self.verify(model, row)

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
        verified = trusting.verify(signed, wanted, self._trust, Seen())
        said = (verified.digest, verified.manifest.version, verified.manifest.artifact)
        if said != (row.digest, row.version, row.artifact):
            raise _altered(f"the manifest of {wanted}")
        return KnownVersion(model, row, verified.manifest, signed)

    def numbered(self, model: KnownModel, version: int) -> KnownVersion:
        """A version by its number, hidden or not: for leases that run already."""
        row = self._ledger.version(model.record.tenant, model.record.model, version)
        return self.verify(model, row)

    def tag_record(self, row: TagRow) -> TagRecord:
        """A tag's verified record, which agrees with its row."""
        what = f"the tag record of {row.tenant}/{row.model}:{row.tag}"
        payload = dsse.verify(row.record, TAG_TYPE, self._trust.keys_for("record"), what)
        record = canonical.decode(payload, TagRecord, limit=MAX_RECORD, what=what)
        said = (record.vault, record.tenant, record.model, record.tag)
        if said != (self._vault, row.tenant, row.model, row.tag):
            raise _altered(what)
        if (record.version, record.serial) != (row.version, row.serial):
            raise _altered(what)
        return record

    def _tagged(self, model: KnownModel, reference: Reference) -> KnownVersion:
        name = (reference.tenant, reference.model)
        try:
            tag = self._ledger.tag(*name, str(reference.tag))
        except NotFound:
            raise NotFound(
                "no_tag",
                f"{reference.name} has no tag {reference.tag}",
                f"see the tags with `modelvault show {reference.name}`",
            ) from None
        self.tag_record(tag)
        row = self._version_row(reference, tag.version)
        if row.hidden_at is not None:
            raise _no_version(reference)
        return self.verify(model, row, tag)

    def _row(self, model: KnownModel, reference: Reference) -> VersionRow:
        name = (reference.tenant, reference.model)
        if reference.version is not None:
            return self._version_row(reference, reference.version)
        if reference.digest is not None:
            try:
                return self._ledger.version_by_digest(*name, reference.digest)
            except NotFound:
                raise _no_version(reference) from None
        return self._newest(reference, model.row.head_version)

    def _newest(self, reference: Reference, head: int) -> VersionRow:
        """The head, nearly always; else the newest that isn't hidden."""
        if head:
            with suppress(NotFound):
                row = self._ledger.version(reference.tenant, reference.model, head)
                if row.hidden_at is None:
                    return row
            for row in self._ledger.versions(reference.tenant, reference.model):
                if row.hidden_at is None:
                    return row
        raise _no_version(reference)

    def _version_row(self, reference: Reference, version: int) -> VersionRow:
        try:
            return self._ledger.version(reference.tenant, reference.model, version)
        except NotFound:
            raise _no_version(reference) from None


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
