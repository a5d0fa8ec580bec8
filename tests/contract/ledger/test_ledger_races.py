"""Contract: many threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from modelvault.clock import to_text
from modelvault.errors import Conflict, ModelVaultError
from modelvault.ports import Ledger
from support.ledger_scene import ALICE, Scene, entry


def at_once(number: int, act: Callable[[int], object]) -> list[object]:
    """What `number` threads got or raised, all let go at the same moment."""
    gate = threading.Barrier(number)

    def run(place: int) -> object:
        gate.wait(30)
        try:
            return act(place)
        except ModelVaultError as error:
            return error.code

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(run, range(number)))


def test_the_last_slot_is_given_once(scene: Scene) -> None:
    version = scene.push()
    scene.lease(version)
    rows = [scene.lease_row(version) for _ in range(64)]
    found = at_once(64, lambda place: scene.admit(rows[place], slots=2).lease)
    given = [one for one in found if not isinstance(one, str)]
    assert len(given) == 1
    assert [one for one in found if isinstance(one, str)] == ["max_concurrent_leases"] * 63
    assert len(scene.ledger.leases()) == 2


def test_the_budget_of_a_day_is_never_overrun(scene: Scene) -> None:
    version = scene.push()
    rows = [scene.lease_row(version) for _ in range(24)]
    found = at_once(24, lambda place: scene.admit(rows[place], budget=5 * 12 + 11).lease)
    assert sum(not isinstance(one, str) for one in found) == 5
    assert set(filter(lambda one: isinstance(one, str), found)) == {"max_bytes_per_day"}
    assert scene.ledger.usage(ALICE, to_text(scene.now)[:10]) == 5 * 12


def test_one_ask_sent_many_times_is_one_lease(scene: Scene) -> None:
    version = scene.push()
    row = scene.lease_row(version)
    found = at_once(16, lambda _: scene.admit(row, slots=1, budget=12))
    assert sorted(one.repeated for one in found) == [False] + [True] * 15  # type: ignore[attr-defined]
    assert len({one.entry_id for one in found}) == 1  # type: ignore[attr-defined]
    assert scene.ledger.usage(ALICE, to_text(scene.now)[:10]) == 12


def test_eight_pushes_of_one_name_are_eight_versions(scene: Scene) -> None:
    uploads = [scene.begin() for _ in range(8)]

    def publish(place: int) -> int:
        while True:
            row, head = scene.next_version(uploads[place])
            try:
                scene.ledger.publish(uploads[place].id, row, head, entry("push"))
            except Conflict:
                continue
            return row.version

    assert sorted(at_once(8, publish)) == list(range(1, 9))  # type: ignore[type-var]
    rows = scene.ledger.versions("default", "m")
    assert [row.version for row in rows] == list(range(8, 0, -1))


def test_one_upload_is_published_once(scene: Scene) -> None:
    upload = scene.begin()
    rows = [scene.next_version(upload) for _ in range(8)]
    found = at_once(8, lambda place: scene.ledger.publish(upload.id, *rows[place], entry()))
    assert sorted(str(one) for one in found if isinstance(one, str)) == ["upload_closed"] * 7
    assert len(scene.ledger.versions("default", "m")) == 1


def test_a_revocation_beside_admissions_leaves_nothing_running(scene: Scene) -> None:
    version = scene.push()
    rows = [scene.lease_row(version) for _ in range(16)]

    def act(place: int) -> object:
        if place == 8:
            return scene.revoke("principal", ALICE)
        return scene.admit(rows[place])

    at_once(16, act)
    assert not scene.ledger.leases(running_at=scene.now)


def test_entries_stand_in_a_row(ledger: Ledger) -> None:
    def write(place: int) -> list[int]:
        return [ledger.append(entry(f"{place}.{turn}")).seq for turn in range(8)]

    seqs = [seq for found in at_once(16, write) for seq in found]  # type: ignore[attr-defined]
    assert sorted(seqs) == list(range(1, 129))
    told = ledger.entries(limit=1000)
    assert [one.seq for one in told] == list(range(1, 129))
    assert ledger.hashes(1, 128) == [one.leaf_hash() for one in told]


def test_a_tag_moves_once_for_each_serial(scene: Scene) -> None:
    version = scene.push()
    rows = [scene.tag_row(version) for _ in range(8)]
    found = at_once(8, lambda place: scene.ledger.put_tag(rows[place], 0, entry()))
    assert sorted(str(one) for one in found) == ["None"] + ["serial_moved"] * 7


def test_the_last_place_for_an_upload_is_given_once(scene: Scene) -> None:
    found = at_once(8, lambda _: scene.begin(max_open=1))
    assert [one for one in found if isinstance(one, str)] == ["too_many_uploads"] * 7
