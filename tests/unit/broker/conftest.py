from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.vaults import Vault, opened


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    """A vault with one empty model, `m`, owned by local:alice."""
    with opened(tmp_path) as made:
        made.create("m")
        yield made
