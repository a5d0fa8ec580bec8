"""`ports.ledger.Ledger` in plain dicts: the model that real ledgers are compared with."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from msgspec.structs import replace as but

from modelvault.catalog import (
    Admission,
    KeyRow,
    LeaseRow,
    Limits,
    ModelRow,
    Revocation,
    Standing,
    TagRow,
    UploadRow,
    VersionRow,
)
from modelvault.clock import Clock, to_text, utc_ms
from modelvault.errors import AccessDenied, Conflict, InvalidRequest, NotFound, Unavailable
from modelvault.manifest import Manifest
from modelvault.record import Entry

DAY = 86_400_000


@dataclass
class State:
    """Everything; each field is copied before a change, since rows themselves never change."""

    log: tuple[Entry, ...] = ()
    revision: str | None = None
    models: dict[tuple[str, str], ModelRow] = field(default_factory=dict)
    versions: dict[tuple[str, str, int], VersionRow] = field(default_factory=dict)
    tags: dict[tuple[str, str, str], TagRow] = field(default_factory=dict)
    keys: dict[str, KeyRow] = field(default_factory=dict)
    marks: dict[tuple[str, str], bytes] = field(default_factory=dict)
    uploads: dict[str, UploadRow] = field(default_factory=dict)
    became: dict[str, tuple[tuple[str, str, int], Entry]] = field(default_factory=dict)
    leases: dict[str, LeaseRow] = field(default_factory=dict)
    entry_of: dict[str, Entry] = field(default_factory=dict)
    charges: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    revocations: dict[str, Revocation] = field(default_factory=dict)
    counters: dict[tuple[str, int], int] = field(default_factory=dict)

    def copy(self) -> State:
        own = {name: value.copy() for name, value in vars(self).items() if isinstance(value, dict)}
        return replace(self, **own)


def page(limit: int) -> int:
    if not 1 <= limit <= 10_000:
        raise InvalidRequest("bad_limit", "")
    return limit


def manifest(row: VersionRow) -> Manifest:
    return Manifest.from_bytes(row.manifest.payload)


def runs(lease: LeaseRow, at: int) -> bool:
    return lease.ended_at is None and lease.expires_at > at


def name(row: LeaseRow) -> str:
    return f"{row.tenant}/{row.model}@{row.version}"


class PlainLedger:
    """One lock, one State; a change works on a copy that replaces it at the end."""

    def __init__(self, clock: Clock = utc_ms) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._state = State()

    def now(self) -> int:
        return self._clock()

    @contextmanager
    def _change(self) -> Iterator[State]:
        with self._lock:
            state = self._state.copy()
            yield state
            self._state = state

    @staticmethod
    def _log(state: State, entry: Entry) -> Entry:
        if any(other.id == entry.id for other in state.log):
            raise Conflict("already_recorded", "")
        placed = but(entry, seq=len(state.log) + 1)
        state.log += (placed,)
        return placed

    @staticmethod
    def _model(state: State, tenant: str, model: str) -> ModelRow:
        row = state.models.get((tenant, model))
        if row is None or row.hidden_at is not None:
            raise NotFound("no_model", "")
        return row

    # models, tags
    def create_model(self, row: ModelRow, entry: Entry) -> None:
        with self._change() as state:
            if (row.tenant, row.model) in state.models:
                raise Conflict("model_exists", "")
            state.models[row.tenant, row.model] = row
            self._log(state, entry)

    def model(self, tenant: str, model: str) -> ModelRow:
        if (tenant, model) not in self._state.models:
            raise NotFound("no_model", "")
        return self._state.models[tenant, model]

    def models(self, tenant: str, *, after: str = "", limit: int = 100) -> Sequence[ModelRow]:
        found = [
            row
            for (home, model), row in sorted(self._state.models.items())
            if home == tenant and model > after and row.hidden_at is None
        ]
        return found[: page(limit)]

    def update_record(self, row: ModelRow, expected_serial: int, entry: Entry) -> None:
        with self._change() as state:
            old = self._model(state, row.tenant, row.model)
            if old.serial != expected_serial or row.serial != expected_serial + 1:
                raise Conflict("serial_moved", "")
            state.models[row.tenant, row.model] = but(
                old,
                owner=row.owner,
                classification=row.classification,
                serial=row.serial,
                record=row.record,
            )
            self._log(state, entry)

    def tag(self, tenant: str, model: str, tag: str) -> TagRow:
        if (tenant, model, tag) not in self._state.tags:
            raise NotFound("no_tag", "")
        return self._state.tags[tenant, model, tag]

    def tags(self, tenant: str, model: str) -> Sequence[TagRow]:
        items = sorted(self._state.tags.items())
        return [row for place, row in items if place[:2] == (tenant, model)]

    def put_tag(self, row: TagRow, expected_serial: int, entry: Entry) -> None:
        with self._change() as state:
            version = state.versions.get((row.tenant, row.model, row.version))
            if version is None or version.hidden_at is not None:
                raise NotFound("no_version", "")
            place = row.tenant, row.model, row.tag
            floor = state.models[row.tenant, row.model].tag_floor
            old = state.tags[place].serial if place in state.tags else floor
            if old != expected_serial or row.serial != expected_serial + 1:
                raise Conflict("serial_moved", "")
            state.tags[place] = row
            self._log(state, entry)

    # uploads, versions
    def begin(
        self,
        upload: UploadRow,
        key: KeyRow,
        max_open: int,
        entry: Entry,
        *,
        until: int | None = None,
    ) -> None:
        if (upload.tenant, upload.model, upload.artifact) != (key.tenant, key.model, key.artifact):
            raise InvalidRequest("bad_upload", "")
        with self._change() as state:
            model = self._model(state, upload.tenant, upload.model)
            if key.kek_version < model.kek_floor:
                raise Conflict("kek_moved", "")
            from_then = upload.created_at if until is None else until
            ends = [
                row.expires_at
                for row in state.uploads.values()
                if row.subject == upload.subject
                and row.state == "open"
                and row.expires_at > from_then
            ]
            if len(ends) >= max_open:
                passed = upload.created_at - from_then
                soonest = to_text(min(ends) + passed) if ends else None
                raise AccessDenied(
                    "too_many_uploads", "", limit=max_open, used=len(ends), resets_at=soonest
                )
            if upload.id in state.uploads or key.artifact in state.keys:
                raise Conflict("already_recorded", "")
            state.uploads[upload.id] = upload
            state.keys[key.artifact] = key
            self._log(state, entry)

    def upload(self, upload: str) -> UploadRow:
        if upload not in self._state.uploads:
            raise NotFound("no_upload", "")
        return self._state.uploads[upload]

    def prolong(self, upload: str, expires_at: int) -> None:
        with self._change() as state:
            row = state.uploads.get(upload)
            if row is None or row.state != "open" or row.expires_at <= self.now():
                raise NotFound("no_upload", "")
            state.uploads[upload] = but(row, expires_at=max(expires_at, row.expires_at))

    def resume(self, upload: str, recipient: str, expires_at: int, entry: Entry) -> UploadRow:
        self.prolong(upload, expires_at)
        with self._change() as state:
            state.uploads[upload] = but(state.uploads[upload], recipient=recipient)
            self._log(state, entry)
            return state.uploads[upload]

    def join(
        self, upload: str, recipient: str, most: int, expires_at: int, entry: Entry
    ) -> UploadRow:
        self.prolong(upload, expires_at)
        with self._change() as state:
            row = state.uploads[upload]
            known = recipient in row.recipients
            if not known and len(row.recipients) >= most:
                raise Conflict("too_many_ranks", "too many")
            joined = row.recipient if known else f"{row.recipient} {recipient}"
            state.uploads[upload] = but(row, recipient=joined)
            self._log(state, entry)
            return state.uploads[upload]

    def publish(
        self,
        upload: str,
        row: VersionRow,
        expected_head: str | None,
        entry: Entry,
        fingerprints: Sequence[tuple[str, bytes]] = (),
    ) -> Entry:
        self._check_row(row, expected_head)
        files = manifest(row).files
        own = {file.path for file in files if file.artifact == row.artifact}
        if not own.issuperset(path for path, _ in fingerprints):
            raise InvalidRequest("bad_version", "")
        with self._change() as state:
            sent = self._open_upload(state, upload, row)
            if sent.artifact != row.artifact:
                raise NotFound("no_upload", "")
            there = {
                (one, file.artifact)
                for other in state.versions.values()
                if (other.tenant, other.model) == (row.tenant, row.model)
                for file in manifest(other).files
                for one in (file.object, file.leaves)
            }
            if any(
                (one, file.artifact) not in there
                for file in files
                if file.artifact != row.artifact
                for one in (file.object, file.leaves)
            ):
                raise Conflict("earlier_gone", "")
            written = self._raise_head(state, upload, row, expected_head, entry)
            state.marks |= {(row.artifact, path): mark for path, mark in fingerprints}
            return written

    def take_in(
        self,
        upload: str,
        row: VersionRow,
        keys: Sequence[KeyRow],
        expected_head: str | None,
        entry: Entry,
    ) -> Entry:
        self._check_row(row, expected_head)
        wanted = {(file.artifact, row.tenant, row.model) for file in manifest(row).files}
        if sorted((k.artifact, k.tenant, k.model) for k in keys) != sorted(wanted):
            raise InvalidRequest("bad_version", "")
        with self._change() as state:
            sent = self._open_upload(state, upload, row)
            floor = self._model(state, row.tenant, row.model).kek_floor
            if any(key.kek_version < floor for key in keys):
                raise Conflict("kek_moved", "")
            if any(other.artifact == row.artifact for other in state.versions.values()):
                raise Conflict("artifact_here", "")
            for key in keys:
                stands = state.keys.setdefault(key.artifact, key)
                if (stands.tenant, stands.model) != (key.tenant, key.model):
                    raise Conflict("artifact_here", "")
            state.keys.pop(sent.artifact, None)
            state.uploads[upload] = but(sent, artifact=row.artifact)
            return self._raise_head(state, upload, row, expected_head, entry)

    @staticmethod
    def _check_row(row: VersionRow, expected_head: str | None) -> None:
        signed = manifest(row)
        if (signed.version, signed.previous, signed.size, row.manifest.digest) != (
            row.version, expected_head, row.size, row.digest,
        ):  # fmt: skip
            raise InvalidRequest("bad_version", "")

    def _open_upload(self, state: State, upload: str, row: VersionRow) -> UploadRow:
        sent = state.uploads.get(upload)
        owned = row.tenant, row.model, row.created_by
        if sent is None or (sent.tenant, sent.model, sent.subject) != owned:
            raise NotFound("no_upload", "")
        if sent.state != "open" or sent.expires_at <= self.now():
            raise Conflict("upload_closed", "")
        return sent

    def _raise_head(
        self, state: State, upload: str, row: VersionRow, expected_head: str | None, entry: Entry
    ) -> Entry:
        model = self._model(state, row.tenant, row.model)
        if model.head_manifest != expected_head or row.version != model.head_version + 1:
            raise Conflict("head_moved", "")
        place = row.tenant, row.model, row.version
        state.versions[place] = row
        state.models[place[:2]] = but(model, head_version=row.version, head_manifest=row.digest)
        state.uploads[upload] = but(state.uploads[upload], state="published")
        written = self._log(state, entry)
        state.became[upload] = place, written
        return written

    def published(self, upload: str) -> tuple[VersionRow, Entry]:
        if upload not in self._state.became:
            raise NotFound("no_version", "")
        place, entry = self._state.became[upload]
        return self._state.versions[place], entry

    def version(self, tenant: str, model: str, version: int) -> VersionRow:
        if (tenant, model, version) not in self._state.versions:
            raise NotFound("no_version", "")
        return self._state.versions[tenant, model, version]

    def version_by_digest(self, tenant: str, model: str, digest: str) -> VersionRow:
        for row in self.versions(tenant, model):
            if row.digest == digest:
                return row
        raise NotFound("no_version", "")

    def versions(self, tenant: str, model: str) -> Sequence[VersionRow]:
        items = sorted(self._state.versions.items(), reverse=True)
        return [row for place, row in items if place[:2] == (tenant, model)]

    def newest(self, tenant: str, model: str, created_by: str) -> VersionRow:
        for row in self.versions(tenant, model):
            if row.created_by == created_by and row.hidden_at is None:
                return row
        raise NotFound("no_version", "")

    def fingerprints(self, artifacts: Collection[str]) -> dict[tuple[str, str], bytes]:
        return {one: mark for one, mark in self._state.marks.items() if one[0] in artifacts}

    def hide(
        self, tenant: str, model: str, version: int | None, at: int, entry: Entry,
        tagged: Collection[str] = (),
    ) -> None:  # fmt: skip
        with self._change() as state:
            if version is None:
                if (tenant, model) not in state.models:
                    raise NotFound("no_model", "")
                row = state.models[tenant, model]
                state.models[tenant, model] = but(row, hidden_at=row.hidden_at or at)
                hidden = [place for place in state.versions if place[:2] == (tenant, model)]
                changed = row.hidden_at is None
            else:
                hidden = [(tenant, model, version)]
                if hidden[0] not in state.versions:
                    raise NotFound("no_version", "")
                changed = state.versions[hidden[0]].hidden_at is None
                own = {
                    place: tag
                    for place, tag in state.tags.items()
                    if (tag.tenant, tag.model, tag.version) == hidden[0]
                }
                if changed and not set(tagged).issuperset(tag.tag for tag in own.values()):
                    raise Conflict("tagged", "")
                for place, tag in own.items():
                    del state.tags[place]
                    row = state.models[tenant, model]
                    floor = max(row.tag_floor, tag.serial)
                    state.models[tenant, model] = but(row, tag_floor=floor)
            for place in hidden:
                old = state.versions[place]
                state.versions[place] = but(old, hidden_at=old.hidden_at or at)
            if changed:
                self._log(state, entry)

    # keeping house
    def dead_uploads(self, before: int, limit: int = 100) -> Sequence[UploadRow]:
        found = [
            row
            for row in self._state.uploads.values()
            if row.state != "published" and row.expires_at < before
        ]
        return sorted(found, key=lambda row: (row.expires_at, row.id))[: page(limit)]

    def drop_upload(self, upload: str, entry: Entry) -> None:
        with self._change() as state:
            row = state.uploads.pop(upload, None)
            if row is None:
                return
            if row.state == "published":
                raise Conflict("upload_closed", "")
            if row.state == "open" and row.expires_at > self.now():
                raise Conflict("upload_open", "")
            del state.keys[row.artifact]
            self._log(state, entry)

    def abort(self, upload: str) -> None:
        with self._change() as state:
            row = state.uploads.get(upload)
            if row is None:
                return
            if row.state == "published":
                raise Conflict("upload_closed", "")
            state.uploads[upload] = but(row, state="aborted")

    def dead_versions(self, before: int, limit: int = 100) -> Sequence[VersionRow]:
        found = [
            (row.hidden_at, place, row)
            for place, row in self._state.versions.items()
            if row.hidden_at is not None and row.hidden_at < before
        ]
        return [row for _, _, row in sorted(found, key=lambda each: each[:2])][: page(limit)]

    def drop_version(self, tenant: str, model: str, version: int, entry: Entry) -> None:
        place = tenant, model, version
        with self._change() as state:
            row = state.versions.pop(place, None)
            if row is None:
                return
            if row.hidden_at is None:
                raise Conflict("version_stands", "")
            kept = {file.artifact for other in state.versions.values()
                    for file in manifest(other).files}  # fmt: skip
            for artifact in {row.artifact, *(file.artifact for file in manifest(row).files)} - kept:
                state.keys.pop(artifact, None)
                for mark in [one for one in state.marks if one[0] == artifact]:
                    del state.marks[mark]
            for tag in [one for one, t in state.tags.items() if (*one[:2], t.version) == place]:
                del state.tags[tag]
            for upload in [one for one, (other, _) in state.became.items() if other == place]:
                del state.became[upload]
                del state.uploads[upload]
            self._log(state, entry)

    def objects_in_use(self, names: Sequence[str]) -> set[str]:
        used = {
            one
            for row in self._state.versions.values()
            for file in manifest(row).files
            for one in (file.object, file.leaves)
        }
        return used & set(names)

    # wrapped keys
    def standing(
        self, tenant: str, model: str, *, tag: str | None = None, version: int | None = None,
        digest: str | None = None,
    ) -> Standing:  # fmt: skip
        state = self._state
        row = state.models.get((tenant, model))
        tagged = state.tags.get((tenant, model, tag or ""))
        number = version
        if tag is not None:
            number = tagged and tagged.version
        elif digest is None and version is None:
            number = row and row.head_version
        found = next(
            (
                each
                for each in state.versions.values()
                if (each.tenant, each.model) == (tenant, model)
                and (each.digest == digest if digest is not None else each.version == number)
            ),
            None,
        )
        return Standing(
            revision=state.revision,
            model=row,
            tag=tagged,
            version=found,
            key=found and state.keys.get(found.artifact),
        )

    def leased(self, lease: str) -> tuple[LeaseRow, Standing]:
        row = self.lease(lease)
        return row, self.standing(row.tenant, row.model, version=row.version)

    def key(self, artifact: str) -> KeyRow:
        if artifact not in self._state.keys:
            raise NotFound("no_key", "")
        return self._state.keys[artifact]

    def keep_key(self, key: KeyRow, entry: Entry) -> KeyRow:
        with self._change() as state:
            if key.artifact in state.keys:
                return state.keys[key.artifact]
            if key.kek_version < self._model(state, key.tenant, key.model).kek_floor:
                raise Conflict("kek_moved", "")
            state.keys[key.artifact] = key
            self._log(state, entry)
            return key

    def keys_below(
        self, tenant: str, model: str, kek_version: int, limit: int = 200
    ) -> Sequence[KeyRow]:
        found = [
            row
            for row in self._state.keys.values()
            if (row.tenant, row.model) == (tenant, model) and row.kek_version < kek_version
        ]
        return sorted(found, key=lambda row: (row.kek_version, row.artifact))[: page(limit)]

    def raise_floor(self, tenant: str, model: str, kek_version: int, entry: Entry) -> None:
        with self._change() as state:
            if (tenant, model) not in state.models:
                raise NotFound("no_model", "")
            row = state.models[tenant, model]
            if kek_version > row.kek_floor:
                state.models[tenant, model] = but(row, kek_floor=kek_version)
                self._log(state, entry)

    def swap_key(self, row: KeyRow, expected: bytes, entry: Entry | None) -> None:
        with self._change() as state:
            old = state.keys.get(row.artifact)
            if old is None or (old.tenant, old.model) != (row.tenant, row.model):
                raise NotFound("no_key", "")
            if old.wrapped != expected or row.kek_version < old.kek_version:
                raise Conflict("key_moved", "")
            state.keys[row.artifact] = row
            if entry is not None:
                self._log(state, entry)

    # leases
    def admit(self, lease: LeaseRow, limits: Limits, entry: Entry) -> Admission:
        at = lease.granted_at
        with self._change() as state:
            same = next((x for x in state.leases.values() if x.ask_hash == lease.ask_hash), None)
            if same is not None:
                if not runs(same, at):
                    raise Conflict("lease_ended", "")
                if _asked(same) != _asked(lease):
                    raise Conflict("ask_reused", "")
            version = state.versions.get((lease.tenant, lease.model, lease.version))
            if version is None or version.hidden_at is not None or version.digest != lease.manifest:
                raise NotFound("no_version", "")
            if self._standing(state, lease.subject, name(lease), at):
                raise AccessDenied("revoked", "")
            if state.revision != lease.revision:
                raise Unavailable("policy_moved", "")
            if same is not None:
                old = state.entry_of[same.id]
                return Admission(
                    lease=same, entry_id=old.id, leaf_hash=old.leaf_hash(), repeated=True
                )
            self._check_limits(state, lease, limits)
            if lease.id in state.leases:
                raise Conflict("already_recorded", "")
            written = self._log(state, entry)
            state.leases[lease.id] = lease
            state.entry_of[lease.id] = written
            state.charges[lease.id] = lease.holder, to_text(at)[:10], lease.bytes
            return Admission(
                lease=lease, entry_id=written.id, leaf_hash=written.leaf_hash(), repeated=False
            )

    def _check_limits(self, state: State, lease: LeaseRow, limits: Limits) -> None:
        at = lease.granted_at
        mine = (lease.holder, lease.tenant, lease.model)
        ends = sorted(
            row.expires_at
            for row in state.leases.values()
            if (row.holder, row.tenant, row.model) == mine and runs(row, at)
        )
        slots = limits.max_concurrent_leases
        if slots is not None and len(ends) >= slots:
            resets_at = to_text(ends[len(ends) - slots]) if slots else None
            raise AccessDenied(
                "max_concurrent_leases", "", limit=slots, used=len(ends), resets_at=resets_at
            )
        day = (lease.holder, to_text(at)[:10])
        used = sum(size for *whose, size in state.charges.values() if tuple(whose) == day)
        budget = limits.max_bytes_per_day
        if budget is not None and used + lease.bytes > budget:
            resets_at = to_text((at // DAY + 1) * DAY)
            raise AccessDenied(
                "max_bytes_per_day", "", limit=budget, used=used, asked=lease.bytes,
                resets_at=resets_at,
            )  # fmt: skip

    def lease(self, lease: str) -> LeaseRow:
        if lease not in self._state.leases:
            raise NotFound("no_lease", "")
        return self._state.leases[lease]

    def leases(
        self, *, tenant: str | None = None, model: str | None = None, running_at: int | None = None,
        limit: int = 100,
    ) -> Sequence[LeaseRow]:  # fmt: skip
        found = [
            row
            for row in self._state.leases.values()
            if tenant in {None, row.tenant}
            and model in {None, row.model}
            and (
                running_at is None
                or (row.expires_at > running_at and (row.ended_at or running_at + 1) > running_at)
            )
        ]
        found.sort(key=lambda row: (row.granted_at, row.id), reverse=True)
        return found[: page(limit)]

    def running_leases(self) -> int:
        now = self.now()
        return sum(runs(row, now) for row in self._state.leases.values())

    def extend(self, lease: str, expires_at: int, entry: Entry, *, late_ms: int = 0) -> LeaseRow:
        with self._change() as state:
            row = self._lease(state, lease)
            if self._standing(state, row.subject, name(row), self.now()):
                raise AccessDenied("revoked", "")
            late = row.expires_at <= self.now()
            hits = {("principal", row.subject), ("version", name(row)), ("lease", row.id)}
            revoked = any(
                (one.kind, one.target) in hits and one.at >= row.granted_at
                for one in state.revocations.values()
            )
            if row.ended_at is not None or (
                late and (revoked or row.expires_at + late_ms <= self.now())
            ):
                raise AccessDenied("lease_ended", "")
            if expires_at > row.total_until:
                raise InvalidRequest("over_total", "")
            state.leases[lease] = but(row, expires_at=expires_at)
            self._log(state, entry)
            return state.leases[lease]

    def end(self, lease: str, at: int, reason: str, entry: Entry) -> None:
        with self._change() as state:
            row = self._lease(state, lease)
            if row.ended_at is None:
                state.leases[lease] = but(row, ended_at=at, end_reason=reason)
                self._log(state, entry)

    def revoke(self, revocation: Revocation, entry: Entry) -> int:
        target = revocation.target
        if revocation.kind == "version" and not target.rpartition("@")[2].isdecimal():
            raise InvalidRequest("bad_target", "")
        with self._change() as state:
            if revocation.id in state.revocations:
                raise Conflict("already_recorded", "")
            state.revocations[revocation.id] = revocation
            hit = [
                row
                for row in state.leases.values()
                if runs(row, revocation.at)
                and {"principal": row.subject, "lease": row.id, "version": name(row)}[
                    revocation.kind
                ]
                == target
            ]
            for row in hit:
                state.leases[row.id] = but(row, ended_at=revocation.at, end_reason="revoked")
            self._log(state, entry)
            return len(hit)

    def revoked(self, *, subject: str, version: str, at: int) -> Revocation | None:
        return self._standing(self._state, subject, version, at)

    def usage(self, subject: str, day: str) -> int:
        charges = self._state.charges.values()
        return sum(size for whose, when, size in charges if (whose, when) == (subject, day))

    @staticmethod
    def _lease(state: State, lease: str) -> LeaseRow:
        if lease not in state.leases:
            raise NotFound("no_lease", "")
        return state.leases[lease]

    @staticmethod
    def _standing(state: State, subject: str, version: str, at: int) -> Revocation | None:
        hits = {("principal", subject), ("version", version)}
        for row in state.revocations.values():
            if (row.kind, row.target) in hits and (row.until is None or row.until > at):
                return row
        return None

    # policy revision, log
    def count(self, bucket: str, window: int, by: int = 1) -> int:
        with self._change() as state:
            state.counters[bucket, window] = state.counters.get((bucket, window), 0) + by
            return state.counters[bucket, window]

    def policy_revision(self) -> str | None:
        return self._state.revision

    def set_policy_revision(self, revision: str, entry: Entry) -> None:
        with self._change() as state:
            state.revision = revision
            self._log(state, entry)

    def append(self, entry: Entry) -> Entry:
        with self._change() as state:
            return self._log(state, entry)

    def entries(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        tenant: str | None = None,
        model: str | None = None,
    ) -> Sequence[Entry]:
        return _of(self._state.log[after:], tenant, model)[: page(limit)]

    def last_entries(
        self,
        *,
        before: int | None = None,
        limit: int = 100,
        tenant: str | None = None,
        model: str | None = None,
    ) -> Sequence[Entry]:
        log = self._state.log[: None if before is None else max(before - 1, 0)]
        return _of(log, tenant, model)[-page(limit) :]

    def hashes(self, first: int, last: int) -> Sequence[bytes]:
        return [entry.leaf_hash() for entry in self._state.log[first - 1 : last]]


def _asked(lease: LeaseRow) -> tuple[object, ...]:
    return (
        lease.subject, lease.key_hash, lease.bound, name(lease), lease.manifest, lease.purpose,
        lease.action, lease.paths, lease.bytes,
    )  # fmt: skip


def _of(log: Sequence[Entry], tenant: str | None, model: str | None) -> list[Entry]:
    return [one for one in log if tenant in {None, one.tenant} and model in {None, one.model}]
