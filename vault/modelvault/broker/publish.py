"""A push, the broker's half: open a version, then commit it.

Weights never pass through here and the DEK never leaves. What is asked of the client is believed
only where it can be checked; model, version, previous, creator and times are the ledger's word.
"""

from __future__ import annotations

from modelvault.access import Caller
from modelvault.broker import composing
from modelvault.broker.asked import Authorised, Who, entry, new_id
from modelvault.broker.comparing import Comparer
from modelvault.broker.contentkey import content_key, ensure_content_key
from modelvault.broker.draft import check_declared, check_draft
from modelvault.broker.gate import Gate
from modelvault.broker.keycopy import deposit
from modelvault.broker.opened import answer, check_open, check_push, own_upload, wanted
from modelvault.broker.parts import Parts
from modelvault.broker.sealing import check_recipient
from modelvault.broker.uploaded import check_uploaded
from modelvault.broker.verified import KnownModel
from modelvault.catalog import KeyRow, UploadRow
from modelvault.clock import to_text
from modelvault.crypto import derive
from modelvault.crypto.floe import Geometry
from modelvault.crypto.secret import Secret
from modelvault.errors import AccessDenied, Conflict, IntegrityError, InvalidRequest
from modelvault.identity.binding import key_hash
from modelvault.manifest import FileEntry
from modelvault.record import Entry
from modelvault.reference import Reference
from modelvault.upload import Draft, DraftFile, Published, PushAsk, Upload

_KEY_TRIES = 4
_HEAD_TRIES = 64


class Publisher:
    """`open_version`, `commit` and `abandon` of ports.broker.Broker. Thread-safe."""

    def __init__(self, parts: Parts, gate: Gate, comparer: Comparer) -> None:
        self._parts = parts
        self._gate = gate
        self._comparer = comparer
        self._geometry = Geometry(parts.segment_length)

    def open_version(self, caller: Caller, ask: PushAsk) -> Upload:
        """Keys for a version that is about to be uploaded."""
        hashed = key_hash(ask.recipient.suite, ask.recipient.public_key)
        who = self._gate.authenticate(caller, "push", hashed)
        reference = pushable(ask.reference)
        check_declared(ask.files, self._geometry, self._parts.terms)
        check_recipient(ask.recipient)
        model = self._gate.records.model(reference)
        paths = tuple(file.path for file in ask.files)
        wanted(ask, paths)
        sizes = tuple(file.size for file in ask.files)
        asked = self._gate.authorise(who, "push", model.resource(paths, sum(sizes)))
        if reference.tag is not None:  # a refusal should come before the upload, not after it
            self._gate.authorise(who, "tag", model.resource(created_by=who.principal.id))
        tries = _KEY_TRIES
        while True:
            tries -= 1
            try:
                return self._open(asked, model, ask, self._row(who, model, ask, hashed))
            except Conflict as lost:
                # A rotation came between: that DEK is under a retiring KEK. Take a fresh one.
                if lost.code != "kek_moved" or not tries:
                    raise

    def commit(self, caller: Caller, upload: str, draft: Draft) -> Published:
        """Check what was uploaded and publish it."""
        who, row = own_upload(self._parts, self._gate, caller, "push", upload)
        check_push(row)
        model = self._gate.records.model(Reference(row.tenant, row.model))
        asked = self._gate.authorise(who, "push", model.resource(row.paths, sum(row.sizes)))
        if row.state == "published":
            return composing.published(model, *self._parts.ledger.published(upload))
        check_open(row, who)
        files = self._checked(who, model, row, draft)
        fingerprints = self._fingerprints(row, draft)
        deposit(self._parts, self._parts.ledger.key(row.artifact))
        return self._publish(asked, row, draft, files, fingerprints)

    def abandon(self, caller: Caller, upload: str) -> None:
        """Give up an upload of the caller's own."""
        who, row = own_upload(self._parts, self._gate, caller, "abandon", upload)
        self._parts.ledger.abort(row.id)  # from here on no commit can win
        told = Entry(
            id=new_id(),
            at=to_text(who.now),
            actor=who.principal.id,
            action="abandon",
            outcome="done",
            tenant=row.tenant,
            model=row.model,
            details={"upload": row.id},
        )
        self._parts.ledger.drop_upload(row.id, told)

    def _row(self, who: Who, model: KnownModel, ask: PushAsk, hashed: str) -> UploadRow:
        return UploadRow(
            id=new_id(),
            tenant=model.record.tenant,
            model=model.record.model,
            artifact=new_id(),
            subject=who.principal.id,
            paths=tuple(file.path for file in ask.files),
            sizes=tuple(file.size for file in ask.files),
            recipient=hashed,
            created_at=who.now,
            expires_at=who.now + self._parts.terms.upload_ttl_s * 1000,
            base=self._comparer.base(who, model),
        )

    def _open(self, asked: Authorised, model: KnownModel, ask: PushAsk, row: UploadRow) -> Upload:
        ensure_content_key(self._parts, asked, row.tenant, row.model)
        candidates = self._comparer.candidates(asked.who, model, row)
        with content_key(self._parts, row.tenant, row.model) as content:
            return self._begin(asked, ask, row, content, candidates)

    def _begin(
        self,
        asked: Authorised,
        ask: PushAsk,
        row: UploadRow,
        content: Secret,
        candidates: tuple[str, ...],
    ) -> Upload:
        parts = self._parts
        kek = parts.kek(row.tenant, row.model)
        dek, wrapped = parts.keys.data_key(
            kek, parts.key_context(row.tenant, row.model, row.artifact)
        )
        try:
            key = KeyRow(
                artifact=row.artifact,
                tenant=row.tenant,
                model=row.model,
                wrapped=wrapped.wrapped,
                kek_version=wrapped.kek_version,
            )
            told = entry(
                asked, "allowed", upload=row.id, files=len(row.paths), bytes=sum(row.sizes)
            )
            try:
                until = parts.terms.counted_until(row.created_at)
                parts.ledger.begin(row, key, parts.terms.max_open_uploads, told, until=until)
            except AccessDenied as stopped:
                raise self._gate.limited(asked, stopped) from None
            return answer(parts, row, dek, content, candidates, ask)
        finally:
            dek.wipe()

    def _checked(
        self, who: Who, model: KnownModel, row: UploadRow, draft: Draft
    ) -> tuple[FileEntry, ...]:
        """The manifest's entries, once the draft and the objects have been checked."""
        parts = self._parts
        check_draft(draft, row, parts.digest_alg, parts.terms)
        names = [name for file in draft.files for name in (file.object, file.leaves)]
        if parts.ledger.objects_in_use(names):
            raise InvalidRequest(
                "objects_in_use",
                "the draft names an object that belongs to a version already",
                "push again: each file needs objects of its own",
            )
        files = tuple(self._file(row, file) for file in draft.files)
        check_uploaded(parts.objects, files, parts.digest_alg, parts.terms)
        unchanged = self._unchanged(who, model, row, draft)
        return tuple(sorted((*files, *unchanged), key=lambda file: file.path))

    def _unchanged(
        self, who: Who, model: KnownModel, row: UploadRow, draft: Draft
    ) -> tuple[FileEntry, ...]:
        """The earlier entries of the files that the draft tells to be unchanged: of all that it
        says only the tags count, and each must be the right one."""
        parts = self._parts
        same = self._comparer.unchanged(who, model, row, draft.unchanged)
        if len(same) != len(draft.unchanged):
            raise InvalidRequest(
                "not_unchanged",
                f"{len(draft.unchanged) - len(same)} files aren't as in the version that this push "
                "is compared with, or it was deleted or revoked meanwhile",
                "push again",
            )
        try:
            check_uploaded(parts.objects, same, parts.digest_alg, parts.terms)
        except (InvalidRequest, IntegrityError) as damaged:
            raise IntegrityError(
                "earlier_damaged",
                f"an unchanged file, as the store has it from an earlier push: {damaged.message}",
                "push again with --upload-all (upload_all=True), which takes nothing from earlier "
                "versions; and tell whoever runs the vault that its store is damaged",
            ) from None
        return same

    def _fingerprints(self, row: UploadRow, draft: Draft) -> tuple[tuple[str, bytes], ...]:
        """By what the next push of this identity finds these files unchanged."""
        if not draft.files:
            return ()
        with content_key(self._parts, row.tenant, row.model) as content:
            return tuple(
                (
                    file.path,
                    derive.fingerprint(content, row.artifact, file.path, file.digest, file.content),
                )
                for file in draft.files
            )

    def _file(self, row: UploadRow, file: DraftFile) -> FileEntry:
        return FileEntry(
            path=file.path,
            size=file.size,
            segment_length=self._parts.segment_length,
            artifact=row.artifact,
            object=file.object,
            leaves=file.leaves,
            digest=file.digest,
        )

    def _publish(
        self,
        asked: Authorised,
        row: UploadRow,
        draft: Draft,
        files: tuple[FileEntry, ...],
        fingerprints: tuple[tuple[str, bytes], ...],
    ) -> Published:
        """Compose, sign, compare-and-swap; again on a new head when somebody else was first."""
        ledger = self._parts.ledger
        reference = Reference(row.tenant, row.model)
        for _ in range(_HEAD_TRIES):
            model = self._gate.records.model(reference)
            manifest = composing.compose(self._parts, asked, model, row, draft, files)
            version = composing.sign(self._parts, manifest, asked.now)
            told = entry(
                asked,
                "done",
                version=manifest.version,
                upload=row.id,
                manifest=version.digest,
                files=version.files,
                bytes=version.size,
                unchanged=len(draft.unchanged),
            )
            try:
                stands = ledger.publish(
                    row.id, version, model.row.head_manifest, told, fingerprints
                )
            except Conflict as lost:
                if lost.code == "head_moved":
                    continue
                if lost.code == "upload_closed" and self._state(row) == "published":
                    return composing.published(model, *ledger.published(row.id))
                raise
            return composing.published(model, version, stands)
        raise Conflict(
            "head_moved",
            f"{reference.name} got {_HEAD_TRIES} other versions meanwhile",
            "commit again",
        )

    def _state(self, row: UploadRow) -> str:
        return self._parts.ledger.upload(row.id).state


def pushable(text: str) -> Reference:
    """A model, maybe with a tag. Raises InvalidRequest (`bad_reference`) for a version."""
    reference = Reference.parse(text)
    if reference.version is not None or reference.digest is not None:
        raise InvalidRequest(
            "bad_reference",
            f"{reference} names a version; the vault numbers versions itself",
            f"push to {reference.name} or {reference.name}:<tag>",
        )
    return reference
