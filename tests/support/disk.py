"""A disk for one test: what a framework writes there is searched for plaintext afterwards.

    with disk_of_its_own(tmp_path, plain) as disk:
        ...  # push, load, infer; folders elsewhere are searched too: disk.also(home)

`plain`, the files in the clear, must lie elsewhere.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelvault import connect, wiring
from modelvault.client.session import Session
from support.homes import isolated
from support.plaintext import Plaintext

# Where frameworks put what they keep, and what they put somewhere for a while.
PLACES = {
    "TMPDIR": "tmp", "HOME": "home", "XDG_CACHE_HOME": "home/.cache", "HF_HOME": "home/hf",
    "TORCH_HOME": "home/torch", "TORCHINDUCTOR_CACHE_DIR": "home/inductor",
    "TRITON_CACHE_DIR": "home/triton", "VLLM_CACHE_ROOT": "home/vllm",
}  # fmt: skip


class Disk:
    """Folders that are searched at the end; `environment` sends a child's files there."""

    def __init__(self, root: Path) -> None:
        self.environment = {name: str(root / place) for name, place in PLACES.items()}
        self.folders = [root]
        for place in self.environment.values():
            Path(place).mkdir(parents=True, exist_ok=True)

    def also(self, *folders: Path) -> None:
        """Search these too."""
        self.folders += folders


@contextmanager
def disk_of_its_own(root: Path, *plain: Path) -> Iterator[Disk]:
    """Temporary files, home and caches of this process and its children go below `root`.

    At the end, if all went well, they are searched for the files and folders in `plain`.
    """
    sought = Plaintext(*plain)
    disk = Disk(root / "disk")
    before = {name: os.environ.get(name) for name in disk.environment}
    folder = tempfile.tempdir
    os.environ.update(disk.environment)
    tempfile.tempdir = None  # it was looked up once, and is now elsewhere
    try:
        yield disk
    finally:
        tempfile.tempdir = folder
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
    left = sought.left(*disk.folders)
    assert left == [], left


@contextmanager
def vault_on_its_disk(root: Path, models: Mapping[str, Path]) -> Iterator[Session]:
    """An embedded vault with `name:prod` of each folder or file, on a disk of its own.

    They stay where they are, to compare with: what lies below `root / "disk"` is searched for them.
    """
    with disk_of_its_own(root, *models.values()), pytest.MonkeyPatch.context() as patch:
        isolated(root / "disk/vault", patch)
        wiring.init()
        with connect() as session:
            for name, plain in models.items():
                session.create(name)
                session.push(plain, f"{name}:prod")
            yield session
