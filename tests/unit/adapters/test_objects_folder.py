"""What only a folder has: modes, links, full disks, and processes that die."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelvault.adapters.objects_folder import FolderStore, drafts, place
from modelvault.adapters.objects_folder.descriptors import Descriptors
from modelvault.clock import utc_ms
from modelvault.errors import Conflict, IntegrityError, ModelVaultError, NotFound, Unavailable

NAME = "objects/" + "0a" * 16
OTHER = "objects/" + "0b" * 16
KEY = "keys/" + "0c" * 16 + "/1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FolderStore]:
    store = FolderStore(tmp_path / "root", threads=2)
    store.root.mkdir()
    yield store
    store.close()


def ones(_part: int, buffer: memoryview) -> None:
    buffer[:] = b"1" * len(buffer)


def read(store: FolderStore, name: str, size: int) -> bytes:
    buffer = bytearray(size)
    store.read_into(name, 0, memoryview(buffer))
    return bytes(buffer)


def refused(family: type[ModelVaultError], code: str, call: Callable[[], object]) -> str:
    with pytest.raises(family) as caught:
        call()
    assert caught.value.code == code
    assert caught.value.hint
    assert caught.value.__cause__ is None
    return caught.value.message


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if not path.is_dir())


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class TestModes:
    @pytest.mark.parametrize("umask", [0, 0o022, 0o777])
    def test_private_whatever_the_umask(self, store: FolderStore, umask: int) -> None:
        before = os.umask(umask)
        try:
            store.put(NAME, [10], ones)
            store.put(KEY, [10], ones)
        finally:
            os.umask(before)
        made = {path: stat.S_IMODE(path.stat().st_mode) for path in store.root.rglob("*")}
        assert {mode for path, mode in made.items() if path.is_dir()} == {0o700}
        assert {mode for path, mode in made.items() if path.is_file()} == {0o600}
        assert len(made) == 5

    def test_private_while_it_is_written(self, store: FolderStore) -> None:
        seen = []

        def look(part: int, buffer: memoryview) -> None:
            ones(part, buffer)
            (draft,) = (store.root / "objects").iterdir()
            seen.append((draft.name.startswith(".partial-"), stat.S_IMODE(draft.stat().st_mode)))

        store.put(NAME, [10], look)
        assert seen == [(True, 0o600)]


class TestStrangers:
    """What an attacker with access to the folder puts in an object's place."""

    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        path = tmp_path / "outside"
        path.write_bytes(b"not for the store")
        return path

    @pytest.mark.parametrize("kind", ["link", "link to an object", "dangling", "fifo", "folder"])
    def test_in_an_objects_place(self, store: FolderStore, outside: Path, kind: str) -> None:
        store.put(OTHER, [10], ones)
        place_of = store.root / NAME
        match kind:
            case "link":
                place_of.symlink_to(outside)
            case "link to an object":
                place_of.symlink_to(store.root / OTHER)
            case "dangling":
                place_of.symlink_to("nowhere")
            case "fifo":
                os.mkfifo(place_of)
            case _:
                place_of.mkdir()
        before = descriptors()
        for call in (lambda: store.size(NAME), lambda: read(store, NAME, 5)):
            assert str(place_of) in refused(IntegrityError, "bad_object", call)
        refused(Conflict, "object_exists", lambda: store.put(NAME, [1], ones))
        assert [info.name for info in store.list("objects/")] == [OTHER]
        assert descriptors() == before
        assert outside.read_bytes() == b"not for the store"

    def test_a_link_that_slips_in_between(
        self, store: FolderStore, outside: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Even past the look at what it is, opening follows no link."""
        store.put(NAME, [10], ones)
        looked = (store.root / NAME).stat()
        (store.root / NAME).unlink()
        (store.root / NAME).symlink_to(outside)
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", lambda *_, **__: looked)
            refused(Unavailable, "store_unreadable", lambda: place.open_file(store.root, NAME))

    @pytest.mark.parametrize("name", [NAME, KEY])
    def test_a_folder_that_is_a_link(self, store: FolderStore, tmp_path: Path, name: str) -> None:
        elsewhere = tmp_path / "elsewhere"
        (elsewhere / Path(name).parent).mkdir(parents=True)
        (elsewhere / name).write_bytes(b"1" * 10)
        (store.root / Path(name).parts[0]).symlink_to(elsewhere / Path(name).parts[0])
        refused(Unavailable, "store_unreadable", lambda: store.size(name))
        refused(Unavailable, "store_unwritable", lambda: store.put(name, [1], ones))
        refused(Unavailable, "store_unwritable", lambda: store.delete(name))
        refused(Unavailable, "store_unreadable", lambda: list(store.list("")))
        assert (elsewhere / name).read_bytes() == b"1" * 10

    def test_other_files_arent_listed(self, store: FolderStore) -> None:
        store.put(NAME, [10], ones)
        store.put(KEY, [10], ones)
        for stray in (
            "objects/README",
            "objects/.partial-00",
            "keys/x",
            "keys/" + "0c" * 16 + "/0",
        ):
            (store.root / stray).write_bytes(b"")
        assert [info.name for info in store.list("")] == [KEY, NAME]

    def test_a_short_file(self, store: FolderStore) -> None:
        store.put(NAME, [10], ones)
        assert read(store, NAME, 10) == b"1" * 10
        os.truncate(store.root / NAME, 4)
        assert store.size(NAME) == 4
        assert NAME in refused(IntegrityError, "truncated", lambda: read(store, NAME, 10))

    def test_size_looks_at_what_lies_there_now(self, store: FolderStore) -> None:
        store.put(NAME, [10], ones)
        assert read(store, NAME, 3) == b"111"
        new = store.root / "new"
        new.write_bytes(b"22222")
        new.replace(store.root / NAME)
        assert store.size(NAME) == 5
        assert read(store, NAME, 3) == b"222"


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def unsupported(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "no")


class TestFullDisk:
    @pytest.mark.parametrize("early", [True, False], ids=["when reserving", "half-way"])
    def test_a_full_disk(
        self, tiny_disk: Path, early: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not early:
            monkeypatch.setattr(os, "posix_fallocate", unsupported)
        store = FolderStore(tiny_disk, threads=2)
        filled: list[int] = []

        def fill(part: int, buffer: memoryview) -> None:
            filled.append(part)
            ones(part, buffer)

        told = refused(Unavailable, "store_full", lambda: store.put(NAME, [4096] * 30, fill))
        assert str(tiny_disk) in told
        assert str(4096 * 30) in told
        assert (filled == []) is early
        assert files(tiny_disk) == []
        store.put(NAME, [4096], ones)

    @pytest.mark.parametrize("early", [True, False], ids=["when reserving", "half-way"])
    def test_a_quota(
        self, store: FolderStore, early: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not early:
            monkeypatch.setattr(os, "posix_fallocate", unsupported)
        with file_size_limit(50_000):
            refused(Unavailable, "store_full", lambda: store.put(NAME, [4096] * 30, ones))
        assert files(store.root) == []

    def test_the_bytes_needed_are_told(self, store: FolderStore) -> None:
        with file_size_limit(100), pytest.raises(Unavailable) as caught:
            store.put(NAME, [101, 99], ones)
        assert caught.value.details == {"needed": 200}

    @pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
    def test_disks_that_cant_reserve(
        self, store: FolderStore, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cannot(*_: object) -> None:
            raise OSError(number, "no")

        monkeypatch.setattr(os, "posix_fallocate", cannot)
        store.put(NAME, [10], ones)
        assert read(store, NAME, 10) == b"1" * 10

    @pytest.mark.parametrize("call", ["posix_fallocate", "posix_fadvise"])
    def test_systems_without_it(
        self, store: FolderStore, call: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(os, call)
        store.put(NAME, [10], ones)
        assert read(store, NAME, 10) == b"1" * 10

    def test_short_writes(self, store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
        true_write = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda d, part, at: true_write(d, part[:7], at))
        store.put(NAME, [100, 50], ones)
        assert read(store, NAME, 150) == b"1" * 150

    def test_short_reads(self, store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
        store.put(NAME, [100], ones)
        true_read = os.preadv
        monkeypatch.setattr(os, "preadv", lambda d, parts, at: true_read(d, [parts[0][:7]], at))
        assert read(store, NAME, 100) == b"1" * 100


class TestOutage:
    def test_without_its_root(self, tmp_path: Path) -> None:
        store = FolderStore(tmp_path / "gone")
        for call in (
            lambda: store.size(NAME),
            lambda: read(store, NAME, 1),
            lambda: store.put(NAME, [1], ones),
            lambda: store.delete(NAME),
            lambda: list(store.list("")),
            lambda: store.sweep(0),
        ):
            assert str(store.root) in refused(Unavailable, "store_missing", call)

    @pytest.mark.parametrize(
        "call", ["mkdir", "fchmod", "fsync", "link", "unlink", "pwrite", "chmod"]
    )
    @pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EIO])
    def test_a_disk_that_refuses_leaves_nothing(
        self, store: FolderStore, call: str, number: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(number, "no")

        before = descriptors()
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            refused(Unavailable, "store_unwritable", lambda: store.put(NAME, [10] * 5, ones))
        assert descriptors() == before
        if call == "unlink":  # what couldn't be removed then is left to sweep and gc
            for path in (store.root / "objects").iterdir():
                path.unlink()
        assert files(store.root) == []
        refused(NotFound, "no_object", lambda: store.size(NAME))
        store.put(NAME, [10], ones)

    def test_only_the_last_sync_fails(
        self, store: FolderStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The object has its name already, and loses it again."""
        store.put(OTHER, [1], ones)
        true_sync = os.fsync

        def sync(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EIO, "no")
            true_sync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", sync)
            refused(Unavailable, "store_unwritable", lambda: store.put(NAME, [1], ones))
        assert files(store.root) == [OTHER.split("/")[1]]

    def test_a_loser_takes_nothing_from_the_winner(self, store: FolderStore) -> None:
        def overtaken(part: int, buffer: memoryview) -> None:
            store.put(NAME, [3], lambda _part, theirs: theirs.__setitem__(slice(None), b"won"))
            ones(part, buffer)

        refused(Conflict, "object_exists", lambda: store.put(NAME, [10], overtaken))
        assert read(store, NAME, 3) == b"won"
        assert files(store.root) == [NAME.split("/")[1]]

    def test_reading_that_fails(self, store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EIO, "no")

        store.put(NAME, [10], ones)
        monkeypatch.setattr(os, "preadv", refuse)
        assert NAME in refused(Unavailable, "store_unreadable", lambda: read(store, NAME, 1))

    def test_an_object_that_goes_while_listing(
        self, store: FolderStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.put(NAME, [10], ones)
        store.put(OTHER, [10], ones)
        true_list = os.listdir

        def listing(folder: int) -> list[str]:
            found = true_list(folder)
            (store.root / NAME).unlink(missing_ok=True)
            return found

        monkeypatch.setattr(os, "listdir", listing)
        assert [info.name for info in store.list("")] == [OTHER]


PUT = """
import sys, time
from pathlib import Path
from modelvault.adapters.objects_folder import FolderStore

def fill(part, buffer):
    if part == 3:
        print("writing", flush=True)
    if part >= 3:
        time.sleep(0.05)
    buffer[:] = b"1" * len(buffer)

try:
    FolderStore(Path(sys.argv[1]), threads=2).put("objects/" + "0a" * 16, [1000] * 1000, fill)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@contextmanager
def putting(root: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", PUT, str(root)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "writing\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


class TestProcesses:
    def test_ctrl_c(self, store: FolderStore) -> None:
        with putting(store.root) as child:
            assert len(files(store.root)) == 1
            child.send_signal(signal.SIGINT)
            assert child.communicate()[0] == "interrupted\n"
        assert files(store.root) == []

    def test_a_killed_put_is_swept_later(self, store: FolderStore) -> None:
        with putting(store.root) as child:
            child.kill()
            child.wait()
            (left,) = files(store.root)
            assert left.startswith(drafts.PREFIX)
            assert list(store.list("")) == []
            assert store.sweep(utc_ms() - 60_000) == 0
            assert store.sweep(utc_ms() + 1000) == 1
        assert files(store.root) == []
        store.put(NAME, [10], ones)

    def test_a_living_put_isnt_swept_however_old(self, store: FolderStore) -> None:
        with putting(store.root):
            assert store.sweep(utc_ms() + 3_600_000) == 0
            assert len(files(store.root)) == 1

    def test_nor_one_in_this_process(self, store: FolderStore) -> None:
        swept = []

        def sweep(part: int, buffer: memoryview) -> None:
            swept.append(store.sweep(utc_ms() + 3_600_000))
            ones(part, buffer)

        store.put(NAME, [10], sweep)
        assert swept == [0]

    def test_what_sweeping_leaves_alone(self, store: FolderStore) -> None:
        store.put(NAME, [10], ones)
        folder = store.root / "objects"
        (folder / ".partial-folder").mkdir()
        os.mkfifo(folder / ".partial-fifo")
        (folder / "partial-0").touch()
        assert store.sweep(utc_ms() + 1000) == 0
        assert len(list(folder.iterdir())) == 4

    def test_a_draft_that_goes_while_sweeping(
        self, store: FolderStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.put(NAME, [10], ones)
        monkeypatch.setattr(os, "listdir", lambda _folder: [".partial-gone"])
        assert store.sweep(utc_ms() + 1000) == 0

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_sixteen_processes_one_winner(self, store: FolderStore) -> None:
        children = []
        for writer in range(16):
            child = os.fork()
            if child == 0:
                code = 9
                try:
                    mine = FolderStore(store.root, threads=1)
                    mine.put(
                        NAME,
                        [100] * 3,
                        lambda _p, b, w=writer: b.__setitem__(slice(None), bytes([w]) * 100),
                    )
                    code = 0
                except Conflict:
                    code = 1
                finally:
                    os._exit(code)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert sorted(codes) == [0] + [1] * 15
        assert read(store, NAME, 300) == bytes([codes.index(0)]) * 300
        assert len(files(store.root)) == 1


class TestInterrupted:
    @pytest.mark.parametrize("call", ["fsync", "link"])
    def test_ctrl_c_at_the_end(
        self, store: FolderStore, call: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Just before the object would get its name, and just after."""
        store.put(OTHER, [1], ones)
        true_call = getattr(os, call)

        def interrupted(*args: object, **options: object) -> None:
            true_call(*args, **options)
            raise KeyboardInterrupt

        before = descriptors()
        with monkeypatch.context() as patch:
            patch.setattr(os, call, interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.put(NAME, [10], ones)
        assert files(store.root) == [OTHER.split("/")[1]]
        assert descriptors() == before


class TestDescriptors:
    def test_they_are_bounded_and_reused(self, tmp_path: Path) -> None:
        opened: list[str] = []

        def opener(name: str) -> int:
            opened.append(name)
            return os.open(tmp_path, os.O_RDONLY)

        before = descriptors()
        kept = Descriptors(opener, 3)
        for name in ("a", "b", "c", "a", "d", "a", "b"):
            with kept.use(name) as descriptor:
                os.fstat(descriptor)
        assert opened == ["a", "b", "c", "d", "b"]
        assert descriptors() == before + 3
        kept.forget("never seen")
        kept.close()
        assert descriptors() == before

    def test_one_in_use_stays_open(self, tmp_path: Path) -> None:
        kept = Descriptors(lambda _name: os.open(tmp_path, os.O_RDONLY), 1)
        with kept.use("a") as first:
            with kept.use("b"), kept.use_fresh("a") as second:
                kept.close()
                assert first != second
                os.fstat(first)
                os.fstat(second)
            os.fstat(first)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(first)

    def test_many_threads(self, tmp_path: Path) -> None:
        before = descriptors()
        kept = Descriptors(lambda _name: os.open(tmp_path, os.O_RDONLY), 2)
        wrong: list[OSError] = []

        def work() -> None:
            for number in range(300):
                with kept.use(str(number % 5)) as descriptor:
                    try:
                        os.fstat(descriptor)
                    except OSError as error:
                        wrong.append(error)
                if number % 50 == 0:
                    kept.forget("1")
                    time.sleep(0)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        kept.close()
        assert wrong == []
        assert descriptors() == before

    def test_a_closed_store_reads_again(self, store: FolderStore) -> None:
        store.put(NAME, [10], ones)
        before = descriptors()
        for _ in range(2):
            assert read(store, NAME, 10) == b"1" * 10
            assert descriptors() == before + 1
            store.close()
            assert descriptors() == before

    def test_a_system_that_takes_no_hints_reads_all_the_same(
        self, store: FolderStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.put(NAME, [10], ones)

        def refused(*_: object) -> None:
            raise OSError(errno.EINVAL, "no hints here")

        monkeypatch.setattr(os, "posix_fadvise", refused)
        assert read(store, NAME, 10) == b"1" * 10
        monkeypatch.delattr(os, "posix_fadvise")
        store.close()
        assert read(store, NAME, 10) == b"1" * 10
