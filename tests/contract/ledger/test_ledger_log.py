"""Contract: the log, and that a change and its entry stand or fall together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from modelvault.catalog import Limits
from modelvault.errors import Conflict, InvalidRequest
from modelvault.ports import Ledger
from modelvault.record import Entry
from support.ledger_scene import ALICE, HOUR, Scene, entry, refused


class TestLog:
    def test_a_new_ledger_is_empty(self, ledger: Ledger) -> None:
        assert not ledger.entries()
        assert not ledger.hashes(1, 10)
        assert ledger.policy_revision() is None

    def test_an_entry_reads_back_as_written(self, ledger: Ledger) -> None:
        full = entry(
            "load", at=1, tenant="default", model="m", version=3, purpose="inference",
            lease="1" * 32, decision_id="d", revision="r", reasons=("b", "a"),
            details={"z": "ü\u2028", "a": 2**53 - 1, "t": True, "n": None},
        )  # fmt: skip
        written = ledger.append(replace(full, seq=77))
        assert written == replace(full, seq=1)
        assert ledger.entries() == [written]
        assert ledger.hashes(1, 1) == [written.leaf_hash()]

    def test_pages_by_seq(self, ledger: Ledger) -> None:
        for model in ("a", "b", "a", None, "a"):
            ledger.append(entry(tenant="default" if model else None, model=model))
        found = [[told.seq for told in page] for page in (
            ledger.entries(), ledger.entries(after=2, limit=2), ledger.entries(after=5),
            ledger.entries(tenant="default"), ledger.entries(tenant="default", model="a", after=1),
            ledger.entries(model="b"), ledger.entries(tenant="x"),
        )]  # fmt: skip
        assert found == [[1, 2, 3, 4, 5], [3, 4], [], [1, 2, 3, 5], [3, 5], [2], []]

    def test_pages_from_the_end(self, ledger: Ledger) -> None:
        assert not ledger.last_entries()
        for model in ("a", "b", "a", None, "a"):
            ledger.append(entry(tenant="default" if model else None, model=model))
        found = [[told.seq for told in page] for page in (
            ledger.last_entries(), ledger.last_entries(limit=2),
            ledger.last_entries(before=4, limit=2), ledger.last_entries(before=1),
            ledger.last_entries(before=99, limit=1), ledger.last_entries(tenant="default", limit=3),
            ledger.last_entries(tenant="default", model="a", before=5),
            ledger.last_entries(model="b"), ledger.last_entries(tenant="x"),
        )]  # fmt: skip
        assert found == [
            [1, 2, 3, 4, 5], [4, 5], [2, 3], [], [5], [2, 3, 5], [1, 3], [2], [],
        ]  # fmt: skip

    def test_hashes_are_those_of_the_entries(self, ledger: Ledger) -> None:
        written = [ledger.append(entry()) for _ in range(5)]
        assert ledger.hashes(2, 4) == [one.leaf_hash() for one in written[1:4]]
        assert ledger.hashes(4, 9) == [one.leaf_hash() for one in written[3:]]
        assert not ledger.hashes(4, 3)

    def test_an_id_is_used_once(self, ledger: Ledger) -> None:
        told = entry()
        ledger.append(told)
        with refused(ledger, Conflict, "already_recorded"):
            ledger.append(told)
        assert ledger.append(entry()).seq == 2


def _changes(scene: Scene) -> dict[str, Callable[[Entry], object]]:
    """One call of each method that takes an entry, all of which would succeed."""
    ledger, now = scene.ledger, scene.now
    tagged, hidden = scene.push(), scene.push()
    scene.tag(tagged)
    ledger.hide("default", "m", 2, now, entry())
    lease = scene.lease(tagged)
    pending, dead = scene.begin(), scene.begin(expires_at=now - 1)
    key = ledger.key(pending.artifact)
    fresh = scene.upload_row()
    row, head = scene.next_version(pending)
    del hidden
    return {
        "create_model": lambda told: ledger.create_model(scene.model_row("new"), told),
        "update_record": lambda told: ledger.update_record(scene.model_row(serial=2), 1, told),
        "put_tag": lambda told: ledger.put_tag(scene.tag_row(tagged, serial=2), 1, told),
        "begin": lambda told: ledger.begin(fresh, scene.key_row(fresh), 99, told),
        "publish": lambda told: ledger.publish(pending.id, row, head, told),
        "hide version": lambda told: ledger.hide("default", "m", None, now, told),
        "drop_upload": lambda told: ledger.drop_upload(dead.id, told),
        "drop_version": lambda told: ledger.drop_version("default", "m", 2, told),
        "raise_floor": lambda told: ledger.raise_floor("default", "m", 2, told),
        "swap_key": lambda told: ledger.swap_key(
            replace(key, wrapped=b"new", kek_version=2), key.wrapped, told
        ),
        "admit": lambda told: ledger.admit(scene.lease_row(tagged), Limits(), told),
        "extend": lambda told: ledger.extend(lease.id, now + 2 * HOUR, told),
        "end": lambda told: ledger.end(lease.id, now, "released", told),
        "revoke": lambda told: ledger.revoke(scene.revocation("principal", ALICE), told),
        "set_policy_revision": lambda told: ledger.set_policy_revision("sha256:new", told),
    }


def _everything(ledger: Ledger) -> list[object]:
    """All that can be read of the scene's ledger but the log."""
    uploads = ledger.dead_uploads(2**50, limit=1000)
    return [
        [ledger.model("default", row.model) for row in ledger.models("default")],
        ledger.versions("default", "m"),
        ledger.tags("default", "m"),
        sorted(uploads, key=lambda row: row.id),
        ledger.keys_below("default", "m", 99),
        ledger.leases(),
        ledger.revoked(subject=ALICE, version="", at=0),
        ledger.policy_revision(),
    ]


METHODS = [
    "create_model", "update_record", "put_tag", "begin", "publish", "hide version", "drop_upload",
    "drop_version", "raise_floor", "swap_key", "admit", "extend", "end", "revoke",
    "set_policy_revision",
]  # fmt: skip


class TestBothOrNeither:
    @pytest.mark.parametrize("method", METHODS)
    def test_a_change_has_its_entry(self, scene: Scene, method: str) -> None:
        change = _changes(scene)[method]
        before, told = scene.ledger.entries(), entry()
        state = _everything(scene.ledger)
        change(told)
        assert _everything(scene.ledger) != state
        assert scene.ledger.entries() == [*before, replace(told, seq=len(before) + 1)]

    @pytest.mark.parametrize("method", METHODS)
    def test_no_change_without_its_entry(self, scene: Scene, method: str) -> None:
        change = _changes(scene)[method]
        used = scene.ledger.append(entry())
        state = _everything(scene.ledger)
        with refused(scene.ledger, Conflict, "already_recorded"):
            change(used)
        assert _everything(scene.ledger) == state
        change(entry())
        seqs = [told.seq for told in scene.ledger.entries()]
        assert seqs == list(range(1, len(seqs) + 1))


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_a_page_has_a_sane_size(scene: Scene, limit: int) -> None:
    calls = (
        lambda: scene.ledger.entries(limit=limit),
        lambda: scene.ledger.last_entries(limit=limit),
        lambda: scene.ledger.leases(limit=limit),
        lambda: scene.ledger.dead_uploads(scene.now, limit=limit),
        lambda: scene.ledger.dead_versions(scene.now, limit=limit),
        lambda: scene.ledger.keys_below("default", "m", 1, limit=limit),
    )
    for call in calls:
        with refused(scene.ledger, InvalidRequest, "bad_limit"):
            call()
