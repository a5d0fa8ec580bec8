"""A vault against a plain model of it: push, load, tag, rotate, revoke, delete, gc and crashes.

Everything goes through the public Session over a real embedded vault; the clock moves when the
machine says so, and a crash is an error at some call of the ledger, the store or the key service,
after which the session is thrown away and the home is opened anew.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from modelvault import clock, connect, wiring
from modelvault.adapters.keys_local import LocalKeyring
from modelvault.adapters.ledger_sql import SqlLedger
from modelvault.adapters.objects_folder import FolderStore
from modelvault.client.session import Session
from modelvault.crypto import derive
from modelvault.errors import AccessDenied, Conflict, ModelVaultError, NotFound
from modelvault.manifest import Manifest

DAY_MS = 86_400_000
TAGS = ("prod", "canary")
CALLS = [
    (SqlLedger, "begin"),
    (SqlLedger, "publish"),
    (SqlLedger, "put_tag"),
    (SqlLedger, "swap_key"),
    (SqlLedger, "raise_floor"),
    (SqlLedger, "drop_version"),
    (FolderStore, "put"),
    (FolderStore, "delete"),
    (LocalKeyring, "rotate"),
    (LocalKeyring, "rewrap"),
    (LocalKeyring, "retire"),
    (LocalKeyring, "unwrap"),
]


class Crash(BaseException):
    """The process is gone."""


@contextmanager
def crashing(owner: type, name: str, after: bool) -> Iterator[None]:
    """The next call of `owner.name` crashes, before or after it has done its work."""
    inner: Callable[..., object] = getattr(owner, name)

    def call(*args: object, **named: object) -> object:
        if after:
            inner(*args, **named)
        raise Crash

    with mock.patch.object(owner, name, call):
        yield


class VaultMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory(prefix="machine-")
        self.root = Path(self.place.name)
        self.offset = 0
        real = clock.utc_ms

        def moved() -> int:
            return real() + self.offset

        self.patches = [
            mock.patch.dict(os.environ, {"XDG_CONFIG_HOME": str(self.root / "config")}),
            mock.patch.object(clock, "utc_ms", moved),
        ]
        for patch in self.patches:
            patch.start()
        wiring.init(self.root / "home", segment_length=256)
        self.vault: Session = connect(home=self.root / "home")
        self.vault.create("m")
        # the plain model
        self.versions: dict[int, bytes] = {}
        self.hidden: set[int] = set()
        self.revoked: set[int] = set()
        self.tags: dict[str, int] = {}
        self.newest = 0

    def teardown(self) -> None:
        self.vault.close()
        for patch in self.patches:
            patch.stop()
        self.place.cleanup()

    def reopen(self) -> None:
        self.vault.close()
        self.vault = connect(home=self.root / "home")

    @property
    def standing(self) -> list[int]:
        return [version for version in self.versions if version not in self.hidden]

    def contents(self, reference: str) -> bytes:
        with self.vault.load(reference, purpose="inference") as model:
            return bytes(model.read_bytes("a.dat"))

    @initialize(data=st.binary(max_size=600))
    def first(self, data: bytes) -> None:
        self.push(data)

    @rule(data=st.binary(max_size=1500))
    def push(self, data: bytes) -> None:
        path = self.root / "a.dat"
        path.write_bytes(data)
        pushed = self.vault.push(path, "m")
        assert pushed.version == self.newest + 1
        self.newest += 1
        self.versions[self.newest] = data

    @precondition(lambda self: self.standing)
    @rule(draw=st.data(), tag=st.sampled_from(TAGS))
    def tag(self, draw: st.DataObject, tag: str) -> None:
        version = draw.draw(st.sampled_from(self.standing))
        self.vault.tag(f"m@{version}", tag)
        self.tags[tag] = version

    @rule()
    def rotate(self) -> None:
        self.vault.rotate("m")

    @precondition(lambda self: self.standing)
    @rule(draw=st.data())
    def revoke_version(self, draw: st.DataObject) -> None:
        version = draw.draw(st.sampled_from(self.standing))
        self.vault.revoke("version", f"default/m@{version}", reason="test")
        self.revoked.add(version)

    @precondition(lambda self: self.standing)
    @rule(draw=st.data())
    def revoke_lease(self, draw: st.DataObject) -> None:
        good = [version for version in self.standing if version not in self.revoked]
        if not good:
            return
        model = self.vault.load(f"m@{draw.draw(st.sampled_from(good))}", purpose="inference")
        (lease,) = self.vault.leases()
        assert self.vault.revoke("lease", lease.id, reason="test") == 1
        assert self.vault.leases() == ()
        model.close()

    @precondition(lambda self: self.standing)
    @rule(draw=st.data())
    def delete(self, draw: st.DataObject) -> None:
        version = draw.draw(st.sampled_from(self.standing))
        if version in self.tags.values():
            with pytest.raises(Conflict) as refused:
                self.vault.delete(f"m@{version}")
            assert refused.value.code == "tagged"
        else:
            self.vault.delete(f"m@{version}")
            self.hidden.add(version)

    @rule(days=st.integers(1, 20))
    def wait(self, days: int) -> None:
        self.offset += days * DAY_MS

    @rule()
    def gc(self) -> None:
        self.vault.gc()

    @rule(
        where=st.sampled_from(CALLS),
        after=st.booleans(),
        what=st.sampled_from(["push", "rotate", "gc", "load", "tag"]),
        data=st.binary(max_size=600),
    )
    def crash(self, where: tuple[type, str], after: bool, what: str, data: bytes) -> None:
        path = self.root / "a.dat"
        path.write_bytes(data)
        tagged = self.standing[-1] if self.standing else None
        before = self.newest
        with crashing(*where, after=after):
            try:
                if what == "push":
                    self.vault.push(path, "m")
                elif what == "rotate":
                    self.vault.rotate("m")
                elif what == "gc":
                    self.vault.gc()
                elif what == "load" and self.standing:
                    self.contents("m")
                elif what == "tag" and tagged is not None:
                    self.vault.tag(f"m@{tagged}", "prod")
            except (Crash, ModelVaultError):
                pass
        self.reopen()
        shown = self.vault.show("m")
        numbers = {version.version for version in shown.versions}
        if before + 1 in numbers:  # whole, or not there
            assert what == "push"
            self.newest += 1
            self.versions[self.newest] = data
        for found in shown.summary.tags:
            if what == "tag" and found.tag == "prod" and found.version == tagged:
                self.tags["prod"] = found.version

    @invariant()
    def what_stands_loads_to_its_bytes_and_nothing_else_does(self) -> None:
        for version, data in self.versions.items():
            if version in self.hidden:
                with pytest.raises(NotFound):
                    self.contents(f"m@{version}")
            elif version in self.revoked:
                with pytest.raises(AccessDenied) as refused:
                    self.contents(f"m@{version}")
                assert refused.value.code == "revoked"
            else:
                assert self.contents(f"m@{version}") == data

    @invariant()
    def tags_point_where_they_were_moved_to(self) -> None:
        shown = self.vault.show("m").summary
        assert {found.tag: found.version for found in shown.tags} == self.tags
        assert (shown.latest or 0) == max(self.standing, default=0)

    @invariant()
    def the_log_has_no_gap(self) -> None:
        after, seqs = 0, []
        while True:
            page = self.vault.entries(after=after, limit=500)
            seqs += [entry.seq for entry in page.entries]
            if page.next is None:
                break
            after = page.next
        assert seqs == list(range(1, len(seqs) + 1))

    def all_that_is_left_is_in_use(self) -> None:
        """After all graces: the objects that versions name, which may share them, and one copy of
        each artifact's key; and of the content key once it was rotated."""
        self.offset += 60 * DAY_MS
        self.vault.gc()
        home = self.root / "home"
        objects, artifacts = set(), set()
        for version in self.standing:
            signed = self.vault.show(f"m@{version}").signed
            assert signed is not None
            manifest = Manifest.from_bytes(signed.manifest.payload)
            (file,) = manifest.files
            objects |= {file.object, file.leaves}
            artifacts |= {file.artifact, manifest.artifact}
        content = derive.content_artifact(self.vault.trust.vault, "default", "m")
        stored = [path for path in (home / "objects").rglob("*") if path.is_file()]
        copies = [path for path in (home / "keys").rglob("*") if path.is_file()]
        assert {f"objects/{path.name}" for path in stored} == objects
        copied = [path.parent.name for path in copies if path.parent.name != content]
        assert sorted(copied) == sorted(artifacts)

    @rule()
    def tidy(self) -> None:
        self.vault.rotate("m")  # finishes what a crash interrupted
        self.all_that_is_left_is_in_use()
        self.what_stands_loads_to_its_bytes_and_nothing_else_does()


VaultMachine.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
# Which lines it reaches is counted elsewhere: counting takes a third of its time.
TestVaultMachine = pytest.mark.no_cover(VaultMachine.TestCase)
