"""Contract: what is counted is counted once, however many processes ask at the same moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault.adapters.ledger_sql import SqlLedger
from modelvault.clock import to_text, utc_ms
from modelvault.errors import AccessDenied
from support.ledger_scene import ALICE, DAY, HOUR, Scene, refused
from support.racing import race
from support.servers.postgresql import Cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A ledger with one version of `m`, and one lease of it that runs."""
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("cluster")
        database = cluster.fresh(request.getfixturevalue("template"))
        yield cluster.url(database)
        cluster.drop(database)
        return
    made = f"sqlite:///{tmp_path}/ledger.db"
    SqlLedger.create(made, utc_ms).close()
    yield made


@pytest.fixture
def processes(url: str) -> int:
    """Many on the database that many brokers share; with a file, a command beside another."""
    return 8 if url.startswith("postgresql") else 2


@pytest.fixture
def scene(url: str) -> Iterator[Scene]:
    ledger = SqlLedger(url, utc_ms, deadline_s=30)
    made = Scene(ledger, ledger.now())
    made.create()
    made.publish_policy()
    made.push()
    yield made
    ledger.close()


def version(scene: Scene):
    return scene.ledger.version("default", "m", 1)


def test_64_asks_of_8_processes_for_the_last_slot(scene: Scene, url: str, processes: int) -> None:
    running = scene.lease(version(scene))
    found = race(url, processes=processes, threads=8, slots=2, budget=None)
    given = [one.lease for one in found if one.lease]
    denied = [one for one in found if one.code]
    assert (len(given), len(denied)) == (1, 8 * processes - 1)
    assert {one.code for one in denied} == {"max_concurrent_leases"}
    assert {row.id for row in scene.ledger.leases()} == {running.id, given[0]}
    for one in denied:
        assert one.details is not None
        assert (one.details["limit"], one.details["used"]) == (2, 2)
        assert one.details["resets_at"] == to_text(running.expires_at)  # the first that ends
    told = scene.ledger.entries(limit=1000)
    assert [one.seq for one in told] == list(range(1, len(told) + 1))
    assert sum(one.lease is not None for one in told) == 2


def test_64_asks_of_8_processes_for_the_last_bytes_of_the_day(
    scene: Scene, url: str, processes: int
) -> None:
    size = version(scene).size
    scene.lease(version(scene))
    found = race(url, processes=processes, threads=8, slots=None, budget=3 * size - 1)
    given = [one.lease for one in found if one.lease]
    denied = [one for one in found if one.code]
    assert (len(given), len(denied)) == (1, 8 * processes - 1)
    assert {one.code for one in denied} == {"max_bytes_per_day"}
    midnight = to_text((scene.now // DAY + 1) * DAY)
    for one in denied:
        assert one.details == {
            "limit": 3 * size - 1, "used": 2 * size, "asked": size, "resets_at": midnight,
        }  # fmt: skip
    assert scene.ledger.usage(ALICE, to_text(scene.now)[:10]) == 2 * size


def test_a_crashed_jobs_slot_is_free_after_two_missed_heartbeats(scene: Scene) -> None:
    """A job renews at two thirds of its ttl. One that died holds its slot until the ttl is over:
    before the second heartbeat that doesn't come."""
    ttl = HOUR
    heartbeat = ttl * 2 // 3
    crashed = scene.lease(version(scene), expires_at=scene.now + ttl)

    def ask(at: int):
        return scene.lease_row(version(scene), granted_at=at, expires_at=at + ttl)

    with refused(scene.ledger, AccessDenied, "max_concurrent_leases") as refusal:
        scene.admit(ask(scene.now + heartbeat), slots=1)
    assert refusal.value.details == {
        "limit": 1, "used": 1, "resets_at": to_text(crashed.expires_at),
    }  # fmt: skip
    assert scene.admit(ask(scene.now + 2 * heartbeat), slots=1).repeated is False
