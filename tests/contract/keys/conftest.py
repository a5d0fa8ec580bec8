"""The key services that the suite here runs against: one fixture more for each adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from modelvault.adapters.keys_hcvault import (
    Connection,
    HcvaultAdmin,
    HcvaultKeys,
    HcvaultSigner,
)
from modelvault.adapters.keys_hcvault.setup import GivenToken
from modelvault.adapters.keys_hcvault.signing import HcvaultSigningAdmin
from modelvault.adapters.keys_local import KeyFile, LocalKeyring
from modelvault.ports import KeyAdmin, KeyService, Signer, SigningAdmin
from support.servers.hcvault import ROOT, DevServer


class Keys(msgspec.Struct, frozen=True):
    """A fresh key service: the broker's identity, the steward's, what signs, and who may exchange
    signing keys."""

    service: KeyService
    admin: KeyAdmin
    signer: Signer
    signing: SigningAdmin


def local(folder: Path) -> tuple[Keys, Callable[[], None]]:
    source = KeyFile(folder / "root.key")
    LocalKeyring.make(folder / "keyring.json", source)
    keyring = LocalKeyring(folder / "keyring.json", source)
    return Keys(keyring, keyring, keyring, keyring), keyring.close


def transit(dev: DevServer) -> tuple[Keys, Callable[[], None]]:
    """The broker and the steward each with a login and a policy of its own."""
    mounted = dev.mounted("token")
    broker, steward = mounted.connection("broker"), mounted.connection("steward")
    # No role of ours may sign tokens: the one who tests does.
    tester = Connection(mounted.server, GivenToken(token=ROOT))
    signer = HcvaultSigner(
        {"manifest": broker, "record": steward, "log": steward, "bundle": steward, "token": tester}
    )
    signing = HcvaultSigningAdmin(tester)
    return Keys(HcvaultKeys(broker), HcvaultAdmin(steward), signer, signing), mounted.close


@pytest.fixture(scope="session")
def hcvault() -> Iterator[DevServer]:
    server = DevServer("hcvault")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def openbao() -> Iterator[DevServer]:
    server = DevServer("openbao")
    yield server
    server.stop()


@pytest.fixture(params=["local", "hcvault", "openbao"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Keys]:
    if request.param == "local":
        made, close = local(tmp_path)
    else:
        made, close = transit(request.getfixturevalue(request.param))
    yield made
    close()
