"""An attacker with the rights of the ledger's database user: rows exchanged behind the brokers.

As for the embedded vault's file (`test_ledger_tampering`): what they may set is told in the threat
model; no document of theirs counts, and no key comes out for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault.adapters.ledger_sql import SqlLedger
from modelvault.broker.service import LocalBroker
from modelvault.errors import IntegrityError, ModelVaultError, Unavailable
from support.servers.postgresql import FAST, Cluster
from support.vaults import Vault, opened

FILES = {"a.bin": b"weights" * 20}
M1 = "model = 'm' and version = 1"
OF_M1 = f"(select artifact from versions where {M1})"  # noqa: S608
OF_N1 = "(select artifact from versions where model = 'n' and version = 1)"
NOWHERE = "sha256:" + "0" * 64

TAMPERED: dict[str, tuple[str, str]] = {
    "the record of another model": (
        "update models set record = (select record from models where model = 'n') "
        "where model = 'm'",
        "ledger_altered",
    ),
    "a serial": ("update models set serial = serial + 1 where model = 'm'", "ledger_altered"),
    "a tag that points elsewhere": (
        "update tags set version = 2 where model = 'm' and tag = 'prod'", "ledger_altered",
    ),
    "the tag of another model": (
        "update tags set record = (select record from tags where model = 'n') where model = 'm'",
        "ledger_altered",
    ),
    "the manifest of another model": (
        "update versions set (manifest, digest) = "  # noqa: S608
        f"(select manifest, digest from versions where model = 'n') where {M1}",
        "wrong_model",
    ),
    "a digest": (f"update versions set digest = '{NOWHERE}' where {M1}", "ledger_corrupt"),  # noqa: S608
    "an artifact": (f"update versions set artifact = repeat('0', 32) where {M1}",  # noqa: S608
                    "ledger_altered"),
    "a policy that was never published": (
        f"update head set policy_revision = '{NOWHERE}'", "policy_unavailable",  # noqa: S608
    ),
    "the head that is gone": ("delete from head", "ledger_corrupt"),
    "a schema of the future": ("update about set least_program = 99", "ledger_too_new"),
}  # fmt: skip
KEYS: dict[str, tuple[str, str]] = {
    "a wrapped key of another model": (
        f"update keys set wrapped = (select wrapped from keys where artifact = {OF_N1}) "  # noqa: S608
        f"where artifact = {OF_M1}",
        "bad_wrapped_key",
    ),
    "bytes that were flipped": (
        f"update keys set wrapped = set_byte(wrapped, 30, get_byte(wrapped, 30) # 1) "  # noqa: S608
        f"where artifact = {OF_M1}",
        "bad_wrapped_key",
    ),
    "no key": (f"delete from keys where artifact = {OF_M1}", "key_missing"),  # noqa: S608
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster(*FAST)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def vault(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """A vault whose ledger is copied for each test."""
    database = cluster.fresh()
    with opened(tmp_path_factory.mktemp("vault"), ledger_url=cluster.url(database)) as made:
        for name in ("m", "n"):
            made.create(name)
            made.push(name, FILES)
            made.broker.tag(made.caller(), f"{name}@1", "prod")
        made.push("m", FILES)
        made.ledger.close()
        made.original = database  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def broker(vault: Vault, cluster: Cluster) -> Iterator[tuple[LocalBroker, str, SqlLedger]]:
    """(a broker, its database, its ledger)."""
    database = cluster.fresh(vault.original)  # type: ignore[attr-defined]
    ledger = SqlLedger(cluster.url(database), vault.clock)
    yield vault.another_broker(ledger=ledger), database, ledger
    ledger.close()
    cluster.drop(database)


def tamper(cluster: Cluster, database: str, statement: str) -> None:
    with cluster.connect(database) as connection:
        assert connection.execute(statement).rowcount == 1


@pytest.mark.parametrize("case", TAMPERED)
def test_no_document_of_theirs_counts(vault: Vault, cluster: Cluster, broker, case: str) -> None:
    made, database, _ = broker
    statement, code = TAMPERED[case]
    tamper(cluster, database, statement)
    before = vault.keys.count("unwrap")
    with pytest.raises(ModelVaultError) as refused:
        vault.lease("m:prod", broker=made)
    assert refused.value.code == code
    assert isinstance(refused.value, (IntegrityError, Unavailable))  # neither a yes nor a no
    assert vault.keys.count("unwrap") == before


@pytest.mark.parametrize("case", KEYS)
def test_no_other_key_comes_out(vault: Vault, cluster: Cluster, broker, case: str) -> None:
    made, database, ledger = broker
    statement, code = KEYS[case]
    tamper(cluster, database, statement)
    with pytest.raises(ModelVaultError) as refused:
        vault.lease("m:prod", broker=made)
    assert refused.value.code == code
    assert ledger.running_leases() == 0  # what was admitted for it is over again
    assert vault.read(vault.lease("n:prod", broker=made)) == FILES


def test_an_entry_that_was_rewritten_is_noticed(vault: Vault, cluster: Cluster, broker) -> None:
    _, database, ledger = broker
    assert ledger.entries(limit=1000)
    tamper(
        cluster,
        database,
        "update entries set document = convert_to(replace(convert_from(document, 'UTF8'), "
        "'local:alice', 'local:nobody'), 'UTF8') where seq = 2",
    )
    with pytest.raises(IntegrityError) as refused:
        ledger.entries(limit=1000)
    assert refused.value.code == "ledger_corrupt"


def test_constraints_hold_against_plain_mistakes(cluster: Cluster, broker) -> None:
    """A second charge or lease for one ask, and a lease beyond its total time, can't be written."""
    import psycopg

    _, database, _ = broker
    with cluster.connect(database) as connection:
        for statement in (
            "insert into head (id, seq) values (2, 0)",
            "insert into about (id, version, least_program) values (2, 1, 1)",
            "update versions set digest = (select digest from versions where model = 'm' and "
            "version = 2) where model = 'm' and version = 1",
            "delete from models where model = 'm'",
        ):
            with pytest.raises(psycopg.IntegrityError):
                connection.execute(statement)


def test_the_originals_still_open(vault: Vault, broker, tmp_path: Path) -> None:
    made, _, _ = broker
    assert vault.read(vault.lease("m:prod", broker=made)) == FILES
