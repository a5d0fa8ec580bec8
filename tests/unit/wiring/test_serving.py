"""Putting a broker together: what is refused before anything is served."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest

from modelvault import clock as clocks
from modelvault import deployment
from modelvault.adapters.ledger_sql import SqlLedger
from modelvault.clock import utc_ms
from modelvault.deployment import Deployment, Login
from modelvault.errors import InvalidRequest, Unavailable
from modelvault.server.metrics import Metrics
from modelvault.wiring import hcvault, places, serving

TEXT = """
[vault]
trust = "trust.json"
[keys]
address = "http://127.0.0.1:1"
broker = {token_file = "token"}
[ledger]
url = "sqlite:///{folder}/ledger.db"
[objects]
bucket = "models"
[[issuers]]
name = "idp"
"""


@pytest.fixture
def told(tmp_path: Path) -> Deployment:
    path = tmp_path / "broker.toml"
    path.write_text(TEXT.replace("{folder}", str(tmp_path)))
    return deployment.read(path)


def serves(told: Deployment, role: str) -> Deployment:
    return msgspec.structs.replace(told, serve=msgspec.structs.replace(told.serve, role=role))


def test_each_role_has_a_login_of_its_own(told: Deployment) -> None:
    for role in ("both", "steward"):
        with pytest.raises(InvalidRequest) as refused:
            hcvault.connections(serves(told, role))
        assert refused.value.code == "bad_deployment"
        assert "[keys.steward]" in refused.value.message
    broker, steward = hcvault.connections(serves(told, "broker"))
    assert broker is not None
    assert steward is None
    broker.close()


def test_and_signs_with_its_own_keys_alone(told: Deployment) -> None:
    assert hcvault.purposes(serves(told, "broker")) == ("manifest",)
    assert hcvault.purposes(serves(told, "steward")) == ("record", "log", "bundle")
    assert hcvault.purposes(serves(told, "both")) == ("manifest", "record", "log", "bundle")


def test_what_isnt_served_has_no_keys() -> None:
    for refused in (lambda: hcvault.keys(None).data_key, lambda: hcvault.admin(None).create):
        with pytest.raises(InvalidRequest) as caught:
            refused()
        assert caught.value.code == "not_served_here"


def test_nobody_signs_for_opa_without_one(told: Deployment) -> None:
    assert hcvault.opa_signer(told, None) is None


@pytest.mark.parametrize(
    ("login", "kind"),
    [
        ({"approle": {"role_id": "r", "secret_id_file": "s"}}, "AppRole"),
        ({"jwt": {"role": "r", "token_file": "t", "mount": "jwt"}}, "Workload"),
        ({"kubernetes": {"role": "r", "token_file": "t", "mount": "kubernetes"}}, "Workload"),
        ({"token_file": "t"}, "TokenFile"),
    ],
)
def test_ways_to_log_in(login: dict[str, object], kind: str) -> None:
    read = msgspec.convert(login, Login, dec_hook=lambda _kind, text: Path(text))
    assert type(hcvault._login(read)).__name__ == kind


def test_a_clock_that_is_off_serves_nobody(
    told: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    SqlLedger.create(told.ledger.url, utc_ms).close()
    places.open_ledger(told).close()
    monkeypatch.setattr(SqlLedger, "now", lambda _self: clocks.utc_ms() + 35_500)
    closed: list[SqlLedger] = []
    close = SqlLedger.close
    monkeypatch.setattr(SqlLedger, "close", lambda self: (closed.append(self), close(self)))
    with pytest.raises(Unavailable) as refused:
        places.open_ledger(told)
    assert refused.value.code == "clock_skew"
    assert "35 s" in refused.value.message
    assert len(closed) == 1


def test_a_password_is_in_no_setting(told: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss/word\n")
    ledger = deployment.LedgerAt(
        url="postgresql+psycopg://modelvault@db/modelvault", password_file=file
    )
    changed = msgspec.structs.replace(told, ledger=ledger)
    assert places.ledger_url(changed).startswith("postgresql+psycopg://modelvault:p%40ss%2Fword@db")
    assert "p@ss" not in repr(changed)


def test_networks() -> None:
    assert str(serving._network("10.0.0.0/8")) == "10.0.0.0/8"
    with pytest.raises(InvalidRequest) as refused:
        serving._network("10.0.0.1/8")
    assert refused.value.code == "bad_deployment"


def test_a_port_for_metrics_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InvalidRequest) as refused:
        serving._listen(Metrics(), "127.0.0.1", taken.getsockname()[1])
    assert refused.value.code == "bad_serving"
    assert "metrics_port" in refused.value.hint
