"""Real files in a folder that is memory, and their end."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelvault.access import Obligations
from modelvault.errors import (
    AccessDenied,
    Conflict,
    InvalidRequest,
    ModelVaultError,
    Unavailable,
)
from modelvault.loader import ramfiles
from modelvault.loader.ramfiles import RamFiles, wipe
from support.loading import Version
from support.maps import flags

SHM = Path("/dev/shm")
pytestmark = pytest.mark.skipif(not SHM.exists(), reason="no shared memory here")


@pytest.fixture
def root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=SHM))
    yield folder
    shutil.rmtree(folder)


def writes(data: bytes) -> object:
    def fill(view: memoryview) -> None:
        view[:] = data

    return fill


def add(files: RamFiles, path: str, data: bytes) -> None:
    files.add(path, len(data), writes(data))  # type: ignore[arg-type]


def test_what_somebody_has_put_in_its_place_stays(root: Path) -> None:
    """The folder was emptied and filled anew, by another process say."""
    files = RamFiles(root)
    add(files, "deep/a", b"ours")
    add(files, "b", b"ours")
    shutil.rmtree(root / "deep")
    (root / "deep").mkdir()
    (root / "deep/a").write_bytes(b"theirs")
    files.close()
    assert (root / "deep/a").read_bytes() == b"theirs"
    assert not (root / "b").exists()


def _place(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def test_while_it_is_filled_neither_core_dumps_nor_children_have_it(root: Path) -> None:
    found: list[set[str]] = []
    RamFiles(root).add("weights", 5000, lambda view: found.append(flags(_place(view))))
    assert found[0] >= {"dd", "dc"}


def test_files_are_there_private_and_read_only(root: Path) -> None:
    files = RamFiles(root, {"c": "else/where"})
    for path in ("a", "deep/er/b", "c", "empty"):
        add(files, path, b"" if path == "empty" else path.encode())
        assert path in files
    assert (root / "deep/er/b").read_bytes() == b"deep/er/b"
    assert (root / "else/where").read_bytes() == b"c"
    assert (root / "empty").read_bytes() == b""
    assert (root / "a").stat().st_mode & 0o777 == 0o440
    assert (root / "deep").stat().st_mode & 0o777 == 0o750


def test_closing_overwrites_and_removes_them_and_nothing_else(root: Path) -> None:
    files = RamFiles(root)
    add(files, "a", b"x" * 3_000_000)
    add(files, "deep/er/b", b"y")
    add(files, "kept/c", b"z")
    (root / "kept/own").write_text("mine")
    os.link(root / "a", root / "other name")  # a name doesn't open it
    files.close()
    files.close()
    assert (root / "other name").read_bytes() == bytes(3_000_000)
    assert sorted(path.name for path in root.rglob("*")) == ["kept", "other name", "own"]
    with pytest.raises(Conflict) as refused:
        add(files, "a", b"again")
    assert refused.value.code == "closed"


@pytest.mark.parametrize("how", ["open", "mapped"])
def test_nothing_is_zeroed_under_a_reader(root: Path, how: str) -> None:
    files = RamFiles(root)
    add(files, "a", b"x" * 100_000)
    with (root / "a").open("rb") as file:
        seen = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if how == "mapped" else file
        if how == "mapped":
            file.close()
        files.close()
        assert not (root / "a").exists()
        assert seen.read() == b"x" * 100_000
        seen.close()


def test_forgotten_is_closed(root: Path) -> None:
    files = RamFiles(root)
    add(files, "a", b"x")
    del files
    gc.collect()
    assert list(root.iterdir()) == []


def test_a_forked_child_removes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = RamFiles(root)
    add(files, "a", b"x")
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    files.close()
    assert (root / "a").exists()


def test_a_fill_that_fails_leaves_nothing(root: Path) -> None:
    files = RamFiles(root)

    def fill(view: memoryview) -> None:
        view[:3] = b"abc"
        raise Unavailable("store_unreachable", "no")

    with pytest.raises(Unavailable):
        files.add("a", 10, fill)
    assert not (root / "a").exists()
    assert "a" not in files
    add(files, "a", b"now")


@pytest.mark.parametrize("then", ["it goes on", "it fails"])
def test_closing_waits_for_no_store(root: Path, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    """What is filled at that moment loses its name with the others, and is wiped by who fills it,
    when he comes to it."""
    monkeypatch.setattr(ramfiles, "_FILLING_S", 0.1)
    files = RamFiles(root)
    add(files, "whole", b"x")
    begun, answer = threading.Event(), threading.Event()
    outcome: list[str] = []

    def fill(view: memoryview) -> None:
        view[:3] = b"abc"
        begun.set()
        assert answer.wait(20)
        view[3:] = b"defg"
        if then == "it fails":
            raise Unavailable("store_unreachable", "no")

    def filling() -> None:
        with pytest.raises(ModelVaultError) as caught:
            files.add("deep/slow", 7, fill)
        outcome.append(caught.value.code)

    thread = threading.Thread(target=filling)
    thread.start()
    assert begun.wait(20)
    with (root / "deep/slow").open("rb", buffering=0) as reader:
        files.close()
        assert list(root.iterdir()) == []
        assert reader.read(3) == b"abc"
        (root / "deep").mkdir()
        (root / "deep/slow").write_text("the next one's")
        answer.set()
        thread.join(20)
        reader.seek(0)
        assert reader.read() == bytes(7)
    assert outcome == ["closed" if then == "it goes on" else "store_unreachable"]
    assert (root / "deep/slow").read_text() == "the next one's"


def test_a_file_that_is_begun_while_all_are_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RamFiles(root)
    opened = os.open

    def meanwhile(*what: Any, **more: Any) -> int:
        monkeypatch.setattr(os, "open", opened)
        files.closed = True
        return opened(*what, **more)

    monkeypatch.setattr(os, "open", meanwhile)
    with pytest.raises(Conflict) as refused:
        files.add("a", 1, lambda _view: pytest.fail("nothing is decrypted"))
    assert refused.value.code == "closed"
    assert list(root.iterdir()) == []


def test_what_is_there_already_is_left_alone(root: Path) -> None:
    (root / "a").write_text("mine")
    (root / "link").symlink_to(root / "a")
    for path in ("a", "link"):
        with pytest.raises(Conflict) as refused:
            add(RamFiles(root), path, b"x")
        assert refused.value.code == "file_exists"
    assert (root / "a").read_text() == "mine"


def test_more_than_there_is_room_for(root: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        RamFiles(root).add("a", 1 << 50, lambda _view: None)
    assert refused.value.code == "insufficient_memory"
    assert list(root.iterdir()) == []


def test_a_disk_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        RamFiles(Path("/proc"))
    assert (refused.value.code, "medium: Memory" in refused.value.hint) == ("not_in_memory", True)


def test_a_link_to_a_disk_on_the_way(root: Path, tmp_path: Path) -> None:
    (root / "link").symlink_to(tmp_path)
    if root.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("temporary files are in the same memory here")
    with pytest.raises(InvalidRequest) as refused:
        add(RamFiles(root, {"a": "link/a"}), "a", b"x")
    assert refused.value.code == "not_in_memory"
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_wiped(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("not mine to touch")
    folder = root / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/a").write_bytes(b"x" * 10)
    (folder / "deep/a").chmod(0o440)
    os.link(folder / "deep/a", root / "other name")
    (folder / "link").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    wipe(folder)
    assert list(folder.iterdir()) == []
    assert (root / "other name").read_bytes() == bytes(10)
    assert outside.read_text() == "not mine to touch"


def test_a_model_is_put_there_unless_it_must_be_isolated(root: Path) -> None:
    version = Version({"a": b"weights", "deep/b": b"more"})
    files = RamFiles(root)
    version.model().fill(files)
    assert (root / "deep/b").read_bytes() == b"more"
    files.close()
    with pytest.raises(AccessDenied) as refused:
        version.model(obligations=Obligations(isolated_memory=True)).fill(RamFiles(root))
    assert refused.value.code == "isolated_memory"
    assert list(root.iterdir()) == []
