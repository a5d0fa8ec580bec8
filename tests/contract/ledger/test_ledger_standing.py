"""Contract: what a request looks at before it is decided, whatever way a version is named."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from modelvault.catalog import Standing
from modelvault.errors import NotFound
from support.ledger_scene import ALICE, REVISION, Scene, entry, refused


def same(scene: Scene, seen: Standing, version: int | None, tag: str | None = None) -> None:
    """It says what the methods that read one row each say."""
    ledger = scene.ledger
    assert seen.revision == ledger.policy_revision()
    assert seen.model == ledger.model("default", "m")
    assert seen.tag == (None if tag is None else ledger.tag("default", "m", tag))
    if version is None:
        assert (seen.version, seen.key) == (None, None)
    else:
        assert seen.version == ledger.version("default", "m", version)
        assert seen.key == ledger.key(seen.version.artifact)


class TestStanding:
    def test_by_each_name(self, scene: Scene) -> None:
        first, second = scene.push(), scene.push()
        scene.tag(first)
        look = scene.ledger.standing
        same(scene, look("default", "m"), 2)
        same(scene, look("default", "m", version=1), 1)
        same(scene, look("default", "m", digest=first.digest), 1)
        same(scene, look("default", "m", digest=second.digest), 2)
        same(scene, look("default", "m", tag="prod"), 1, "prod")

    def test_what_is_not_there(self, scene: Scene) -> None:
        look = scene.ledger.standing
        same(scene, look("default", "m"), None)  # no version yet
        row = scene.push()
        same(scene, look("default", "m", version=9), None)
        same(scene, look("default", "m", digest="sha256:" + "0" * 64), None)
        assert look("default", "m", tag="none").tag is None
        assert look("default", "m", tag="none").version is None
        for tenant, model in (("default", "other"), ("other", "m")):
            for more in ({}, {"tag": "prod"}, {"version": 1}, {"digest": row.digest}):
                assert look(tenant, model, **more) == Standing(revision=REVISION, model=None)

    def test_other_models_have_the_same_names(self, scene: Scene) -> None:
        scene.create("n")
        scene.tag(scene.push("n"))
        scene.push("n")
        mine = scene.push()
        scene.tag(mine)
        for more in ({}, {"tag": "prod"}, {"version": 1}, {"digest": mine.digest}):
            assert scene.ledger.standing("default", "m", **more).version == mine

    def test_hidden_rows_are_there(self, scene: Scene) -> None:
        scene.push()
        scene.ledger.hide("default", "m", None, scene.now, entry())
        seen = scene.ledger.standing("default", "m", version=1)
        assert seen.model is not None
        assert seen.version is not None
        assert (seen.model.hidden_at, seen.version.hidden_at) == (scene.now, scene.now)

    def test_before_the_first_policy(self, ledger) -> None:
        assert ledger.standing("default", "m") == Standing(revision=None, model=None)


class TestLeased:
    def test_the_lease_and_its_version(self, scene: Scene) -> None:
        lease = scene.lease(scene.push(), instance="pod-1", bound=False)
        scene.push()
        found, seen = scene.ledger.leased(lease.id)
        assert found == lease == scene.ledger.lease(lease.id)
        same(scene, seen, 1)

    def test_an_ended_one(self, scene: Scene) -> None:
        lease = scene.lease(scene.push())
        scene.ledger.end(lease.id, scene.now, "released", entry())
        found, _ = scene.ledger.leased(lease.id)
        assert found == replace(lease, ended_at=scene.now, end_reason="released")
        assert found.subject == ALICE

    def test_a_version_that_is_gone(self, scene: Scene) -> None:
        lease = scene.lease(scene.push())
        scene.ledger.hide("default", "m", 1, scene.now, entry())
        scene.ledger.drop_version("default", "m", 1, entry())
        found, seen = scene.ledger.leased(lease.id)
        assert found == lease
        same(scene, seen, None)

    @pytest.mark.parametrize("name", ["f" * 32, "", "' OR 1=1 --"])
    def test_no_such_lease(self, scene: Scene, name: str) -> None:
        scene.lease(scene.push())
        with refused(scene.ledger, NotFound, "no_lease"):
            scene.ledger.leased(name)
