from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.vaults import Vault, opened

MEMORY = Path("/dev/shm")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of vaults wait for no disk."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as made:
        yield Path(made)


@pytest.fixture
def vault(folder: Path) -> Iterator[Vault]:
    """A vault with one empty model, `m`, owned by local:alice."""
    with opened(folder) as made:
        made.create("m")
        yield made
