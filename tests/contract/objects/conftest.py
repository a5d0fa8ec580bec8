"""The object stores that the suite here runs against: one entry more for each adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelvault.adapters.objects_folder import FolderStore
from modelvault.adapters.objects_s3 import S3Store
from modelvault.ports import ObjectStore
from support.servers.s3 import S3Server


def folder(path: Path) -> tuple[ObjectStore, Callable[[], None]]:
    store = FolderStore(path, threads=3)
    return store, store.close


@pytest.fixture(scope="session")
def versitygw() -> Iterator[S3Server]:
    server = S3Server("versitygw")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[S3Server]:
    server = S3Server("seaweedfs")
    yield server
    server.stop()


@pytest.fixture(params=["folder", "versitygw", "seaweedfs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "folder":
        made, close = folder(tmp_path)
    else:
        made = S3Store(request.getfixturevalue(request.param).bucket())
        close = made.close
    yield made
    close()
