"""What is a folder's alone: modes, links, full and missing disks, leftovers of the dead."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelvault.adapters.objects_folder import FolderStore
from modelvault.adapters.objects_folder.store import MAX_OPEN
from modelvault.errors import IntegrityError, NotFound, Unavailable

NAME = "objects/" + "0a" * 16
COPY = "keys/" + "0c" * 16 + "/1"
FAR = 1 << 60


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[FolderStore]:
    made = FolderStore(root)
    yield made
    made.close()


def put(store: FolderStore, name: str, data: bytes = b"data") -> None:
    store.put(name, [len(data)], lambda _part, buffer: buffer.__setitem__(slice(None), data))


def read(store: FolderStore, name: str, size: int = 4) -> bytes:
    buffer = bytearray(size)
    store.read_into(name, 0, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("umask", [0, 0o777])
def test_private_whatever_the_umask(root: Path, store: FolderStore, umask: int) -> None:
    before = os.umask(umask)
    try:
        put(store, NAME)
        put(store, COPY)
    finally:
        os.umask(before)
    for path in root.rglob("*"):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


@pytest.mark.parametrize("thing", ["link", "folder", "fifo", "socket folder"])
def test_something_else_in_an_objects_place(root: Path, store: FolderStore, thing: str) -> None:
    put(store, NAME)
    place = root / NAME
    if thing == "socket folder":  # a link among the folders on the way
        (root / "objects").rename(root / "elsewhere")
        (root / "objects").symlink_to(root / "elsewhere")
        with pytest.raises(Unavailable) as away:
            FolderStore(root).size(NAME)
        assert away.value.code == "store_unreadable"
        return
    place.rename(root / "moved")
    if thing == "link":
        place.symlink_to(root / "moved")
    elif thing == "folder":
        place.mkdir()
    else:
        os.mkfifo(place)
    with pytest.raises(IntegrityError) as caught:
        FolderStore(root).size(NAME)
    assert caught.value.code == "bad_object"
    assert str(place) in caught.value.message
    assert [info.name for info in store.list("")] == []


def test_a_store_that_is_gone(root: Path) -> None:
    root.rmdir()
    store = FolderStore(root)
    for call in (
        lambda: store.size(NAME),
        lambda: put(store, NAME),
        lambda: list(store.list("")),
        lambda: store.delete(NAME),
        lambda: store.sweep(FAR),
    ):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "store_missing"
        assert str(root) in caught.value.message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
def test_a_full_disk(
    root: Path, store: FolderStore, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def full(*_args: object) -> None:
        raise OSError(number, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        if call == "fsync":
            (root / "objects").mkdir(mode=0o700)  # making the folder needs one too
        with pytest.raises(Unavailable) as caught:
            put(store, NAME)
    assert (caught.value.code, caught.value.details["needed"]) == ("store_full", 4)
    assert [path for path in root.rglob("*") if path.is_file()] == []
    put(store, NAME)
    assert read(store, NAME) == b"data"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mounted)],
        check=False,
        capture_output=True,
    )
    if made.returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        store = FolderStore(mounted)
        put(store, COPY)
        with pytest.raises(Unavailable) as caught:
            store.put(NAME, [1 << 20] * 2, lambda _part, _buffer: None)
        assert caught.value.code == "store_full"
        assert [info.name for info in store.list("")] == [COPY]
        put(store, NAME)
        store.close()
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_other_failures_of_a_disk(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, NAME)

    def broken(*_args: object) -> int:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", broken)
        with pytest.raises(Unavailable) as reading:
            read(store, NAME)
    assert reading.value.code == "store_unreadable"
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", broken)
        with pytest.raises(Unavailable) as writing:
            put(store, COPY)
    assert writing.value.code == "store_unwritable"


def test_a_file_system_that_reserves_nothing(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_args: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    put(store, NAME)
    assert read(store, NAME) == b"data"


def test_leftovers_of_the_dead_are_swept(root: Path, store: FolderStore) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
from modelvault.adapters.objects_folder import FolderStore
def fill(part, buffer):
    os.kill(os.getpid(), signal.SIGKILL)
FolderStore(Path({str(root)!r})).put({NAME!r}, [10], fill)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = [path for path in root.rglob("*") if path.is_file()]
    assert [info.name for info in store.list("")] == []
    assert store.sweep(int(left.stat().st_mtime * 1000) - 1000) == 0
    assert store.sweep(int(time.time() * 1000) + 60_000) == 1
    assert not left.exists()
    put(store, NAME)


def test_a_file_that_shrinks_under_a_reader(root: Path, store: FolderStore) -> None:
    put(store, NAME)
    assert read(store, NAME) == b"data"
    os.truncate(root / NAME, 2)
    with pytest.raises(IntegrityError) as caught:
        read(store, NAME)
    assert caught.value.code == "truncated"


def test_no_more_files_stay_open_than_may(root: Path, store: FolderStore) -> None:
    def open_here() -> int:
        # links that lead into the store: what other tests hold open doesn't count
        links = (link for link in Path("/proc/self/fd").iterdir())
        count = 0
        for link in links:
            try:
                count += str(root) in str(link.readlink())
            except OSError:
                continue
        return count

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    names = [f"objects/{number:032x}" for number in range(MAX_OPEN + 20)]
    for name in names:
        put(store, name)
        read(store, name)
    assert open_here() == MAX_OPEN
    assert read(store, names[0]) == b"data"
    store.close()
    assert open_here() == 0
    assert read(store, names[1]) == b"data"


def test_a_deleted_object_is_gone_for_open_readers_too(store: FolderStore) -> None:
    put(store, NAME)
    read(store, NAME)
    store.delete(NAME)
    with pytest.raises(NotFound):
        read(store, NAME)
