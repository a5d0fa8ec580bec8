"""The brokers that the suite here runs against: in this process, and over HTTP with and without
TLS."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from modelvault.adapters.broker_http import Address, Connection, RemoteBroker
from modelvault.server.app import create
from modelvault.server.metrics import Metrics
from modelvault.server.service import Service
from modelvault.server.serving import Server, Serving
from support.links import PlainLinks
from support.servers.process import free_port, listening
from support.vaults import Vault, make


class Running:
    """A server in a thread, over a vault's broker."""

    def __init__(self, vault: Vault, tls: tuple[Path, Path] | None = None) -> None:
        self.server = Server()
        self.port = free_port()
        self.metrics = Metrics()
        service = Service(
            broker=vault.broker,
            steward=vault.broker,
            states=dict,
            metrics=self.metrics,
            revision=vault.ledger.policy_revision,
            draining=self.server.draining,
        )
        serving = Serving(
            host="127.0.0.1",
            port=self.port,
            certificate=None if tls is None else tls[0],
            key=None if tls is None else tls[1],
        )
        self._thread = threading.Thread(target=self.server.run, args=(create(service, 8), serving))
        self._thread.start()
        while not listening(self.port):
            assert self._thread.is_alive()

    def stop(self) -> None:
        self.server.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(CA, certificate, key)."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(folder / "leaf.pem"))
    leaf.private_key_pem.write_to_path(str(folder / "leaf.key"))
    return folder / "ca.pem", folder / "leaf.pem", folder / "leaf.key"


@pytest.fixture(params=["local", "http", "https"])
def vault(
    request: pytest.FixtureRequest, tmp_path: Path, tls: tuple[Path, Path, Path]
) -> Iterator[Vault]:
    """A vault whose `broker` is the one under test; `local` is the one behind it."""
    made = make(tmp_path)
    made.links = PlainLinks()  # type: ignore[attr-defined]
    made.broker = made.another_broker(urls=made.links)  # type: ignore[attr-defined]
    made.local = made.broker  # type: ignore[attr-defined]
    if request.param == "local":
        yield made
        made.close()
        return
    secure = request.param == "https"
    running = Running(made, tls[1:] if secure else None)
    url = f"{request.param}://127.0.0.1:{running.port}"
    remote = RemoteBroker(
        Connection(Address(url=url, ca=tls[0] if secure else None), pause=lambda _s: None)
    )
    made.broker = remote  # type: ignore[assignment]
    yield made
    remote.close()
    running.stop()
    made.close()
