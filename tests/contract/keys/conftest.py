"""The key services that the suite here runs against: one fixture more for each adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from modelvault.adapters.keys_local import KeyFile, LocalKeyring
from modelvault.ports import KeyAdmin, KeyService, Signer


class Keys(msgspec.Struct, frozen=True):
    """A fresh key service: the broker's identity, the steward's, and what signs."""

    service: KeyService
    admin: KeyAdmin
    signer: Signer


def local(folder: Path) -> tuple[Keys, Callable[[], None]]:
    source = KeyFile(folder / "root.key")
    LocalKeyring.make(folder / "keyring.json", source)
    keyring = LocalKeyring(folder / "keyring.json", source)
    return Keys(keyring, keyring, keyring), keyring.close


ADAPTERS = {"local": local}


@pytest.fixture(params=ADAPTERS)
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Keys]:
    made, close = ADAPTERS[request.param](tmp_path)
    yield made
    close()
