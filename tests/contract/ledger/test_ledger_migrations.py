"""Contract: ledgers of older schemas are taken over, and programs of two versions share one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from modelvault.adapters.ledger_sql import SqlLedger, schema
from modelvault.adapters.ledger_sql.database import Database
from modelvault.adapters.ledger_sql.migrating import migrate
from modelvault.clock import utc_ms
from modelvault.errors import IntegrityError, ModelVaultError, Unavailable
from support import schemas
from support.ledger_scene import HOUR, Scene, entry
from support.servers.postgresql import Cluster
from support.vaults import Vault, opened

FILES = {"a.bin": b"weights" * 100, "config.json": b"{}"}
NOW, NEXT = schema.VERSION, schema.VERSION + 1
Url = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Url]:
    """Gives addresses of empty databases."""
    if request.param == "sqlite":
        numbers = iter(range(100))
        yield lambda: f"sqlite:///{tmp_path}/ledger-{next(numbers)}.db"
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    made: list[str] = []

    def url() -> str:
        made.append(cluster.fresh())
        return cluster.url(made[-1])

    yield url
    for name in made:
        cluster.drop(name)


@pytest.fixture
def ledger(fresh: Url) -> Iterator[tuple[str, Scene]]:
    """(address, a scene over it with one version of `m`)."""
    url = fresh()
    made = SqlLedger.create(url, utc_ms, deadline_s=30)
    scene = Scene(made, made.now())
    scene.create()
    scene.publish_policy()
    scene.push()
    yield url, scene
    made.close()


def program(version: int, url: str) -> SqlLedger:
    """The ledger as a program opens it that knows this version of the schema."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "knows", version)
        made = SqlLedger(url, utc_ms, deadline_s=30)
    made._database.knows = version
    return made


class TestTheFirstSchema:
    @pytest.fixture
    def vault(self, fresh: Url, tmp_path: Path) -> Iterator[Vault]:
        (tmp_path / "vault").mkdir()
        self.url = fresh()
        with opened(tmp_path / "vault", ledger_url=self.url) as vault:
            vault.create("m")
            vault.push("m", FILES)
            vault.broker.tag(vault.caller(), "m@1", "prod")
            yield vault

    def test_is_taken_over_with_all_that_is_in_it(self, vault: Vault, fresh: Url) -> None:
        vault.lease("m:prod")
        vault.broker.revoke(vault.caller(), kind="principal", target="local:leaver", reason="left")
        before = vault.entries()
        old = fresh()
        schemas.first(old, of=self.url)
        assert "about" not in schemas.tables(old)
        with pytest.raises(Unavailable) as refused:
            SqlLedger(old, vault.clock)
        assert refused.value.code == "ledger_too_old"
        assert "modelvault migrate" in refused.value.hint

        assert migrate(old) == (1, schema.VERSION)
        assert migrate(old) == (schema.VERSION, schema.VERSION)
        assert schemas.differences(old) == []

        taken = SqlLedger(old, vault.clock)
        vault.closing.append(taken.close)
        assert list(taken.entries(limit=1000)) == before
        (lease,) = taken.leases()
        assert lease.instance is None
        broker = vault.another_broker(ledger=taken)
        assert vault.read(vault.lease("m:prod", broker=broker)) == FILES
        with pytest.raises(ModelVaultError) as denied:
            vault.lease("m", broker=broker, caller=vault.caller("leaver"))
        assert denied.value.code == "revoked"

    def test_what_fails_half_way_changes_nothing(
        self, vault: Vault, fresh: Url, tmp_path: Path
    ) -> None:
        old = fresh()
        schemas.first(old, of=self.url)
        before = schemas.tables(old)
        scripts = schemas.later(tmp_path, schemas.EXPAND, schemas.FAILING)
        with pytest.raises(ModelVaultError):
            migrate(old, scripts)
        assert schemas.tables(old) == before
        assert migrate(old) == (1, schema.VERSION)

    def test_a_made_ledger_and_a_migrated_one_are_the_same(self, vault: Vault, fresh: Url) -> None:
        assert schemas.differences(self.url) == []


def test_two_at_once(ledger: tuple[str, Scene], tmp_path: Path) -> None:
    """Two operators, or two containers that begin with a migration."""
    url, _ = ledger
    scripts = schemas.later(tmp_path, schemas.EXPAND)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: migrate(url, scripts), range(4)))
    assert sorted(found) == [(NOW, NEXT), *[(NEXT, NEXT)] * 3]


def test_a_database_without_a_ledger(fresh: Url) -> None:
    with pytest.raises(Unavailable) as refused:
        migrate(fresh())
    assert refused.value.code == "ledger_unavailable"


class TestExpand:
    def test_both_programs_work_before_during_and_after(
        self, ledger: tuple[str, Scene], tmp_path: Path
    ) -> None:
        url, scene = ledger
        scripts = schemas.later(tmp_path, schemas.EXPAND)
        stop = threading.Event()
        done: list[int] = []

        def work(each: Scene, model: str) -> None:
            each.create(model)
            while not stop.is_set():
                walk(each, model)
                done.append(1)

        with ThreadPoolExecutor(3) as threads:
            working = [threads.submit(work, scene, model) for model in ("a", "b")]
            while len(done) < 4:
                stop.wait(0.01)
            assert migrate(url, scripts) == (NOW, NEXT)
            later = program(NEXT, url)
            so_far = len(done)
            working.append(threads.submit(work, Scene(later, scene.now), "c"))
            while len(done) < so_far + 12:
                stop.wait(0.01)
            stop.set()
            for each in working:
                each.result()
        assert {"note", "instance"} <= set(schemas.tables(url)["leases"])
        # This program may also be started now: a broker that is restarted half-way through.
        again = SqlLedger(url, utc_ms)
        assert list(again.entries(limit=10_000)) == list(later.entries(limit=10_000))
        for each in (again, later):
            each.close()

    def test_the_later_program_waits_for_it(self, ledger: tuple[str, Scene]) -> None:
        with pytest.raises(Unavailable) as refused:
            program(NEXT, ledger[0])
        assert refused.value.code == "ledger_too_old"

    def test_the_earlier_programs_migration_has_nothing_to_do(
        self, ledger: tuple[str, Scene], tmp_path: Path
    ) -> None:
        migrate(ledger[0], schemas.later(tmp_path, schemas.EXPAND))
        assert migrate(ledger[0]) == (NEXT, NEXT)


class TestContract:
    @pytest.fixture
    def contracted(self, ledger: tuple[str, Scene], tmp_path: Path) -> tuple[str, Scene]:
        """This program still has the ledger open, and what it needs was taken away."""
        url, scene = ledger
        walk(scene)
        scripts = schemas.later(tmp_path, schemas.EXPAND, schemas.CONTRACT)
        assert migrate(url, scripts) == (NOW, NEXT + 1)
        return ledger

    def test_this_program_isnt_started_any_more(self, contracted: tuple[str, Scene]) -> None:
        with pytest.raises(Unavailable) as refused:
            SqlLedger(contracted[0], utc_ms)
        assert refused.value.code == "ledger_too_new"
        assert "upgrade modelvault" in refused.value.hint

    def test_where_it_runs_it_writes_nothing_more(self, contracted: tuple[str, Scene]) -> None:
        url, scene = contracted
        with pytest.raises(Unavailable) as refused:
            scene.ledger.append(entry("too late"))
        assert refused.value.code == "ledger_too_new"
        later = program(NEXT + 1, url)
        assert "too late" not in {each.action for each in later.entries(limit=1000)}
        later.close()

    def test_nor_does_it_call_the_ledger_damaged(self, contracted: tuple[str, Scene]) -> None:
        with pytest.raises(Unavailable) as refused:
            contracted[1].ledger.leases()
        assert refused.value.code == "ledger_too_new"

    def test_the_program_that_it_was_made_for_is(self, contracted: tuple[str, Scene]) -> None:
        url, scene = contracted
        later = program(NEXT, url)
        before = len(later.entries(limit=1000))
        Scene(later, scene.now).create("new")
        assert len(later.entries(limit=1000)) == before + 1
        later.close()


@pytest.mark.parametrize("table", ["about", "head"])
def test_a_ledger_that_lost_a_row_of_its_own_is_damaged(fresh: Url, table: str) -> None:
    url = fresh()
    made = SqlLedger.create(url, utc_ms)
    with made._database._writer.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608
    with pytest.raises(IntegrityError) as refused:
        made.append(entry())
    assert refused.value.code == "ledger_corrupt"
    made.close()


def walk(scene: Scene, model: str = "m") -> None:
    """What brokers do all day: push, lease, renew, list, end."""
    version = scene.push(model)
    lease = scene.lease(version)
    renewed = scene.ledger.extend(lease.id, lease.expires_at + HOUR, entry("renew"))
    assert renewed == replace(lease, expires_at=lease.expires_at + HOUR)
    assert version.version in {each.version for each in scene.ledger.versions("default", model)}
    assert lease.id in {each.id for each in scene.ledger.leases(limit=1000)}
    scene.ledger.end(lease.id, scene.now, "released", entry("release"))
