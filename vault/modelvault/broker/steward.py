"""Admins' everyday changes: create, classify, tag, delete. Each an action of its own."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from functools import partial

import msgspec

from modelvault import canonical
from modelvault.access import Caller, Resource
from modelvault.broker.asked import Authorised, check_texts, entry
from modelvault.broker.catalogue import summary
from modelvault.broker.gate import Gate
from modelvault.broker.parts import Parts
from modelvault.broker.verified import KnownModel, KnownVersion
from modelvault.catalog import ModelRow, TagRow
from modelvault.clock import to_text
from modelvault.crypto import dsse
from modelvault.crypto.dsse import Envelope
from modelvault.errors import Conflict, InvalidRequest, NotFound
from modelvault.lease import ModelSummary
from modelvault.record import MODEL_TYPE, TAG_TYPE, ModelRecord, SignedVersion, TagRecord
from modelvault.reference import Reference

_TAG_TRIES = 64


class Steward:
    """`create`, `classify`, `tag` and `delete` of ports.broker.Steward. Thread-safe."""

    def __init__(self, parts: Parts, gate: Gate) -> None:
        self._parts = parts
        self._gate = gate

    def create(
        self, caller: Caller, reference: str, *, owner: str | None, classification: str
    ) -> ModelSummary:
        """A new, empty model with its KEK."""
        who = self._gate.authenticate(caller, "create", None)
        named = bare(reference)
        record = self._record(
            named,
            owner=owner or who.principal.id,
            classification=classification,
            serial=1,
            created_at=to_text(who.now),
        )
        asked = self._gate.authorise(
            who,
            "create",
            Resource(
                tenant=named.tenant,
                id=named.model,
                owner=record.owner,
                classification=record.classification,
            ),
        )
        row = ModelRow(
            tenant=named.tenant,
            model=named.model,
            owner=record.owner,
            classification=record.classification,
            serial=1,
            record=self._sign(MODEL_TYPE, record),
            created_at=who.now,
        )
        self._check_new(named)
        # A KEK that is there while the model isn't is what a crash at this point left.
        with suppress(Conflict):
            self._parts.admin.create(self._parts.kek(named.tenant, named.model))
        told = entry(asked, "done", owner=record.owner, classification=record.classification)
        self._parts.ledger.create_model(row, told)
        return summary(self._parts.ledger, self._gate.records, KnownModel(row, record))

    def classify(
        self, caller: Caller, reference: str, *, owner: str | None, classification: str | None
    ) -> ModelSummary:
        """Change owner or classification: a new record with a higher serial."""
        who = self._gate.authenticate(caller, "classify", None)
        if owner is None and classification is None:
            raise InvalidRequest("nothing_to_do", "neither owner nor classification is given")
        model = self._gate.records.model(bare(reference))
        before = model.record
        record = self._record(
            model.reference,
            owner=owner or before.owner,
            classification=classification or before.classification,
            serial=before.serial + 1,
            created_at=before.created_at,
        )
        asked = self._gate.authorise(who, "classify", model.resource())
        row = msgspec.structs.replace(
            model.row,
            owner=record.owner,
            classification=record.classification,
            serial=record.serial,
            record=self._sign(MODEL_TYPE, record),
        )
        told = entry(
            asked,
            "done",
            owner=record.owner,
            owner_before=before.owner,
            classification=record.classification,
            classification_before=before.classification,
        )
        self._parts.ledger.update_record(row, before.serial, told)
        return summary(self._parts.ledger, self._gate.records, KnownModel(row, record))

    def tag(self, caller: Caller, reference: str, tag: str) -> SignedVersion:
        """Make `tag` mean the version that `reference` means now; also backwards.

        A tag that means it already stays as it is: no new serial, no entry.
        """
        who = self._gate.authenticate(caller, "tag", None)
        source = Reference.parse(reference)
        target = bare(f"{source.name}:{tag}", tagged=True)
        version = self._gate.version(who, source)
        asked = self._gate.authorise(who, "tag", version.resource())
        for _ in range(_TAG_TRIES):
            before = self._tag(target)
            if before is not None and self._means(before, version):
                return self._signed(version, before)
            try:
                return self._signed(version, self._move(asked, version, tag, before))
            except Conflict as lost:
                # Somebody else moved it meanwhile. Whoever moves it last is right, so move on.
                if lost.code != "serial_moved":
                    raise
        raise Conflict(
            "serial_moved", f"{target} was moved {_TAG_TRIES} times meanwhile", "tag it again"
        )

    def _move(
        self, asked: Authorised, version: KnownVersion, tag: str, before: TagRow | None
    ) -> TagRow:
        """Sign and write the tag's next record. Conflict (`serial_moved`) for a lost race."""
        serial = version.model.row.tag_floor if before is None else before.serial
        record = self._tag_record(version, tag, serial + 1)
        row = TagRow(
            tenant=record.tenant,
            model=record.model,
            tag=tag,
            version=record.version,
            serial=record.serial,
            record=self._sign(TAG_TYPE, record),
            moved_at=asked.now,
        )
        told = entry(
            asked,
            "done",
            tag=tag,
            serial=record.serial,
            version_before=None if before is None else before.version,
        )
        self._parts.ledger.put_tag(row, serial, told)
        return row

    def delete(self, caller: Caller, reference: str, tags: tuple[str, ...] = ()) -> None:
        """Hide a version or a model from new loads; `gc` removes it after a grace.

        A version that has tags is hidden only where all of them are among `tags`, which go with it
        if the policy allows `tag`, too.
        """
        who = self._gate.authenticate(caller, "delete", None)
        named = Reference.parse(reference)
        if named.tag is not None:
            raise InvalidRequest(
                "bad_reference",
                f"{named} names a tag; what is deleted is a version or a whole model",
                f"delete {named.name}@<version>, or {named.name}",
            )
        going: tuple[str, ...] = ()
        whole = named.version is None and named.digest is None
        if whole:
            model = self._gate.records.model(named)
            asked = self._gate.authorise(who, "delete", model.resource())
            number = None
        else:
            version = self._gate.version(who, named)
            asked = self._gate.authorise(who, "delete", version.resource())
            number = version.manifest.version
            going = self._tags_of(version, tags)
            if going:  # to take a tag away changes what it means to its readers, as moving it does
                self._gate.authorise(who, "tag", version.resource())
        told = entry(asked, "done", tags=" ".join(going)) if going else entry(asked, "done")
        self._parts.ledger.hide(named.tenant, named.model, number, who.now, told, going)

    def _tags_of(self, version: KnownVersion, named: Collection[str]) -> tuple[str, ...]:
        """Which of the tags that a caller names are the version's: the audit log tells of these,
        and not of whatever anybody says."""
        manifest = version.manifest
        tags = self._parts.ledger.tags(manifest.tenant, manifest.model)
        wanted = set(named)
        return tuple(
            sorted(tag.tag for tag in tags if tag.version == manifest.version and tag.tag in wanted)
        )

    def _means(self, tag: TagRow, version: KnownVersion) -> bool:
        record = self._gate.records.tag_record(tag)
        return (record.version, record.manifest) == (version.row.version, version.row.digest)

    def _signed(self, version: KnownVersion, tag: TagRow) -> SignedVersion:
        return SignedVersion(
            model=version.model.row.record, manifest=version.row.manifest, tag=tag.record
        )

    def _check_new(self, named: Reference) -> None:
        with suppress(NotFound):
            row = self._parts.ledger.model(named.tenant, named.model)
            if row.hidden_at is not None:
                raise Conflict(
                    "model_exists",
                    f"the model {named.name} was deleted, and its name isn't given again",
                    "choose another name: `modelvault gc` removes its versions, not the name",
                )
            raise Conflict(
                "model_exists",
                f"there is a model {named.name} already",
                "choose another name, or push to the model that is there",
            )

    def _tag(self, target: Reference) -> TagRow | None:
        with suppress(NotFound):
            return self._parts.ledger.tag(target.tenant, target.model, str(target.tag))
        return None

    def _record(
        self, named: Reference, *, owner: str, classification: str, serial: int, created_at: str
    ) -> ModelRecord:
        check_texts(owner)
        document = {
            "schema": 1,
            "vault": self._parts.vault,
            "tenant": named.tenant,
            "model": named.model,
            "owner": owner,
            "classification": classification,
            "serial": serial,
            "created_at": created_at,
        }
        return canonical.convert(document, ModelRecord, what="model record", error=InvalidRequest)

    def _tag_record(self, version: KnownVersion, tag: str, serial: int) -> TagRecord:
        return TagRecord(
            vault=self._parts.vault,
            tenant=version.manifest.tenant,
            model=version.manifest.model,
            tag=tag,
            version=version.manifest.version,
            manifest=version.row.digest,
            serial=serial,
        )

    def _sign(self, payload_type: str, record: ModelRecord | TagRecord) -> Envelope:
        return dsse.sign(
            payload_type, canonical.encode(record), partial(self._parts.signer.sign, "record")
        )


def bare(text: str, *, tagged: bool = False) -> Reference:
    """A reference of a model alone, or of a tag. Raises InvalidRequest (`bad_reference`)."""
    reference = Reference.parse(text)
    plain = reference.version is None and reference.digest is None
    if not plain or (reference.tag is not None) != tagged:
        raise InvalidRequest(
            "bad_reference", f"{text[:80]!r} isn't a model's name", "write [tenant/]name"
        )
    return reference
