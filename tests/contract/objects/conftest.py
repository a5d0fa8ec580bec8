"""The object stores that the suite here runs against: one entry more for each adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelvault.adapters.objects_folder import FolderStore
from modelvault.ports import ObjectStore


def folder(path: Path) -> tuple[ObjectStore, Callable[[], None]]:
    store = FolderStore(path, threads=3)
    return store, store.close


ADAPTERS = {"folder": folder}


@pytest.fixture(params=ADAPTERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    made, close = ADAPTERS[request.param](tmp_path)
    yield made
    close()
