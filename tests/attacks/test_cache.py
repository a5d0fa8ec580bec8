"""Whoever can write to a cache's folder: at worst a load is slow."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from modelvault.adapters.objects_cached import SegmentCache
from support.caching import BOUND, SEGMENT, Far, Loading, came, plain, taken

PRECIOUS = b"precious" * 1000
GROUP = 4242


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "cache"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the same user, somewhere else."""
    path = tmp_path / "victim"
    path.write_bytes(PRECIOUS)
    return path


def filled(place: Path, files: int = 1) -> tuple[Far, list[Path]]:
    """A store whose files are in the cache, and the cache's files."""
    far = Far(files)
    found = []
    for number in range(files):
        before = set(place.iterdir())
        far.load(SegmentCache(place, BOUND), [number])
        found += list(set(place.iterdir()) - before)
    assert len(found) == files
    return far, found


def well(far: Far, place: Path) -> None:
    """A load is right, whatever lies there; and where something can be kept, the next is quick."""
    far.load(SegmentCache(place, BOUND), range(len(far.entries)))


Change = Callable[[list[Path]], None]


def zeros(paths: list[Path]) -> None:
    for path in paths:
        path.write_bytes(bytes(path.stat().st_size))


def garbage_that_claims_to_be_held(paths: list[Path]) -> None:
    for path in paths:
        path.write_bytes(b"\1" * 13 + os.urandom(path.stat().st_size - 13))


def swapped(paths: list[Path]) -> None:
    first, second = paths
    first.rename(first.with_name("x"))
    second.rename(first)
    first.with_name("x").rename(second)


def segments_in_another_order(paths: list[Path]) -> None:
    for path in paths:
        data = path.read_bytes()
        start = len(data) - 3 * SEGMENT
        middle = data[start : start + SEGMENT], data[start + SEGMENT : start + 2 * SEGMENT]
        path.write_bytes(data[:start] + middle[1] + middle[0] + data[start + 2 * SEGMENT :])


def cut(paths: list[Path]) -> None:
    for path in paths:
        os.truncate(path, path.stat().st_size // 2)


def longer(paths: list[Path]) -> None:
    for path in paths:
        with path.open("ab") as file:
            file.write(PRECIOUS)


def sparse(paths: list[Path]) -> None:
    for path in paths:
        path.write_bytes(b"\1" * 13)
        os.truncate(path, 1 << 40)


def every_value_in_the_map(paths: list[Path]) -> None:
    for path in paths:
        path.write_bytes(bytes(range(13)) + path.read_bytes()[13:])


@pytest.mark.parametrize(
    "change",
    [
        zeros,
        garbage_that_claims_to_be_held,
        swapped,
        segments_in_another_order,
        cut,
        longer,
        sparse,
        every_value_in_the_map,
    ],
    ids=lambda change: change.__name__,
)
def test_other_bytes(place: Path, change: Change) -> None:
    far, paths = filled(place, 2)
    change(paths)
    well(far, place)
    assert came(far.load(SegmentCache(place, BOUND), range(2)))[0] == 0  # mended on the way


def symlink(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("to-be-made"))


def hard_link(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def fifo(path: Path, _victim: Path) -> None:
    os.mkfifo(path)


def device(path: Path, _victim: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes devices")


def folder(path: Path, _victim: Path) -> None:
    path.mkdir()
    (path / "x").write_bytes(b"")


@pytest.mark.parametrize(
    "put", [symlink, dangling, hard_link, fifo, device, folder], ids=lambda put: put.__name__
)
def test_something_else_in_a_files_place(
    place: Path, victim: Path, put: Callable[[Path, Path], None]
) -> None:
    """It is neither read nor written nor waited for, also where it comes between two reads."""
    far, (path,) = filled(place)
    path.unlink()
    put(path, victim)
    well(far, place)
    assert victim.read_bytes() == PRECIOUS
    assert not victim.with_name("to-be-made").exists()
    loading = Loading(far, SegmentCache(place, BOUND), far.entries, threads=1)
    assert loading.read(0, 0, SEGMENT) == plain(0)[:SEGMENT]
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    put(path, victim)
    assert loading.read() == plain(0)
    assert victim.read_bytes() == PRECIOUS


def test_a_folder_in_one_files_place_keeps_no_other_from_being_kept(place: Path) -> None:
    far, paths = filled(place, 3)
    for path in paths:
        path.unlink()
    folder(paths[0], place)
    far.load(SegmentCache(place, BOUND), range(3))
    assert all(path.is_file() for path in paths[1:])
    assert came(far.load(SegmentCache(place, BOUND), [1, 2]))[0] == 0


def test_the_folder_itself_is_a_link_to_somebody_elses_things(tmp_path: Path) -> None:
    """Files of ours are put beside theirs, and theirs stay: also when room must be made."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "notes").write_bytes(PRECIOUS)
    (theirs / ("A" * 64)).write_bytes(PRECIOUS)
    link = tmp_path / "link"
    link.symlink_to(theirs)
    far = Far(files=6, size=256 << 10)
    for number in range(6):
        far.load(SegmentCache(link, 1 << 20), [number])
    assert (theirs / "notes").read_bytes() == (theirs / ("A" * 64)).read_bytes() == PRECIOUS


def test_somebody_who_rewrites_it_all_the_while(place: Path) -> None:
    """What is checked is what is used: bytes in a buffer of the job's own."""
    far, (path,) = filled(place)
    good = path.read_bytes()
    stop = threading.Event()

    def rewrite() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            with suppress(OSError), path.open("r+b") as file:
                file.write(
                    good if turn % 2 else b"\1" * 13 + bytes([turn % 256]) * (len(good) - 13)
                )
                if turn % 5 == 0:
                    file.truncate(turn * 37 % len(good))

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        for _ in range(60):
            far.load(SegmentCache(place, BOUND))
    finally:
        stop.set()
        thread.join()


def test_it_holds_neither_plaintext_nor_names(place: Path) -> None:
    far, paths = filled(place, 2)
    for path in paths:
        data = path.read_bytes()
        for number in range(2):
            for start in range(0, far.size - 32, 1000):
                assert plain(number)[start : start + 32] not in data
        for entry in far.entries:
            for text in (entry.object, entry.leaves, entry.artifact, entry.digest):
                told = text.rpartition("/")[2].rpartition(":")[2]
                assert told.encode() not in data
                assert told not in path.name


# Users. They are played by this process, which only root can.


@contextmanager
def as_user(user: int, group: int) -> Iterator[None]:
    old = os.getegid(), os.getgroups()
    os.setgroups([group])
    os.setegid(group)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(old[0])
        os.setgroups(old[1])


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A folder that users can reach."""
    if os.geteuid() != 0:
        pytest.skip("only root can play several users")
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        place = Path(made) / "cache"
        place.mkdir()
        yield place


def test_a_folder_of_somebody_elses(shared: Path) -> None:
    """Where nothing may be written, nothing is; and what lies there, of whom ever, is checked."""
    shared.chmod(0o755)
    far, (path,) = filled(shared)
    path.chmod(0o644)
    path.write_bytes(b"\1" * 13 + bytes(path.stat().st_size - 13))
    with as_user(4001, 4001):
        for _ in range(2):
            assert came(far.load(SegmentCache(shared, BOUND)))[0] > 0
    assert len(list(shared.iterdir())) == 1


def test_users_of_a_group_share_it_and_nobody_else(shared: Path) -> None:
    os.chown(shared, 0, GROUP)
    shared.chmod(0o2770)
    far = Far(2)
    with as_user(4001, GROUP):
        far.load(SegmentCache(shared, BOUND), [0])
    with as_user(4002, GROUP):
        assert came(far.load(SegmentCache(shared, BOUND), [0]))[0] == 0
        far.load(SegmentCache(shared, BOUND), [1])
    with as_user(4001, GROUP):
        assert came(far.load(SegmentCache(shared, BOUND), [0, 1]))[0] == 0
    with as_user(4003, 4003):
        assert came(far.load(SegmentCache(shared, BOUND), [0, 1]))[1] == 0


def test_a_group_that_may_only_read(shared: Path) -> None:
    """Also what is damaged there and can't be mended."""
    os.chown(shared, 0, GROUP)
    shared.chmod(0o2750)
    far, (path,) = filled(shared)
    with as_user(4002, GROUP):
        assert came(far.load(SegmentCache(shared, BOUND)))[0] == 0
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with as_user(4002, GROUP):
        for _ in range(2):
            store, near = came(far.load(SegmentCache(shared, BOUND)))
            assert 0 < store <= SEGMENT
            assert near > 9 * SEGMENT


# Disks.


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full(place: Path) -> None:
    """Really: a file system of 256 KiB, of which a stranger's file takes most."""
    with mounted(place, "size=256k,mode=700"):
        (place / "others").write_bytes(bytes(200 << 10))
        far = Far(4)
        for _ in range(2):
            far.load(SegmentCache(place, BOUND), range(4))
        assert taken(place) <= 256 << 10
        assert (place / "others").stat().st_size == 200 << 10


def test_a_disk_that_becomes_read_only(place: Path) -> None:
    with mounted(place, "size=1m,mode=700"):
        far, _ = filled(place, 2)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        assert came(far.load(SegmentCache(place, BOUND), range(2)))[0] == 0
        assert came(Far(3).load(SegmentCache(place, BOUND), range(3)))[1] == 0


def test_a_disk_without_room_for_names(place: Path) -> None:
    with mounted(place, "size=1m,nr_inodes=3,mode=700"):
        far = Far(6)
        far.load(SegmentCache(place, BOUND), range(6))
        assert came(far.load(SegmentCache(place, BOUND), range(6)))[1] > 0
