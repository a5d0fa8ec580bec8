"""The ledgers that the suites here run against."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault.adapters.ledger_sql import SqlLedger
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


@pytest.fixture(params=["plain", "sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "plain":
        yield PlainLedger()
        return
    if request.param == "postgresql":
        cluster: Cluster = request.getfixturevalue("cluster")
        database = cluster.fresh(request.getfixturevalue("template"))
        opened = SqlLedger(cluster.url(database), utc_ms, deadline_s=30)
        yield opened
        opened.close()
        cluster.drop(database)
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
