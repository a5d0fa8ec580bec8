"""Files that need not be uploaded again, since a version holds them already.

A file is compared with the newest version that the same identity pushed, never with another's.
The content tag is the pusher's word, and nobody can check it without reading the weights: whoever
puts one file under the tag of another deceives nobody but themself. For the same reason nobody
learns from an answer here whether somebody else's file is the one that they hold.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from contextlib import suppress

from modelvault.access import Caller
from modelvault.broker.asked import Who, entry
from modelvault.broker.contentkey import content_key
from modelvault.broker.gate import Gate
from modelvault.broker.opened import check_open, own_upload
from modelvault.broker.parts import Parts
from modelvault.broker.verified import KnownModel
from modelvault.catalog import UploadRow, VersionRow
from modelvault.crypto import derive
from modelvault.errors import InvalidRequest, NotFound
from modelvault.manifest import FileEntry
from modelvault.reference import Reference
from modelvault.upload import CompareAsk, Compared, TaggedFile


class Comparer:
    """`compare` of ports.broker.Broker, and what open and commit need of it. Thread-safe."""

    def __init__(self, parts: Parts, gate: Gate) -> None:
        self._parts = parts
        self._gate = gate

    def compare(self, caller: Caller, upload: str, ask: CompareAsk) -> Compared:
        """Which of the files are unchanged: the policy is asked anew, and the answer written down.

        Raises InvalidRequest (`not_as_declared`).
        """
        who, row = own_upload(self._parts, self._gate, caller, "push", upload)
        check_open(row, who)
        paths = [file.path for file in ask.files]
        if len(set(paths)) != len(paths) or not set(row.paths).issuperset(paths):
            raise InvalidRequest(
                "not_as_declared", "a file that wasn't declared, or one twice", "push again"
            )
        model = self._gate.records.model(Reference(row.tenant, row.model))
        asked = self._gate.authorise(who, "push", model.resource(row.paths, sum(row.sizes)))
        same = self.unchanged(who, model, row, ask.files)
        told = entry(
            asked, "allowed", upload=row.id, step="compare", files=len(paths), unchanged=len(same)
        )
        self._parts.ledger.append(told)
        return Compared(files=same)

    def base(self, who: Who, model: KnownModel) -> int | None:
        """The number of the version that this identity's push is compared with, if there is one."""
        with suppress(NotFound):
            row = self._parts.ledger.newest(
                model.record.tenant, model.record.model, who.principal.id
            )
            return row.version
        return None

    def candidates(self, who: Who, model: KnownModel, row: UploadRow) -> tuple[str, ...]:
        """The paths of an upload that may be unchanged."""
        return tuple(entry.path for entry, _ in self._comparable(who, model, row))

    def unchanged(
        self, who: Who, model: KnownModel, row: UploadRow, files: Sequence[TaggedFile]
    ) -> tuple[FileEntry, ...]:
        """The earlier entries, out of the signed manifest, of those files whose tag is theirs."""
        if not files:
            return ()
        known = {entry.path: (entry, kept) for entry, kept in self._comparable(who, model, row)}
        same = []
        with content_key(self._parts, row.tenant, row.model) as content:
            for file in files:
                if file.path not in known:
                    continue
                entry, kept = known[file.path]
                made = derive.fingerprint(
                    content, entry.artifact, entry.path, entry.digest, file.content
                )
                if hmac.compare_digest(made, kept):
                    same.append(entry)
        return tuple(same)

    def _comparable(
        self, who: Who, model: KnownModel, row: UploadRow
    ) -> list[tuple[FileEntry, bytes]]:
        """Entries of the version to compare with that have an upload's path and size, each with
        what the ledger keeps to recognise it by."""
        parts = self._parts
        base = self._base_row(who, row)
        if base is None:
            return []
        manifest = self._gate.records.verify(model, base).manifest
        if (manifest.created_by, manifest.digest_alg) != (row.subject, parts.digest_alg):
            return []
        declared = dict(zip(row.paths, row.sizes, strict=True))
        alike = [
            entry
            for entry in manifest.files
            if declared.get(entry.path) == entry.size
            and entry.segment_length == parts.segment_length
        ]
        kept = parts.ledger.fingerprints({entry.artifact for entry in alike})
        return [
            (entry, kept[entry.artifact, entry.path])
            for entry in alike
            if (entry.artifact, entry.path) in kept
        ]

    def _base_row(self, who: Who, row: UploadRow) -> VersionRow | None:
        """The version to compare with; None once it was deleted or revoked."""
        if row.base is None:
            return None
        try:
            base = self._parts.ledger.version(row.tenant, row.model, row.base)
        except NotFound:
            return None
        name = f"{row.tenant}/{row.model}@{row.base}"
        revoked = self._parts.ledger.revoked(subject="", version=name, at=who.now)
        return None if base.hidden_at is not None or revoked else base
