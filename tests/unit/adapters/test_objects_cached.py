"""The cache of ciphertext: what is read twice comes from near, and what fails is only slow."""

from __future__ import annotations

import errno
import logging
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modelvault.adapters.objects_cached import SegmentCache, folder, room
from modelvault.errors import IntegrityError
from support.caching import BOUND, SEGMENT, SIZE, Far, Loading, came, plain, taken

HEADER_AND_LEAVES = 74 + 32 * 12
ALL = 74 + SIZE + 11 * 32 + 32 * 12  # a file of eleven segments with its leaf list


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


@pytest.fixture
def cache(place: Path) -> SegmentCache:
    return SegmentCache(place, BOUND)


def entry_file(place: Path) -> Path:
    (found,) = place.iterdir()
    return found


def test_nothing_is_made_before_the_first_load(place: Path) -> None:
    SegmentCache(place, BOUND)
    assert not place.exists()


def test_a_second_load_asks_the_store_for_nothing(place: Path, cache: SegmentCache) -> None:
    far = Far(files=3)
    assert came(far.load(cache, range(3))) == (3 * ALL, 0)
    far.store.reads.clear()
    far.store.objects.clear()  # nor for a size: the store might as well be down
    assert came(far.load(cache, range(3))) == (0, 3 * ALL)
    assert came(far.load(SegmentCache(place, BOUND), range(3))) == (0, 3 * ALL)
    assert far.store.reads == []


def test_files_are_private_and_say_nothing(place: Path, cache: SegmentCache) -> None:
    far = Far(files=2)
    old = os.umask(0o077)
    try:
        far.load(cache, range(2))
    finally:
        os.umask(old)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    for path in place.iterdir():
        assert len(path.name) == 64
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for number in range(2):
            assert plain(number)[:64] not in path.read_bytes()


@pytest.mark.parametrize(
    ("folder_mode", "file_mode"), [(0o700, 0o600), (0o750, 0o640), (0o2770, 0o660), (0o755, 0o640)]
)
def test_a_folder_that_is_shared_with_a_group(
    place: Path, cache: SegmentCache, folder_mode: int, file_mode: int
) -> None:
    place.mkdir(parents=True)
    place.chmod(folder_mode)
    Far().load(cache)
    assert stat.S_IMODE(entry_file(place).stat().st_mode) == file_mode


def test_equal_contents_are_kept_once_whatever_they_are_called(
    place: Path, cache: SegmentCache
) -> None:
    far = Far()
    far.load(cache)
    entry = far.entries[0]
    store = far.store.objects
    store["objects/" + "e" * 32] = store.pop(entry.object)
    store["objects/" + "f" * 32] = store.pop(entry.leaves)
    far.entries[0] = type(entry)(
        entry.path, entry.size, entry.segment_length, entry.artifact,
        "objects/" + "e" * 32, "objects/" + "f" * 32, entry.digest,
    )  # fmt: skip
    assert came(far.load(cache)) == (0, ALL)
    assert len(list(place.iterdir())) == 1


def test_what_is_read_in_part_is_kept_in_part(cache: SegmentCache) -> None:
    far = Far()
    payload = SEGMENT - 32
    first = Loading(far, cache, far.entries)
    assert first.read(0, 3 * payload, 2 * payload) == plain(0)[3 * payload : 5 * payload]
    assert came(first.meter) == (HEADER_AND_LEAVES + 2 * SEGMENT, 0)
    second = Loading(far, cache, far.entries)
    far.store.reads.clear()
    assert second.read(0) == plain(0)
    assert came(second.meter) == (
        ALL - HEADER_AND_LEAVES - 2 * SEGMENT,
        HEADER_AND_LEAVES + 2 * SEGMENT,
    )
    third = Loading(far, cache, far.entries)
    assert third.read(0, 100, 5000) == plain(0)[100:5100]
    assert came(third.meter)[0] == 0


def test_a_run_of_what_is_missing_is_one_request(cache: SegmentCache) -> None:
    far = Far()
    payload = SEGMENT - 32
    Loading(far, cache, far.entries).read(0, 4 * payload, payload)
    asked: list[tuple[int, int]] = []
    real = far.store.stream

    def stream(name: str, offset: int, size: int) -> object:
        asked.append(((offset - 74) // SEGMENT, size))
        return real(name, offset, size)

    far.store.stream = stream  # type: ignore[method-assign]
    assert Loading(far, cache, far.entries, threads=1).read() == plain(0)
    assert asked == [(0, 4 * SEGMENT), (5, SIZE + 11 * 32 - 5 * SEGMENT)]


def test_readers_of_odd_pieces_get_what_is_there(cache: SegmentCache) -> None:
    far = Far()
    far.load(cache)
    entry = far.entries[0]
    data = far.store.objects[entry.object]
    cached = Loading(far, cache, far.entries).cached
    for sizes in ([10, 64, 4096, 1], [74, 4096, 4095, 2], [5000, 4096]):
        with cached.stream(entry.object, 0, sum(sizes)) as read:
            found = b""
            for size in sizes:
                buffer = bytearray(size)
                read(memoryview(buffer))
                found += buffer
        assert found == data[: sum(sizes)]
    strange = bytearray(3)
    far.store.objects["objects/" + "9" * 32] = b"abcdef"
    cached.read_into("objects/" + "9" * 32, 1, memoryview(strange))
    assert strange == b"bcd"
    assert cached.size("objects/" + "9" * 32) == 6
    with cached.stream("objects/" + "9" * 32, 2, 3) as read:
        read(memoryview(strange))
    assert strange == b"cde"


@pytest.mark.parametrize("at", [0, 5, 20, 12 + 12 * 32 + 3, -1], ids=str)
def test_a_byte_that_was_altered_costs_one_piece(place: Path, cache: SegmentCache, at: int) -> None:
    """In the map, the leaf list, the header, or the last segment."""
    far = Far()
    far.load(cache)
    data = bytearray(entry_file(place).read_bytes())
    data[at] ^= 1
    entry_file(place).write_bytes(data)
    store, near = came(far.load(cache))
    assert 0 < store <= SEGMENT
    assert near >= ALL - SEGMENT
    assert came(far.load(cache)) == (0, ALL)


def test_what_the_store_has_wrong_is_refused_and_not_kept(cache: SegmentCache) -> None:
    far = Far()
    entry = far.entries[0]
    good = far.store.objects[entry.object]
    far.store.objects[entry.object] = good[:200] + b"\0" + good[201:]
    with pytest.raises(IntegrityError) as caught:
        far.load(cache)
    assert caught.value.code == "altered"
    far.store.objects[entry.object] = good
    far.load(cache)
    assert came(far.load(cache)) == (0, ALL)


def test_wrong_in_both_is_refused(place: Path, cache: SegmentCache) -> None:
    far = Far()
    far.load(cache)
    entry_file(place).write_bytes(b"\1" * 13 + bytes(ALL))
    entry = far.entries[0]
    far.store.objects[entry.object] = bytes(len(far.store.objects[entry.object]))
    with pytest.raises(IntegrityError):
        far.load(cache)


def test_what_was_not_used_for_longest_goes_first(place: Path) -> None:
    far = Far(files=6, size=256 << 10)
    each = 280 << 10
    cache = SegmentCache(place, 64 * each)
    for number in range(6):
        far.load(cache, [number])
    kept = {far_name(far, number): number for number in range(6)}
    assert {kept[path.name] for path in place.iterdir()} == set(range(6))
    far.load(cache, [0])  # used again
    small = SegmentCache(place, 5 * each)
    far.load(small, [1])
    entry_of(place, far, 1).unlink()
    far.load(small, [1])
    left = {kept[path.name] for path in place.iterdir()}
    assert {0, 1} <= left
    assert 2 not in left
    assert taken(place) <= 5 * each


def far_name(far: Far, number: int) -> str:
    from modelvault.adapters.objects_cached.pieces import Place

    return Place(far.entries[number], vouches=True).file


def entry_of(place: Path, far: Far, number: int) -> Path:
    return place / far_name(far, number)


def test_a_model_larger_than_the_cache_keeps_what_fits(place: Path) -> None:
    """And finds that again at each load, instead of pushing its own beginning out."""
    far = Far(files=8, size=256 << 10)
    bound = 1 << 20
    cache = SegmentCache(place, bound)
    far.load(cache, range(8))
    assert bound // 2 < taken(place) <= bound
    for _ in range(2):
        _, near = came(far.load(cache, range(8)))
        assert near > bound // 2
        assert taken(place) <= bound


def test_another_model_takes_the_place_of_an_old_one(place: Path) -> None:
    far = Far(files=8, size=256 << 10)
    cache = SegmentCache(place, 1 << 20)
    far.load(cache, range(4))
    far.load(cache, [4, 5])
    assert came(far.load(cache, [4, 5]))[0] == 0


def test_what_was_used_in_the_future_goes_first(place: Path) -> None:
    """The clock was wrong then: else what is in use now would have to go for it, each time."""
    far = Far(files=8, size=256 << 10)
    cache = SegmentCache(place, 1 << 20)
    far.load(cache, range(3))
    for path in place.iterdir():
        os.utime(path, (4e9, 4e9))
    for _ in range(2):
        far.load(cache, [4])
        far.load(cache, [5])
    assert came(far.load(cache, [4]))[0] == 0
    assert came(far.load(cache, [5]))[0] == 0


def test_files_of_others_are_neither_counted_nor_removed(place: Path) -> None:
    place.mkdir(parents=True)
    place.chmod(0o700)
    other = place / "precious.bin"
    other.write_bytes(bytes(2 << 20))
    far = Far(files=8, size=256 << 10)
    far.load(SegmentCache(place, 1 << 20), range(4))
    far.load(SegmentCache(place, 1 << 20), range(4, 8))
    assert other.stat().st_size == 2 << 20
    assert len(list(place.iterdir())) > 1


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG]
)
def test_a_disk_that_takes_nothing(
    cache: SegmentCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:  # fmt: skip
    """It is tried once in a load, and told once."""
    tries = []

    def failing(*_: object) -> None:
        tries.append(1)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder, "write", failing)
    far = Far()
    with caplog.at_level(logging.WARNING, "modelvault.cache"):
        for _ in range(2):
            assert came(far.load(cache, threads=1)) == (ALL, 0)
    assert len(tries) == 2
    assert len(caplog.records) == 1
    assert os.strerror(number) in caplog.text


def test_a_disk_that_fails_half_way_through_a_piece(
    cache: SegmentCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written of it isn't held."""
    real = os.pwrite
    count = 0

    def failing(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal count
        count += 1
        if count == 9:
            real(descriptor, data[: len(data) // 2], offset)
            raise OSError(errno.EIO, "gone")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", failing)
    far = Far()
    assert came(far.load(cache, threads=1)) == (ALL, 0)
    monkeypatch.undo()
    store, near = came(far.load(cache))
    assert near == HEADER_AND_LEAVES + 2 * SEGMENT
    assert store == ALL - near


def test_a_disk_that_gives_nothing_back(
    cache: SegmentCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    far = Far()
    far.load(cache)

    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(os, "preadv", failing)
    assert came(far.load(cache)) == (ALL, 0)
    assert "read only in part" in caplog.text


def test_a_disk_that_others_fill(cache: SegmentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of it is left to them."""
    monkeypatch.setattr(folder.Folder, "free", lambda _self: -1)
    far = Far()
    far.load(cache)
    assert came(far.load(cache)) == (ALL, 0)


def test_a_folder_that_everybody_may_write_to(place: Path) -> None:
    """As /tmp, or an emptyDir of Kubernetes: each user has one of their own in it."""
    place.mkdir(parents=True)
    place.chmod(0o1777)
    far = Far()
    for _ in range(2):
        meter = far.load(SegmentCache(place, BOUND))
    assert came(meter) == (0, ALL)
    (own,) = place.iterdir()
    assert own.name == f"user-{os.geteuid()}"
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry_file(own).stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["a file", "nothing can be made", "somebody else's", "a link"])
def test_no_folder_to_use(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "place"
    if kind == "a file":
        place.write_bytes(b"")
    elif kind in ("somebody else's", "a link"):
        place.mkdir()
        place.chmod(0o777)
        own = place / f"user-{os.geteuid()}"
        if kind == "a link":
            (tmp_path / "elsewhere").mkdir()
            own.symlink_to(tmp_path / "elsewhere")
        else:
            own.mkdir()
            own.chmod(0o777)
    else:
        place = Path("/proc/nothing/here")
    far = Far()
    cache = SegmentCache(place, BOUND)
    for _ in range(2):
        assert came(far.load(cache)) == (ALL, 0)
    assert caplog.text.count("not used") == 1


def test_a_folder_that_is_removed_meanwhile(place: Path, cache: SegmentCache) -> None:
    far = Far()
    far.load(cache)
    loading = Loading(far, cache, far.entries)
    entry_file(place).unlink()
    place.rmdir()
    assert loading.read() == plain(0)
    assert came(far.load(cache)) == (ALL, 0)


def test_a_file_that_is_cut(place: Path, cache: SegmentCache) -> None:
    far = Far()
    far.load(cache)
    for size in (0, 5, 13, 300, ALL // 2):
        os.truncate(entry_file(place), size)
        far.load(cache)
        assert came(far.load(cache)) == (0, ALL)


def test_removed_while_it_is_read(place: Path, cache: SegmentCache) -> None:
    far = Far()
    far.load(cache)
    loading = Loading(far, cache, far.entries, threads=1)
    entry = far.entries[0]
    with loading.cached.stream(entry.object, 74, 2 * SEGMENT) as read:
        first, second = bytearray(SEGMENT), bytearray(SEGMENT)
        read(memoryview(first))
        entry_file(place).unlink()
        read(memoryview(second))
    assert bytes(first + second) == far.store.objects[entry.object][74 : 74 + 2 * SEGMENT]
    assert came(loading.meter) == (0, 2 * SEGMENT)


def test_threads_fill_it_at_once(place: Path) -> None:
    far = Far(files=4)
    errors = []

    def load() -> None:
        try:
            far.load(SegmentCache(place, BOUND), range(4))
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=load) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not errors
    assert came(far.load(SegmentCache(place, BOUND), range(4))) == (0, 4 * ALL)


SAME = """
import os, sys
from pathlib import Path
from modelvault.adapters.objects_cached import SegmentCache
from support.caching import BOUND, Far, came
far = Far(4, 1 << 20, 1 << 16)
reads, writes = os.pipe()
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        os.close(writes)
        os.read(reads, 1)  # all begin at once
        far.load(SegmentCache(Path(sys.argv[1]), BOUND), range(4))
        os._exit(7)
    children.append(child)
os.close(writes)
assert {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children} == {7}
store, near = came(far.load(SegmentCache(Path(sys.argv[1]), BOUND), range(4)))
assert (store, near > 4 << 20) == (0, True)
assert len(os.listdir(sys.argv[1])) == 4
"""


def test_processes_fill_the_same_files_at_once(place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-c", SAME, str(place)]
    assert subprocess.run(line, env=environment, timeout=60, check=False).returncode == 0


CHILD = """
import sys
from pathlib import Path
from modelvault.adapters.objects_cached import SegmentCache
from support.caching import Far, taken
place, bound, files, size = Path(sys.argv[1]), *map(int, sys.argv[2:5])
far = Far(files, size, 1 << 16)
print("ready", flush=True)
sys.stdin.readline()
cache = SegmentCache(place, bound)
for round in range(int(sys.argv[5])):
    far.load(cache, range(files))
print("done", flush=True)
"""


def child(place: Path, bound: int, files: int, size: int, rounds: int) -> subprocess.Popen[str]:
    path = os.pathsep.join(sys.path)
    made = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(place), *map(str, (bound, files, size, rounds))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert made.stdout is not None
    assert made.stdout.readline() == "ready\n"
    return made


def go(made: subprocess.Popen[str]) -> None:
    assert made.stdin is not None
    made.stdin.write("\n")
    made.stdin.flush()


def seen_at_once(place: Path) -> int:
    """Bytes on the disk at one moment, or 0: where a file went while the others were looked at, its
    successor may have been counted beside it."""
    try:
        found = {path: path.stat() for path in place.iterdir()}
        after = {path: path.stat().st_ino for path in found}
    except FileNotFoundError:
        return 0
    if any(told.st_ino != after[path] for path, told in found.items()):
        return 0
    return sum(told.st_blocks * 512 for told in found.values())


def test_processes_keep_the_bound_together(place: Path) -> None:
    """Three fill it with more than it holds; it is looked at all the while."""
    bound = 4 << 20
    children = [child(place, bound, files, 1 << 20, 3) for files in (5, 6, 7)]
    for each in children:
        go(each)
    most = 0
    while any(each.poll() is None for each in children):
        if place.exists():
            most = max(most, seen_at_once(place))
    assert [each.wait(60) for each in children] == [0, 0, 0]
    assert bound // 2 < most <= bound
    for each in children:
        assert each.stdin is not None
        assert each.stdout is not None
        each.stdin.close()
        each.stdout.close()


def test_killed_in_the_middle(place: Path) -> None:
    """At several moments; what is there then is whole or isn't held."""
    far = Far(files=6, size=1 << 20, segment_length=1 << 16)
    for enough in (1, 700_000, 3_000_000):
        made = child(place, BOUND, 6, 1 << 20, 10_000)
        go(made)
        while not place.exists() or taken(place) < enough:
            assert made.poll() is None
        made.kill()
        with made:
            pass
        meter = far.load(SegmentCache(place, BOUND), range(6))
        assert sum(came(meter)) >= 6 << 20
        for path in place.iterdir():
            path.unlink()


def test_a_forked_child_waits_for_no_thread_of_its_parent(tmp_path: Path) -> None:
    """A lock that another thread held at the fork is given up after a while."""
    made = room.Room(BOUND, lambda: 0)
    made._lock.acquire()
    room_patience, room._PATIENCE_S = room._PATIENCE_S, 0.01
    try:
        assert not made.take(folder.Folder(tmp_path / "c"), 10, ())
    finally:
        room._PATIENCE_S = room_patience
