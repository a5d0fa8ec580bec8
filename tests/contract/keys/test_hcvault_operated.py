"""A key service as operators run it: sealed and unsealed, behind TLS, as a standby, in namespaces.

`test_keys_contract` asks what keys are; here it is what operators do to the server beneath them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from modelvault.adapters.keys_hcvault import AppRole, Connection, HcvaultKeys, Server
from modelvault.adapters.keys_hcvault.admin import HcvaultAdmin
from modelvault.adapters.keys_hcvault.setup import GivenToken, Setup
from modelvault.errors import ModelVaultError, Unavailable
from support.servers.hcvault import ROOT, DevServer
from support.servers.hcvault_node import Certificates, Node

KEK = "mv-" + "ab" * 16
CONTEXT = bytes(32)


# What a standby whose active node is gone may come to.
OUTAGES = {
    "hcvault": {"key_service_unavailable"},
    "openbao": {"key_service_unavailable", "answered"},
}


class Cluster:
    """A node with a vault's mount, and a broker's keys through it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.tls = Certificates(folder / "tls")
        self.node = Node(kind, folder / "one", self.tls)
        self.unseal_key, self.root = self.node.init()
        self.node.unseal(self.unseal_key)
        self.open: list[Callable[[], None]] = []
        setup = Setup(self.node.server(), self.root)
        setup.mount()
        setup.policies()
        credential = setup.approle("broker")
        setup.close()
        secret = folder / "secret"
        secret.write_text(credential.secret_id)
        self.login = AppRole(role_id=credential.role_id, secret_id_file=secret)
        steward = Connection(self.node.server(), GivenToken(token=self.root))  # type: ignore[arg-type]
        HcvaultAdmin(steward).create(KEK)
        steward.close()

    def keys(self, server: Server | None = None) -> HcvaultKeys:
        connection = Connection(server or self.node.server(), self.login)
        self.open.append(connection.close)
        return HcvaultKeys(connection)

    def close(self) -> None:
        for each in self.open:
            each()
        self.node.process.stop()


@pytest.fixture(scope="module", params=["hcvault", "openbao"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    made = Cluster(request.param, tmp_path_factory.mktemp("node"))
    yield made
    made.close()


def outage(keys: HcvaultKeys) -> str:
    """What a broker is told, who wants a data key."""
    with pytest.raises(Unavailable) as refused:
        keys.data_key(KEK, CONTEXT)
    assert refused.value.code == "key_service_unavailable"
    assert refused.value.hint
    return refused.value.message


def test_sealed_and_unsealed(cluster: Cluster) -> None:
    """By the same connection: nobody has to start a broker again."""
    keys = cluster.keys()
    secret, wrapped = keys.data_key(KEK, CONTEXT)
    cluster.node.seal(cluster.root)
    assert "sealed" in outage(keys)
    with pytest.raises(Unavailable):
        keys.unwrap(KEK, wrapped, CONTEXT)
    cluster.node.unseal(cluster.unseal_key)
    assert keys.unwrap(KEK, wrapped, CONTEXT).reveal() == secret.reveal()


def test_started_anew(cluster: Cluster) -> None:
    """Down, then sealed, then there again with all that it had."""
    keys = cluster.keys()
    secret, wrapped = keys.data_key(KEK, CONTEXT)
    cluster.node.process.kill()
    assert "can't be reached" in outage(keys)
    cluster.node.start()
    assert "sealed" in outage(keys)
    cluster.node.unseal(cluster.unseal_key)
    assert keys.unwrap(KEK, wrapped, CONTEXT).reveal() == secret.reveal()


def test_only_with_a_clients_certificate(cluster: Cluster) -> None:
    cluster.keys().data_key(KEK, CONTEXT)
    without = cluster.keys(cluster.node.server(certificate=None, key=None))
    assert "gives no answer" in outage(without)


def test_only_a_server_of_the_right_ca(cluster: Cluster, tmp_path: Path) -> None:
    other = Certificates(tmp_path / "tls")
    assert "certificate" in outage(cluster.keys(cluster.node.server(ca=other.ca)))
    assert "certificate" in outage(cluster.keys(cluster.node.server(ca=None)))


def test_a_standby(cluster: Cluster) -> None:
    """It hands requests on to the active node; without one it's an outage, and no wrong answer."""
    standby = Node(cluster.kind, cluster.folder / "two", cluster.tls)
    try:
        standby.join(cluster.node)
        standby.unseal(cluster.unseal_key, until=429)
        keys = cluster.keys(standby.server(timeout_s=2.0))
        secret, wrapped = keys.data_key(KEK, CONTEXT)
        assert cluster.keys().unwrap(KEK, wrapped, CONTEXT).reveal() == secret.reveal()
        cluster.node.process.kill()
        try:
            alone, again = keys.data_key(KEK, CONTEXT)
        except Unavailable as refused:
            code = refused.code
        else:  # OpenBao's standbys answer by themselves what writes nothing
            code = "answered"
            assert keys.unwrap(KEK, again, CONTEXT).reveal() == alone.reveal()
        assert code in OUTAGES[cluster.kind]
        cluster.node.start()
        cluster.node.ask("PUT", "sys/unseal", {"key": cluster.unseal_key})
        standby.process.until(lambda: {standby.health(), cluster.node.health()} == {200, 429})
        assert keys.unwrap(KEK, wrapped, CONTEXT).reveal() == secret.reveal()
    finally:
        standby.process.stop()


@pytest.fixture
def dev() -> Iterator[DevServer]:
    server = DevServer("openbao")
    for name in ("team", "other"):
        made = requests.post(
            f"{server.address}/v1/sys/namespaces/{name}",
            headers={"X-Vault-Token": ROOT}, json={}, timeout=10,
        )  # fmt: skip
        assert made.status_code == 200, made.text
    yield server
    server.stop()


def connection(dev: DevServer, namespace: str | None, login: object) -> Connection:
    server = Server(address=dev.address, mount="mv", namespace=namespace)
    return Connection(server, login)  # type: ignore[arg-type]


def test_in_a_namespace(dev: DevServer, tmp_path: Path) -> None:
    """Of OpenBao; HashiCorp Vault has them in its enterprise edition alone."""
    login = {}
    for namespace in ("team", "other"):
        setup = Setup(Server(address=dev.address, mount="mv", namespace=namespace), ROOT)
        setup.mount()
        setup.policies()
        credential = setup.approle("broker")
        setup.close()
        path = tmp_path / namespace
        path.write_text(credential.secret_id)
        login[namespace] = AppRole(role_id=credential.role_id, secret_id_file=path)
        admin = connection(dev, namespace, GivenToken(token=ROOT))
        HcvaultAdmin(admin).create(KEK)
        admin.close()
    team = connection(dev, "team", login["team"])
    secret, wrapped = HcvaultKeys(team).data_key(KEK, CONTEXT)
    assert HcvaultKeys(team).unwrap(KEK, wrapped, CONTEXT).reveal() == secret.reveal()
    other = connection(dev, "other", login["other"])
    with pytest.raises(ModelVaultError):  # a key of the same name, and another one
        HcvaultKeys(other).unwrap(KEK, wrapped, CONTEXT)
    strangers = [connection(dev, place, login["team"]) for place in ("other", None)]
    for each in strangers:
        assert "refuses this login" in outage(HcvaultKeys(each))
    for each in (team, other, *strangers):
        each.close()
