"""The brokers that the suite here runs against: in this process, and over HTTP with and without
TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from modelvault.adapters.broker_http import Address, Connection, RemoteBroker
from support.links import PlainLinks
from support.serving import Running
from support.vaults import Vault, make


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
    made.others = {}  # type: ignore[attr-defined]  trust files of other vaults
    made.broker = made.another_broker(urls=made.links, trusted=made.others)  # type: ignore[attr-defined]
    made.local = made.broker  # type: ignore[attr-defined]
    if request.param == "local":
        yield made
        made.close()
        return
    secure = request.param == "https"
    running = Running(
        made.local, revision=made.ledger.policy_revision, tls=tls[1:] if secure else None
    )
    url = f"{request.param}://127.0.0.1:{running.port}"
    remote = RemoteBroker(
        Connection(Address(url=url, ca=tls[0] if secure else None), pause=lambda _s: None)
    )
    made.broker = remote  # type: ignore[assignment]
    yield made
    remote.close()
    running.stop()
    made.close()
