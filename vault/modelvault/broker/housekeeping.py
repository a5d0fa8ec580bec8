"""`gc`: what nobody can need any more goes, and nothing else.

Rows first, objects after: an object that no row names is found again by the next run, whenever
this one stops. An object is dead when no version names it and it is older than every upload that
may still be committed, with a margin for clocks that differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from modelvault.access import Caller
from modelvault.broker import keycopy
from modelvault.broker.asked import Authorised, entry, whole_vault
from modelvault.broker.gate import Gate
from modelvault.broker.parts import Parts
from modelvault.broker.terms import NEVER_MS
from modelvault.catalog import UploadRow, VersionRow
from modelvault.errors import Conflict, NotFound
from modelvault.lease import Swept
from modelvault.manifest import Manifest
from modelvault.ports.objects import ObjectInfo

_BATCH = 500
_ROWS = 1000
_MANY = 10_000
_OBJECTS = "objects/"


class Dead(msgspec.Struct, frozen=True):
    """Uploads whose rows go, and the objects and artifacts that no other row names."""

    uploads: frozenset[str] = frozenset()
    objects: frozenset[str] = frozenset()
    artifacts: frozenset[str] = frozenset()


class Housekeeper:
    """`gc` of ports.broker.Steward. Thread-safe; two at once do no harm."""

    def __init__(self, parts: Parts, gate: Gate) -> None:
        self._ledger = parts.ledger
        self._objects = parts.objects
        self._terms = parts.terms
        self._gate = gate

    def gc(self, caller: Caller, *, dry_run: bool) -> Swept:
        """Remove dead uploads, versions hidden long enough, and objects that nothing names.

        At most 1,000 uploads and versions at a time; run it again while it removes any.
        """
        who = self._gate.authenticate(caller, "gc", None)
        asked = self._gate.authorise(who, "gc", whole_vault())
        uploads = tuple(self._ledger.dead_uploads(who.now, limit=_ROWS))
        versions = tuple(row for row in self._hidden(who.now) if not self._runs(row, who.now))
        if dry_run:
            doomed = list(self._doomed(who.now, self._dead(uploads, versions)))
            return _swept(len(uploads), len(versions), doomed)
        dropped = sum(self._drop_upload(asked, row) for row in uploads)
        for row in versions:
            told = entry(asked, "done", version=row.version, step="version", of=_name(row))
            self._ledger.drop_version(row.tenant, row.model, row.version, told)
        return self._sweep(asked, dropped, len(versions))

    def _hidden(self, now: int) -> Iterable[VersionRow]:
        before = now - self._terms.delete_grace_s * 1000
        return self._ledger.dead_versions(before, limit=_ROWS)

    def _runs(self, row: VersionRow, now: int) -> bool:
        """Whether a lease may still read the version: one that runs, or did a moment ago and is
        in its grace. With more leases than can be looked through, it may."""
        lately = now - self._terms.clock_margin_s * 1000
        leases = self._ledger.leases(
            tenant=row.tenant, model=row.model, running_at=lately, limit=_MANY
        )
        return len(leases) == _MANY or any(lease.version == row.version for lease in leases)

    def _drop_upload(self, asked: Authorised, row: UploadRow) -> bool:
        try:
            self._ledger.abort(row.id)  # from here on no commit can win
            told = entry(asked, "done", step="upload", upload=row.id, of=_name(row))
            self._ledger.drop_upload(row.id, told)
        except Conflict:  # published at the last moment
            return False
        return True

    def _sweep(self, asked: Authorised, uploads: int, versions: int) -> Swept:
        now = asked.now
        removed: list[ObjectInfo] = []
        for info in self._doomed(now, Dead()):
            self._objects.delete(info.name)
            removed.append(info)
        self._objects.sweep(self._cutoff(now, Dead()))
        swept = _swept(uploads, versions, removed)
        told = entry(
            asked,
            "done",
            step="sweep",
            uploads=swept.uploads,
            versions=swept.versions,
            objects=swept.objects,
            bytes=swept.bytes,
        )
        self._ledger.append(told)
        return swept

    def _doomed(self, now: int, dead: Dead) -> Iterator[ObjectInfo]:
        """The objects that nothing needs, once the rows of `dead` are gone."""
        cutoff = self._cutoff(now, dead)
        listed = (info for info in self._objects.list(_OBJECTS) if info.modified < cutoff)
        while batch := list(islice(listed, _BATCH)):
            used = self._ledger.objects_in_use([info.name for info in batch])
            yield from (
                info for info in batch if info.name not in used or info.name in dead.objects
            )
        for info in self._objects.list(keycopy.PREFIX):
            if self._is_spare_copy(info, cutoff, dead):
                yield info

    def _is_spare_copy(self, info: ObjectInfo, cutoff: int, dead: Dead) -> bool:
        named = keycopy.parse_name(info.name)
        if named is None:
            return False
        artifact, kek_version = named
        try:
            row = self._ledger.key(artifact)
        except NotFound:
            return info.modified < cutoff
        # A row is swapped only after its new copy was put: the older one has had its day.
        return artifact in dead.artifacts or kek_version < row.kek_version

    def _cutoff(self, now: int, dead: Dead) -> int:
        """What was put before this and has no row can't be part of an upload that still may be
        committed. 0 (nothing) when there are more open uploads than can be looked through."""
        pending = self._ledger.dead_uploads(NEVER_MS, limit=_MANY)
        if len(pending) == _MANY:
            return 0
        begun = [row.created_at for row in pending if row.id not in dead.uploads]
        oldest = min([now - self._terms.upload_ttl_s * 1000, *begun])
        return oldest - self._terms.clock_margin_s * 1000

    def _dead(self, uploads: Iterable[UploadRow], versions: Iterable[VersionRow]) -> Dead:
        """What goes with these rows: all that they name, less what a version that stays names."""
        gone = {(row.tenant, row.model, row.version) for row in versions}
        going: set[str] = set()
        staying: set[str] = set()
        for tenant, model in {(tenant, model) for tenant, model, _ in gone}:
            for row in self._ledger.versions(tenant, model):
                named = going if (tenant, model, row.version) in gone else staying
                named.update(_names(row))
        only = frozenset(going - staying)
        artifacts = only | {row.artifact for row in uploads}
        return Dead(frozenset(row.id for row in uploads), only, frozenset(artifacts))


def _names(row: VersionRow) -> Iterator[str]:
    """The objects and artifacts of a version; no name of one kind looks like the other's."""
    yield row.artifact  # maybe of no file, where all are unchanged
    for file in Manifest.from_bytes(row.manifest.payload).files:
        yield from (file.object, file.leaves, file.artifact)


def _name(row: UploadRow | VersionRow) -> str:
    return f"{row.tenant}/{row.model}"


def _swept(uploads: int, versions: int, objects: Iterable[ObjectInfo]) -> Swept:
    sizes = [info.size for info in objects]
    return Swept(uploads=uploads, versions=versions, objects=len(sizes), bytes=sum(sizes))
