"""Making a served vault: what is decided before and between the calls to the servers."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from modelvault import deployment
from modelvault.adapters.keys_local import KeyFile, LocalKeyring
from modelvault.adapters.ledger_sql import SqlLedger, schema
from modelvault.clock import utc_ms
from modelvault.deployment import AppRole, Deployment, Login
from modelvault.errors import Conflict, IntegrityError, InvalidRequest, Unavailable
from modelvault.wiring import founding
from modelvault_policies import files
from support.ledger_scene import entry
from support.rego import Direct

TEXT = """
[vault]
trust = "trust/trust.json"
[keys]
address = "http://127.0.0.1:1"
[ledger]
url = "sqlite:///{folder}/ledger.db"
[objects]
bucket = "models"
[[issuers]]
name = "idp"
[[issuers]]
name = "k8s"
"""


@pytest.fixture
def told(tmp_path: Path) -> Deployment:
    path = tmp_path / "broker.toml"
    path.write_text(TEXT.replace("{folder}", str(tmp_path)))
    return deployment.read(path)


@pytest.fixture
def keyring(tmp_path: Path) -> LocalKeyring:
    source = KeyFile(tmp_path / "root.key")
    LocalKeyring.make(tmp_path / "keyring.json", source)
    return LocalKeyring(tmp_path / "keyring.json", source)


@pytest.mark.parametrize(
    ("admins", "named"),
    [
        ([], "no group"),
        (["vault-admins"], "vault-admins"),
        (["idp:admins", "other:admins"], "other:admins"),
        (["Idp:admins"], "Idp:admins"),
    ],
)
def test_admins_that_nobody_could_be(told: Deployment, admins: list[str], named: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        founding.found(told, "token", admins)  # before any server is asked
    with pytest.raises(InvalidRequest) as foretold:
        founding.check(told, admins)
    assert str(foretold.value) == str(refused.value)
    assert refused.value.code == "bad_admins"
    assert named in refused.value.message
    assert "idp, k8s" in refused.value.hint


class TestTrust:
    def test_a_new_vault_and_the_same_one_again(
        self, told: Deployment, keyring: LocalKeyring
    ) -> None:
        made = founding._trust(told, keyring)
        assert {key.purpose for key in made.keys} == {"manifest", "record", "log", "bundle"}
        assert len(made.vault) == 32
        assert told.vault.trust.stat().st_mode & 0o077 == 0
        assert founding._trust(told, keyring) == made

    def test_one_of_another_key_service(
        self, told: Deployment, keyring: LocalKeyring, tmp_path: Path
    ) -> None:
        founding._trust(told, keyring)
        before = told.vault.trust.read_bytes()
        (tmp_path / "other").mkdir()
        source = KeyFile(tmp_path / "other" / "root.key")
        LocalKeyring.make(tmp_path / "other" / "keyring.json", source)
        with pytest.raises(IntegrityError) as refused:
            founding._trust(told, LocalKeyring(tmp_path / "other" / "keyring.json", source))
        assert refused.value.code == "other_vault"
        assert told.vault.trust.read_bytes() == before

    def test_where_nothing_can_be_written(
        self, told: Deployment, keyring: LocalKeyring, tmp_path: Path
    ) -> None:
        (tmp_path / "trust").write_text("a file where the folder would be")
        with pytest.raises(Unavailable) as refused:
            founding._trust(told, keyring)
        assert refused.value.code == "cant_write"


class TestLedger:
    def test_one_that_was_made_and_left_is_used(self, told: Deployment) -> None:
        SqlLedger.create(told.ledger.url, utc_ms).close()
        founding.check(told, ["idp:admins"])
        ledger = founding._ledger(told)
        assert ledger.policy_revision() is None
        ledger.close()

    def test_a_check_makes_none(self, told: Deployment, tmp_path: Path) -> None:
        before = set(tmp_path.iterdir())
        founding.check(told, ["idp:admins"])
        assert set(tmp_path.iterdir()) == before

    @pytest.mark.parametrize("begun", ["entry", "policy"])
    def test_one_that_lives_is_not(self, told: Deployment, begun: str) -> None:
        ledger = founding._ledger(told)
        if begun == "entry":
            ledger.append(entry())
        else:
            ledger.set_policy_revision("sha256:" + "1" * 64, entry())
        ledger.close()
        with pytest.raises(Conflict) as refused:
            founding._ledger(told)
        assert refused.value.code == "ledger_exists"
        with pytest.raises(Conflict) as foretold:
            founding.check(told, ["idp:admins"])
        assert str(foretold.value) == str(refused.value)


class TestFirstPolicy:
    def test_is_the_shipped_one_for_this_issuers_groups(self, told: Deployment) -> None:
        made = founding._first_policy(told, ["idp:vault-admins", "k8s:ops"])
        assert made.modules == files.modules()
        data = json.loads(made.data)
        groups = {grant["role"]: grant.get("groups") for grant in data["grants"]}
        assert groups["admin"] == ["idp:vault-admins", "k8s:ops"]
        assert groups["inference"] == ["idp:inference"]
        assert groups["owner"] is None
        shipped = files.data()
        assert {**data, "grants": None} == {**shipped, "grants": None}
        assert "local:" not in made.data

    def test_its_admins_may_publish_another(self, told: Deployment) -> None:
        from modelvault.policy.bundle import Bundle
        from modelvault.policy.questions import drawn

        made = founding._first_policy(told, ["idp:vault-admins"])
        bundle = Bundle(modules=made.modules, data=json.loads(made.data))
        asked = [
            one.input
            for one in drawn(bundle, bundle)
            if one.name.startswith("group idp:vault-admins write_policy")
        ]
        assert asked
        engine = Direct(bundle)
        assert all(engine.evaluate(one).document["decision"] is True for one in asked)


class TestLogins:
    class Setup:
        def __init__(self) -> None:
            self.asked: list[tuple[str, str, str]] = []

        def approle(self, role: str, mount: str, role_id: str):
            from modelvault.adapters.keys_hcvault.setup import Credential

            self.asked.append((role, mount, role_id))
            return Credential(role_id=role_id, secret_id=f"secret-{len(self.asked)}")

    def test_an_approle_gets_its_secret_once(self, tmp_path: Path) -> None:
        setup, file = self.Setup(), tmp_path / "secrets" / "broker"
        login = Login(approle=AppRole(role_id="mv-broker", secret_id_file=file))
        for _ in range(2):  # what an earlier run wrote stands: brokers may use it already
            founding._log_in_later(setup, "broker", login)  # type: ignore[arg-type]
        assert setup.asked == [("broker", "approle", "mv-broker")]
        assert file.read_text() == "secret-1"
        assert file.stat().st_mode & 0o077 == 0

    @pytest.mark.parametrize("login", [None, Login(token_file=Path("/run/token"))])
    def test_other_ways_are_the_operators(self, login: Login | None) -> None:
        setup = self.Setup()
        founding._log_in_later(setup, "broker", login)  # type: ignore[arg-type]
        assert setup.asked == []


def test_migrate_reads_the_deployment(told: Deployment, tmp_path: Path) -> None:
    SqlLedger.create(told.ledger.url, utc_ms).close()
    assert founding.migrate(tmp_path / "broker.toml") == (schema.VERSION, schema.VERSION)
    (tmp_path / "ledger.db").unlink()
    with pytest.raises(Unavailable):
        founding.migrate(tmp_path / "broker.toml")


def test_what_was_founded_holds_no_secret() -> None:
    fields = {field.name for field in msgspec.structs.fields(founding.Founded)}
    assert fields == {"vault", "trust", "policy_revision", "admins", "opa_key"}
