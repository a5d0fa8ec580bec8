"""A version that was made in another vault, taken in: the ciphertext as it is, its keys wrapped
anew, its manifest composed and signed by this vault.

What stands in the giver's manifest is believed by the giver's pinned trust file, and by nothing
that the client says. The recipient key is derived from a data key that only the key service
unwraps: any broker of the vault can open what was sealed to it, and no broker keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from modelvault.access import Caller, Resource
from modelvault.artifact.trust import Verified
from modelvault.broker import composing, imported, received
from modelvault.broker.asked import Authorised, entry, new_id
from modelvault.broker.gate import Gate
from modelvault.broker.opened import IMPORT, check_import, check_open, own_upload
from modelvault.broker.parts import Parts
from modelvault.broker.publish import pushable
from modelvault.broker.trusted import verified_source
from modelvault.broker.uploaded import check_uploaded
from modelvault.broker.verified import KnownModel
from modelvault.catalog import KeyRow, UploadRow
from modelvault.clock import to_text
from modelvault.copies import ImportAsk, ImportDraft, Importing
from modelvault.crypto.secret import Secret
from modelvault.errors import AccessDenied, Conflict, InvalidRequest, NotFound
from modelvault.identity.binding import key_hash
from modelvault.manifest import FileEntry, Manifest
from modelvault.reference import Reference
from modelvault.upload import Published

_TRIES = 4
_HEAD_TRIES = 64


class Importer:
    """`open_import` and `commit_import` of ports.broker.Broker. Thread-safe."""

    def __init__(self, parts: Parts, gate: Gate) -> None:
        self._parts = parts
        self._gate = gate

    def open_import(self, caller: Caller, ask: ImportAsk) -> Importing:
        """A pending upload, and this vault's word for the key that its keys may be sealed to."""
        who = self._gate.authenticate(caller, "push", None)
        reference = pushable(ask.reference)
        source = None if ask.source is None else verified_source(self._parts, who, ask.source)
        model = self._gate.records.model(reference)
        asked = self._gate.authorise(who, "push", _resource(model, source))
        if reference.tag is not None:  # a refusal should come before the upload, not after it
            self._gate.authorise(who, "tag", model.resource(created_by=who.principal.id))
        if source is not None:
            self._check_taken(model, source.manifest)
        for last in (False,) * (_TRIES - 1) + (True,):
            try:
                return self._open(asked, model, source)
            except Conflict as lost:
                if lost.code != "kek_moved" or last:
                    raise
        raise AssertionError  # the last try returns or raises

    def commit_import(self, caller: Caller, upload: str, draft: ImportDraft) -> Published:
        """Open the keys, wrap them anew, check the objects, publish."""
        who, row = own_upload(self._parts, self._gate, caller, "push", upload)
        check_import(row)
        source = verified_source(self._parts, who, draft.source)
        model = self._gate.records.model(Reference(row.tenant, row.model))
        asked = self._gate.authorise(who, "push", _resource(model, source))
        if row.state == "published":
            return composing.published(model, *self._parts.ledger.published(upload))
        check_open(row, who)
        imported.check_declared(row, source.manifest)
        imported.check_artifacts(self._parts.vault, row.tenant, row.model, source.manifest)
        self._check_taken(model, source.manifest)
        files = self._checked(source.manifest, draft)
        parts = self._parts
        with received.opened(parts, row, source, draft.sealed) as deks:
            return self._publish(asked, row, source, files, deks)

    def _open(self, asked: Authorised, model: KnownModel, source: Verified | None) -> Importing:
        parts, terms = self._parts, self._parts.terms
        ttl_s = terms.carried_ttl_s if source is None else terms.upload_ttl_s
        files = () if source is None else source.manifest.files
        upload, transport = new_id(), new_id()
        tenant, name = model.record.tenant, model.record.model
        dek, wrapped = parts.keys.data_key(
            parts.kek(tenant, name), parts.key_context(tenant, name, transport)
        )
        with dek, imported.invited(parts.vault, upload, tenant, name, dek) as invited:
            recipient = invited.recipient
            row = UploadRow(
                id=upload,
                tenant=tenant,
                model=name,
                artifact=transport,
                subject=asked.principal.id,
                paths=tuple(file.path for file in files),
                sizes=tuple(file.size for file in files),
                recipient=IMPORT + key_hash(recipient.suite, recipient.public_key),
                created_at=asked.now,
                expires_at=asked.now + ttl_s * 1000,
            )
            key = KeyRow(
                artifact=transport,
                tenant=tenant,
                model=name,
                wrapped=wrapped.wrapped,
                kek_version=wrapped.kek_version,
            )
            told = entry(
                asked,
                "allowed",
                upload=upload,
                step="import",
                bytes=sum(row.sizes),
                from_vault=None if source is None else source.manifest.vault,
                from_manifest=None if source is None else source.digest,
            )
            try:
                until = terms.counted_until(row.created_at)
                parts.ledger.begin(row, key, terms.max_open_uploads, told, until=until)
            except AccessDenied as stopped:
                raise self._gate.limited(asked, stopped) from None
            expires_at = to_text(row.expires_at)
            return Importing(
                id=upload,
                tenant=tenant,
                model=name,
                expires_at=expires_at,
                invitation=imported.sign(parts, invited.invitation(expires_at)),
            )

    def _check_taken(self, model: KnownModel, manifest: Manifest) -> None:
        """That this vault may take it, and hasn't yet.

        Raises InvalidRequest (`wrong_digest_alg`), Conflict (`already_copied`, with `version` in
        its details; `artifact_here`).
        """
        if self._parts.digest_alg == "sha256" != manifest.digest_alg:
            raise InvalidRequest(
                "wrong_digest_alg",
                f"this vault hashes with sha256 alone, and that version with {manifest.digest_alg}",
                "load it there and push its files here",
            )
        ledger = self._parts.ledger
        homes = {(model.record.tenant, model.record.model)}
        # A version all of whose files are earlier ones' has no key of its own here.
        for artifact in {manifest.artifact, *(file.artifact for file in manifest.files)}:
            with suppress(NotFound):
                key = ledger.key(artifact)
                homes.add((key.tenant, key.model))
        for home in homes:
            for row in ledger.versions(*home):
                if row.artifact == manifest.artifact:
                    raise _here(model, row.tenant, row.model, row.version, row.hidden_at)

    def _checked(self, manifest: Manifest, draft: ImportDraft) -> tuple[FileEntry, ...]:
        """The giver's entries under this vault's objects, once those have been checked."""
        files = imported.entries(manifest, draft.files)
        names = [name for file in files for name in (file.object, file.leaves)]
        if len(set(names)) != len(names) or self._parts.ledger.objects_in_use(names):
            raise InvalidRequest(
                "objects_in_use",
                "an object is named twice, or belongs to a version already",
                "copy again: each file needs objects of its own",
            )
        check_uploaded(self._parts.objects, files, manifest.digest_alg, self._parts.terms)
        return files

    def _publish(
        self,
        asked: Authorised,
        row: UploadRow,
        source: Verified,
        files: Sequence[FileEntry],
        deks: Mapping[str, Secret],
    ) -> Published:
        """Wrap, compose, sign, compare-and-swap; again on a new head or a new KEK version."""
        parts = self._parts
        for _ in range(_HEAD_TRIES):
            model = self._gate.records.model(Reference(row.tenant, row.model))
            keys = [received.wrapped(parts, row, artifact, dek) for artifact, dek in deks.items()]
            manifest = imported.compose(parts, asked, model, source, files)
            version = composing.sign(parts, manifest, asked.now)
            told = entry(
                asked,
                "done",
                version=manifest.version,
                upload=row.id,
                step="import",
                manifest=version.digest,
                files=version.files,
                bytes=version.size,
                from_vault=source.manifest.vault,
                from_version=source.manifest.version,
                from_model=f"{source.manifest.tenant}/{source.manifest.model}",
                from_manifest=source.digest,
                from_classification=source.model.classification,
            )
            try:
                stands = parts.ledger.take_in(row.id, version, keys, model.row.head_manifest, told)
            except Conflict as lost:
                if lost.code in {"head_moved", "kek_moved"}:
                    continue
                if (
                    lost.code == "upload_closed"
                    and parts.ledger.upload(row.id).state == "published"
                ):
                    return composing.published(model, *parts.ledger.published(row.id))
                raise
            return composing.published(model, version, stands)
        raise Conflict(
            "head_moved", f"{row.tenant}/{row.model} changed {_HEAD_TRIES} times meanwhile",
            "commit again",
        )  # fmt: skip


def _resource(model: KnownModel, source: Verified | None) -> Resource:
    if source is None:
        return model.resource()
    manifest = source.manifest
    return msgspec.structs.replace(
        model.resource([file.path for file in manifest.files], manifest.size),
        labels=dict(manifest.labels),
        pickles=manifest.hints.pickles,
        formats=manifest.hints.formats,
    )


def _here(
    model: KnownModel, tenant: str, name: str, version: int, hidden_at: int | None
) -> Conflict:
    where = f"{tenant}/{name}@{version}"
    if (tenant, name) != (model.record.tenant, model.record.model):
        return received.artifact_here()
    if hidden_at is not None:
        return Conflict(
            "artifact_here",
            f"{where} is that version, and was deleted",
            "`modelvault gc` removes it when its grace is over; then copy again",
        )
    return Conflict(
        "already_copied", f"{where} is that version", "nothing is left to do", version=version
    )
