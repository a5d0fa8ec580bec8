"""The ledgers that the suites here run against."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault.adapters.ledger_sql import SqlLedger
from modelvault.clock import utc_ms
from modelvault.ports import Ledger
from support.ledger_scene import Scene
from support.plain_ledger import PlainLedger


@pytest.fixture(params=["plain", "sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "plain":
        yield PlainLedger()
        return
    made = SqlLedger.create(f"sqlite:///{tmp_path}/ledger.db", utc_ms, deadline_s=30)
    yield made
    made.close()


@pytest.fixture
def scene(ledger: Ledger) -> Scene:
    """A model `m`, and a policy revision."""
    scene = Scene(ledger, ledger.now())
    scene.create()
    scene.publish_policy()
    return scene
