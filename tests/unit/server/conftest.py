"""A server over a broker that does what a test says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from support.serving import Running
from support.stub_broker import StubBroker


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[StubBroker, Running]]:
    """A server takes a fifth of a second to start and stop."""
    broker = StubBroker()
    with Running(broker) as server:
        yield broker, server


@pytest.fixture
def broker(shared: tuple[StubBroker, Running]) -> StubBroker:
    """The broker behind it, which has been asked nothing yet."""
    shared[0].reset()
    return shared[0]


@pytest.fixture
def running(shared: tuple[StubBroker, Running], broker: StubBroker) -> Running:
    return shared[1]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """PEM files: `ca`, the server's `leaf` and `key`, a client's `client` (both in one)."""
    folder = tmp_path_factory.mktemp("pem")
    leaf = authority.issue_cert("127.0.0.1")
    client = authority.issue_cert("job@example.org")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(folder / "leaf.pem"))
    leaf.private_key_pem.write_to_path(str(folder / "leaf.key"))
    client.private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    return {
        "ca": folder / "ca.pem",
        "leaf": folder / "leaf.pem",
        "key": folder / "leaf.key",
        "client": folder / "client.pem",
    }
