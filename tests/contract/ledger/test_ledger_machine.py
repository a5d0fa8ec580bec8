"""Contract: any sequence of calls does to a real ledger what it does to the plain one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from modelvault.catalog import KeyRow, LeaseRow, Limits, TagRow, UploadRow, VersionRow
from modelvault.clock import to_text
from modelvault.errors import ModelVaultError
from modelvault.manifest import FileEntry, Manifest
from modelvault.ports import Ledger
from support.empty_ledger import fresh_ledger
from support.ledger_scene import ALICE, BOB, HOUR, REVISION, Scene, entry, envelope, ident
from support.plain_ledger import PlainLedger

MODELS = st.sampled_from(["a", "b"])
SUBJECTS = st.sampled_from([ALICE, BOB])
SMALL = st.integers(0, 3)
START = 1_800_000_000_000


class LedgerMachine(RuleBasedStateMachine):
    """Two ledgers, one clock, the same calls."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self._folder = tempfile.TemporaryDirectory()
        self.real = fresh_ledger(Path(self._folder.name, "ledger.db"), lambda: self.now)
        self.plain = PlainLedger(lambda: self.now)
        self.uploads: list[UploadRow] = []
        self.leases: list[LeaseRow] = []
        self.published: list[VersionRow] = []
        self.publish_policy(REVISION)
        for model in ("a", "b"):
            self.create(model)
            self.push(model, ALICE)

    def teardown(self) -> None:
        self.compare_all()
        self.real.close()
        self._folder.cleanup()

    def both(self, call: Callable[[Ledger, object], object]) -> object:
        """Make one call on both; what comes out must be equal, errors too."""
        told = entry(at=self.now)
        outcomes = []
        for ledger in (self.plain, self.real):
            try:
                outcomes.append(call(ledger, told))
            except ModelVaultError as error:
                limits = {key: error.details.get(key) for key in ("limit", "used", "resets_at")}
                outcomes.append((type(error), error.code, limits))
        assert outcomes[0] == outcomes[1]
        return outcomes[0]

    @property
    def scene(self) -> Scene:
        return Scene(self.plain, self.now)

    @rule(by=st.sampled_from([1, HOUR, 7 * HOUR]))
    def wait(self, by: int) -> None:
        self.now += by

    @rule(model=MODELS)
    def create(self, model: str) -> None:
        row = self.scene.model_row(model)
        self.both(lambda ledger, told: ledger.create_model(row, told))

    @rule(model=MODELS, serial=SMALL)
    def classify(self, model: str, serial: int) -> None:
        row = self.scene.model_row(model, serial=serial + 1, record=envelope(ident().encode()))
        self.both(lambda ledger, told: ledger.update_record(row, serial, told))

    @rule(model=MODELS, subject=SUBJECTS, kek=st.integers(1, 3), max_open=st.integers(0, 3))
    def begin(self, model: str, subject: str, kek: int, max_open: int) -> None:
        row = self.scene.upload_row(model, subject=subject)
        key = self.scene.key_row(row, kek)
        if self.both(lambda ledger, told: ledger.begin(row, key, max_open, told)) is None:
            self.uploads.append(row)

    @rule(model=MODELS, subject=SUBJECTS)
    def push(self, model: str, subject: str) -> None:
        self.begin(model, subject, 3, 99)
        if self.uploads and self.uploads[-1].model == model:
            self._publish(self.uploads[-1], stale=False)

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), stale=st.booleans())
    def publish(self, data: st.DataObject, stale: bool) -> None:
        self._publish(data.draw(st.sampled_from(self.uploads)), stale)

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), model=MODELS, earlier=SMALL)
    def publish_sharing(self, data: st.DataObject, model: str, earlier: int) -> None:
        """A version with its own files and those of an earlier one, which may be gone."""
        upload = data.draw(st.sampled_from(self.uploads))
        if earlier < len(self.published):
            named = Manifest.from_bytes(self.published[earlier].manifest.payload).files
            reuse = tuple(
                replace(file, path=f"{number}-{file.path}") for number, file in enumerate(named)
            )
            self._publish(upload, stale=False, reuse=reuse)

    @rule(model=MODELS, kek=st.integers(1, 3))
    def keep_key(self, model: str, kek: int) -> None:
        key = self.scene.key_row(self.scene.upload_row(model, artifact=model * 32), kek)
        self.both(lambda ledger, told: ledger.keep_key(key, told))

    @rule(model=MODELS, subject=SUBJECTS)
    def look_for_the_newest(self, model: str, subject: str) -> None:
        self.both(lambda ledger, _: ledger.newest("default", model, subject))
        artifacts = [row.artifact for row in self.published]
        self.both(lambda ledger, _: ledger.fingerprints(artifacts))

    def _publish(self, upload: UploadRow, stale: bool, reuse: tuple[FileEntry, ...] = ()) -> None:
        row, head = self.scene.next_version(upload, reuse)
        if stale and row.version > 1:
            head = None
            row = self.scene.version_row(upload, row.version - 1, None)
        kept = [(path, ident().encode()) for path in upload.paths[:1]]
        told = self.both(lambda ledger, told: ledger.publish(upload.id, row, head, told, kept))
        if not isinstance(told, tuple):
            self.published.append(row)
        self.both(lambda ledger, _: ledger.published(upload.id))

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), act=st.sampled_from(["abort", "drop", "prolong"]))
    def keep_house(self, data: st.DataObject, act: str) -> None:
        one = data.draw(st.sampled_from(self.uploads)).id
        if act == "abort":
            self.both(lambda ledger, _: ledger.abort(one))
        elif act == "drop":
            self.both(lambda ledger, told: ledger.drop_upload(one, told))
        else:
            self.both(lambda ledger, _: ledger.prolong(one, self.now + 2 * HOUR))

    @rule(model=MODELS, version=SMALL, serial=SMALL)
    def tag(self, model: str, version: int, serial: int) -> None:
        row = TagRow(
            tenant="default", model=model, tag="prod", version=version, serial=serial + 1,
            record=envelope(), moved_at=self.now,
        )  # fmt: skip
        self.both(lambda ledger, told: ledger.put_tag(row, serial, told))

    @rule(place=st.sampled_from([("a", 2), ("a", 3), ("b", 1), ("b", 2), ("b", None)]))
    def hide(self, place: tuple[str, int | None]) -> None:
        model, version = place
        self.both(lambda ledger, told: ledger.hide("default", model, version, self.now, told))

    @rule(model=MODELS, version=SMALL)
    def drop_version(self, model: str, version: int) -> None:
        self.both(lambda ledger, told: ledger.drop_version("default", model, version, told))

    @rule(model=MODELS, floor=st.integers(1, 3))
    def rotate(self, model: str, floor: int) -> None:
        self.both(lambda ledger, told: ledger.raise_floor("default", model, floor, told))
        for key in self.plain.keys_below("default", model, floor):
            new = KeyRow(
                artifact=key.artifact, tenant=key.tenant, model=model, wrapped=ident().encode(),
                kek_version=floor,
            )  # fmt: skip
            for _ in range(2):  # the second time it isn't what is expected
                self.both(lambda ledger, told, n=new, k=key: ledger.swap_key(n, k.wrapped, told))

    @rule(
        data=st.data(), subject=SUBJECTS, hours=st.sampled_from([1, 2, 8]),
        slots=st.sampled_from([None, None, 0, 1, 2]), budget=st.sampled_from([None, 12, 30, 36]),
    )  # fmt: skip
    def admit(
        self, data: st.DataObject, subject: str, hours: int, slots: int | None, budget: int | None
    ) -> None:
        stands = [row for model in ("a", "b") for row in self.plain.versions("default", model)]
        version = data.draw(st.sampled_from(stands))
        row = self.scene.lease_row(
            version,
            subject=subject,
            expires_at=self.now + hours * HOUR,
            revision=data.draw(st.sampled_from([REVISION, self.plain.policy_revision()])),
        )
        self._admit(row, Limits(max_concurrent_leases=slots, max_bytes_per_day=budget))

    @rule(hours=st.sampled_from([1, 2, 8]), many=st.integers(1, 4))
    def admit_some(self, hours: int, many: int) -> None:
        version = self.plain.version("default", "a", 1)
        for _ in range(many):
            row = self.scene.lease_row(
                version,
                expires_at=self.now + hours * HOUR,
                revision=self.plain.policy_revision(),
            )
            self._admit(row, Limits(max_concurrent_leases=3))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), purpose=st.sampled_from(["inference", "inference", "debug"]))
    def ask_again(self, data: st.DataObject, purpose: str) -> None:
        old = data.draw(st.sampled_from(self.leases))
        total = max(self.now + HOUR, old.total_until)
        self._admit(
            replace(
                old, id=ident(), granted_at=self.now, expires_at=self.now + HOUR,
                total_until=total, purpose=purpose,
            ),
            Limits(max_concurrent_leases=0),
        )  # fmt: skip

    def _admit(self, row: LeaseRow, limits: Limits) -> None:
        given = self.both(lambda ledger, told: ledger.admit(row, limits, told))
        if not isinstance(given, tuple):
            self.leases.append(row)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), more=st.sampled_from([1, 4, 9]))
    def extend(self, data: st.DataObject, more: int) -> None:
        one = data.draw(st.sampled_from(self.leases)).id
        self.both(lambda ledger, told: ledger.extend(one, self.now + more * HOUR, told))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.leases)).id
        self.both(lambda ledger, told: ledger.end(one, self.now, "released", told))

    @rule(data=st.data(), kind=st.sampled_from(["principal", "lease", "version"]))
    def revoke(self, data: st.DataObject, kind: str) -> None:
        targets = {
            "principal": [BOB],
            "lease": [row.id for row in self.leases] or ["none"],
            "version": ["default/a@2", "default/b@1"],
        }
        row = self.scene.revocation(
            kind,
            data.draw(st.sampled_from(targets[kind])),
            until=self.now + HOUR if kind != "version" else None,
        )
        self.both(lambda ledger, told: ledger.revoke(row, told))

    @rule(revision=st.sampled_from([REVISION, REVISION, "sha256:" + "2" * 64]))
    def publish_policy(self, revision: str) -> None:
        self.both(lambda ledger, told: ledger.set_policy_revision(revision, told))

    @invariant()
    def logs_are_equal(self) -> None:
        self.both(lambda ledger, _: ledger.entries(after=0, limit=10_000))
        self.both(lambda ledger, _: ledger.last_entries(model="a", limit=3))

    @rule()
    def compare_all(self) -> None:
        for model in ("a", "b"):
            self.both(lambda ledger, _, m=model: ledger.model("default", m))
            self.both(lambda ledger, _, m=model: ledger.versions("default", m))
            self.both(lambda ledger, _, m=model: ledger.tags("default", m))
            self.both(lambda ledger, _, m=model: ledger.keys_below("default", m, 99))
            self.both(lambda ledger, _, m=model: ledger.leases(model=m, running_at=self.now))
        self.both(lambda ledger, _: ledger.running_leases())
        for upload in self.uploads:
            self.both(lambda ledger, _, one=upload.id: ledger.upload(one))
        for subject in (ALICE, BOB):
            for day in {to_text(row.granted_at)[:10] for row in self.leases}:
                self.both(lambda ledger, _, s=subject, d=day: ledger.usage(s, d))
        self.both(lambda ledger, _: ledger.models("default"))
        self.both(lambda ledger, _: ledger.leases(limit=1000))
        self.both(lambda ledger, _: ledger.dead_uploads(self.now))
        self.both(lambda ledger, _: ledger.dead_versions(self.now))
        self.both(lambda ledger, _: ledger.policy_revision())
        self.both(lambda ledger, _: ledger.hashes(1, 10_000))


# Which lines it reaches is counted elsewhere: counting takes a third of its time.
TestLedgerMachine = pytest.mark.no_cover(LedgerMachine.TestCase)
TestLedgerMachine.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
