from __future__ import annotations

import fcntl
import gc
import mmap
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from modelvault.errors import Conflict, Unavailable
from modelvault.sharing import memory, peers, readers
from modelvault.sharing.mapping import PAGE
from modelvault.sharing.memory import Seen, Shared
from support import maps
from support.hosts import in_a_child

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)
SIZE = 3 * PAGE + 100


def writing(data: bytes) -> Callable[[memoryview], None]:
    def write(buffer: memoryview) -> None:
        buffer[:] = data

    return write


def filled(data: bytes = b"x" * SIZE) -> Shared:
    made = Shared(len(data))
    made.fill(0, len(data), writing(data))
    return made


def another(shared: Shared) -> Seen:
    """As another process gets it."""
    return Seen(os.dup(shared.give()), shared.size)


def address(view: memoryview) -> int:
    return int(np.frombuffer(view, "u1").__array_interface__["data"][0])


def mapped(shared: Shared) -> int:
    status = os.fstat(shared.descriptor)
    return len(re.findall(rf" {status.st_ino} +/memfd", Path("/proc/self/maps").read_text()))


def test_what_the_holder_fills_everybody_sees() -> None:
    shared = Shared(SIZE)
    seen = another(shared)
    view = seen.view(0, SIZE)
    assert bytes(view) == bytes(SIZE)
    shared.fill(10, 15, writing(b"hello"))
    assert bytes(view[9:16]) == b"\0hello\0"
    assert bytes(shared.view(10, 15)) == b"hello"
    assert view.readonly
    del view
    seen.close()
    shared.close()


def test_an_edit_is_seen_by_nobody_else_and_costs_its_pages_only() -> None:
    shared = filled()
    seen = another(shared)
    edited = seen.editable(PAGE + 7, 2 * PAGE)
    assert bytes(edited[:3]) == b"xxx"
    edited[0] = ord("y")
    assert bytes(edited[:3]) == b"yxx"
    assert bytes(seen.view(PAGE + 7, PAGE + 8)) == b"x" == bytes(shared.view(PAGE + 7, PAGE + 8))
    assert bytes(seen.editable(PAGE + 7, PAGE + 8)) == b"x"
    del edited
    seen.close()
    shared.close()


def test_nobody_can_write_to_it_or_change_its_size() -> None:
    shared = filled()
    descriptor = os.dup(shared.give())
    by_name = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
    for each in (descriptor, by_name):
        for attempt in (
            lambda each=each: os.pwrite(each, b"z", 0),
            lambda each=each: mmap.mmap(each, SIZE, mmap.MAP_SHARED),
            lambda each=each: os.ftruncate(each, 1),
            lambda each=each: os.ftruncate(each, 2 * SIZE),
            lambda each=each: fcntl.fcntl(each, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        ):
            with pytest.raises(PermissionError):
                attempt()
        os.close(each)
    assert bytes(shared.view(0, SIZE)) == b"x" * SIZE
    shared.close()


def test_what_could_not_be_filled_is_zeroed() -> None:
    shared = Shared(SIZE)

    def fail(buffer: memoryview) -> None:
        buffer[:50] = b"s" * 50
        raise Unavailable("gone", "the store is gone")

    with pytest.raises(Unavailable, match="the store"):
        shared.fill(0, SIZE, fail)
    assert bytes(shared.view(0, SIZE)) == bytes(SIZE)
    shared.close()


def test_a_view_keeps_it_and_close_says_so() -> None:
    shared = filled()
    views = [shared.view(0, 5), shared.editable(0, 5)]
    for _ in range(2):
        with pytest.raises(Conflict) as caught:
            shared.close()
        assert caught.value.code == "views_alive"
        views.pop()
    shared.close()
    shared.close()
    assert not shared.alive
    for use in (lambda: shared.view(0, 1), lambda: shared.fill(0, 1, writing(b"x"))):
        with pytest.raises(Conflict, match="closed"):
            use()


def test_abandoned_memory_goes_with_its_last_view() -> None:
    shared = filled()
    view = shared.view(0, 5)
    shared.abandon()
    assert shared.alive
    assert bytes(view) == b"xxxxx"
    del view
    gc.collect()
    assert not shared.alive


@pytest.mark.parametrize("looked_at", [False, True])
def test_the_last_one_zeroes_it_unless_somebody_looks(looked_at: bool) -> None:
    """A descriptor that stays open shows what was left."""
    shared = filled()
    kept = os.dup(shared.give())
    with another_process(lambda: None if looked_at else shared.close()):
        shared.close()
        assert os.pread(kept, 4, 0) == (b"xxxx" if looked_at else bytes(4))
    os.close(kept)


@contextmanager
def another_process(first: Callable[[], None]) -> Iterator[None]:
    """A fork that does something and then waits."""
    told_r, told_w = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            first()
            os.write(told_w, b"!")
            signal.pause()
        finally:
            os._exit(0)
    os.close(told_w)
    try:
        assert os.read(told_r, 1) == b"!"
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told_r)


def test_a_child_reads_on_but_fills_nothing() -> None:
    shared = filled()
    views = [shared.view(0, 4)]

    def child() -> bool:
        try:
            shared.fill(0, 4, writing(b"evil"))
        except Conflict as refused:
            return refused.code == "forked" and bytes(views[0]) == b"xxxx"
        return False

    assert in_a_child(child)
    assert bytes(views.pop()) == b"xxxx"
    shared.close()


def test_it_is_in_no_core_dump_and_its_writing_pages_in_no_child() -> None:
    shared = filled()
    view, edited = shared.view(0, 4), shared.editable(0, 4)
    assert "dd" in maps.flags(address(view))
    assert "dd" in maps.flags(address(edited))

    def child() -> bool:  # reading pages and the edited ones, not those to write to
        return mapped(shared) == 2

    assert mapped(shared) == 3
    assert in_a_child(child)
    del view, edited
    shared.close()


def test_mapping_needs_no_descriptor_and_views_of_thousands_of_tensors_are_no_trouble() -> None:
    shared = filled()
    gc.collect()  # descriptors that other tests left don't go meanwhile
    before = len(list(Path("/proc/self/fd").iterdir()))
    views = [shared.editable(at, at + 1) for at in range(0, SIZE, 4)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert all(bytes(view) == b"x" for view in views)
    del views
    gc.collect()
    assert mapped(shared) == 2
    shared.close()


def test_an_empty_file_has_memory_too() -> None:
    shared = Shared(0)
    shared.fill(0, 0, lambda buffer: None)
    assert bytes(shared.view(0, 0)) == b"" == bytes(shared.editable(0, 0))
    shared.close()


def test_sealed_documents() -> None:
    descriptor = memory.sealed(b"text")
    assert os.pread(descriptor, 10, 0) == b"text"
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"T", 0)
    os.close(descriptor)


def test_where_there_is_no_such_memory_the_way_out_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(Unavailable) as caught:
        Shared(5)
    assert caught.value.code == "no_shared_memory"
    assert "connect()" in caught.value.hint


def test_old_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_SEAL_FUTURE_WRITE", 1 << 20)
    with pytest.raises(Unavailable, match=r"5\.1"):
        Shared(5)


class TestReaders:
    LINE = "7f-80 r--s 00000000 00:01 {} /memfd:modelvault (deleted)\n"
    DEVICE = os.makedev(0, 1)

    @pytest.fixture(autouse=True)
    def _fresh(self) -> Iterator[None]:
        gc.collect()  # what goes later would look by itself, and a look counts for a while
        readers.stir()
        yield
        readers.stir()

    def proc(self, root: Path, pid: int, *inodes: int) -> None:
        folder = root / str(pid)
        folder.mkdir(exist_ok=True)
        other = "7f-80 r-xp 00000000 fe:01 77 /usr/bin/modelvault\n"
        (folder / "maps").write_text(other + "".join(self.LINE.format(each) for each in inodes))

    def test_who_has_it_mapped(self, tmp_path: Path) -> None:
        self.proc(tmp_path, 11, 5, 77)
        self.proc(tmp_path, 12, 777, 7)
        (tmp_path / "14").mkdir()  # has just ended
        (tmp_path / "self").mkdir()
        self.proc(tmp_path, os.getpid(), 77, 77)
        assert readers.mapped_by(self.DEVICE, 77, 2, proc=tmp_path) == {11}
        assert readers.mapped_by(self.DEVICE, 77, 1, proc=tmp_path) == {11, os.getpid()}
        assert readers.mapped_by(os.makedev(0, 2), 77, 1, proc=tmp_path) == frozenset()

    def test_one_look_does_for_many_files_while_nobody_is_given_any(self, tmp_path: Path) -> None:
        now = [1000]

        def mapped() -> frozenset[int]:
            return readers.mapped_by(self.DEVICE, 77, 2, clock=lambda: now[0], proc=tmp_path)

        self.proc(tmp_path, 11, 77)
        assert mapped() == {11}
        self.proc(tmp_path, 12, 77)
        assert mapped() == {11}
        readers.stir()
        assert mapped() == {11, 12}
        self.proc(tmp_path, 12)
        now[0] += 500
        assert mapped() == {11}

    def test_a_descendant_that_cant_be_looked_at_may_have_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for pid in (11, 12):
            self.proc(tmp_path, pid)

        def refused(_file: Path) -> bytes:
            raise PermissionError

        monkeypatch.setattr(Path, "read_bytes", refused)
        monkeypatch.setattr(peers, "parent_of", {11: os.getpid(), 12: 1}.__getitem__)
        assert readers.mapped_by(self.DEVICE, 77, 2, proc=tmp_path) == {11}
