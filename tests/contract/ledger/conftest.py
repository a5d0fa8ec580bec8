"""The ledgers that the suites here run against."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault.adapters.ledger_sql import SqlLedger
from modelvault.adapters.ledger_sql.schema import metadata
from modelvault.clock import utc_ms
from modelvault.ports import Ledger
from support.empty_ledger import fresh_ledger
from support.ledger_scene import Scene
from support.plain_ledger import PlainLedger
from support.servers.postgresql import FAST, Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    made = Cluster(*FAST)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> str:
    """A database with an empty ledger, to make others of."""
    name = cluster.fresh()
    SqlLedger.create(cluster.url(name), utc_ms).close()
    return name


@pytest.fixture(scope="session")
def shared(cluster: Cluster, template: str) -> str:
    """A database that one test uses after the other: to make one takes longer than most tests."""
    return cluster.fresh(template)


def empty(cluster: Cluster, database: str) -> None:
    """Take from a ledger what a test has written. It came there by the port alone: as rows."""
    written = [name for name in metadata.tables if name != "about"]
    with cluster.connect(database) as connection:
        connection.execute("SET lock_timeout = '30s'")
        connection.execute(f"TRUNCATE {', '.join(written)}")  # type: ignore[arg-type]
        connection.execute("INSERT INTO head (id, seq) VALUES (1, 0)")


@pytest.fixture(params=["plain", "sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "plain":
        yield PlainLedger()
        return
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("cluster")
        database = request.getfixturevalue("shared")
        empty(cluster, database)
        opened = SqlLedger(cluster.url(database), utc_ms, deadline_s=30)
        yield opened
        opened.close()
        return
    made = fresh_ledger(tmp_path / "ledger.db", utc_ms, deadline_s=30)
    yield made
    made.close()


@pytest.fixture
def scene(ledger: Ledger) -> Scene:
    """A model `m`, and a policy revision."""
    scene = Scene(ledger, ledger.now())
    scene.create()
    scene.publish_policy()
    return scene
