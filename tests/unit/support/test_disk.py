from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from support.disk import Disk, disk_of_its_own


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    folder = tmp_path / "plain"
    folder.mkdir()
    array = np.random.default_rng(0).standard_normal(2048, dtype="f4")
    save_file({"w": array}, folder / "model.safetensors")
    return folder


def run(tmp_path: Path, plain: Path, work: Callable[[Disk, bytes], object]) -> None:
    with disk_of_its_own(tmp_path, plain) as disk:
        work(disk, (plain / "model.safetensors").read_bytes())


def forgotten(_disk: Disk, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(delete=False) as file:
        file.write(data[100:])


def elsewhere(disk: Disk, data: bytes) -> None:
    folder = disk.folders[0].parent / "vault"
    folder.mkdir()
    (folder / "file").write_bytes(data)
    disk.also(folder)


WRITERS = {
    "temporary file": forgotten,
    "cache": lambda _, data: Path(os.environ["HF_HOME"], "blob").write_bytes(b"x" + data),
    "folder named": elsewhere,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_weights_that_stay_on_it_are_found(tmp_path: Path, plain: Path, writer: str) -> None:
    before = dict(os.environ), tempfile.gettempdir()
    with pytest.raises(AssertionError, match="plaintext"):
        run(tmp_path, plain, WRITERS[writer])
    assert (dict(os.environ), tempfile.gettempdir()) == before


def test_other_files_may_stay(tmp_path: Path, plain: Path) -> None:
    run(tmp_path, plain, lambda disk, _: (disk.folders[0] / "tmp/notes").write_text("x" * 9999))
