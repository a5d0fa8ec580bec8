from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import re
from pathlib import Path

import numpy as np
import pytest

from modelvault.errors import Conflict, Unavailable
from modelvault.loader import memory
from modelvault.loader.memory import Region

MIB = 1 << 20


def write(region: Region, begin: int, data: bytes) -> None:
    with region.writable(begin, begin + len(data)) as view:
        view[:] = data


def address(region: Region) -> int:
    array = np.frombuffer(region.view(0, region.size), "u1")
    return int(array.__array_interface__["data"][0])


def mapped(place: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(part, 16) for part in re.split("[- ]", line)[:2])
        if first <= place < last:
            return True
    return False


def test_a_region_is_zeroed_memory_that_can_be_written_and_viewed() -> None:
    region = Region(3 * MIB + 5)
    assert bytes(region.view(0, region.size)) == bytes(region.size)
    write(region, MIB - 1, b"abc")
    view = region.view(MIB - 1, MIB + 2)
    assert bytes(view) == b"abc"
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 0
    del view
    region.close()


def test_close_unmaps() -> None:
    region = Region(64 * MIB)
    write(region, 0, b"x")
    place = address(region)
    assert mapped(place)
    region.close()
    assert not mapped(place)
    assert not region.alive
    region.close()


def test_the_finaliser_zeroes_all_that_was_written() -> None:
    region = Region(5 * MIB + 100)
    written = [(0, b"begin"), (MIB - 2, b"over"), (5 * MIB + 95, b"final")]
    for begin, data in written:
        write(region, begin, data)
    looking = np.frombuffer(region.view(0, region.size), "u1")
    assert looking.any()
    assert region._memory is not None
    region._memory.__del__()
    assert not looking.any()


def test_blocks_never_written_are_not_brought_in_by_the_wipe() -> None:
    region = Region(1 << 34)
    write(region, 3 << 30, b"x")
    assert region._memory is not None
    assert region._memory.touched.count(1) == 1
    before = resident()
    region._memory.wipe()
    assert resident() - before < 64 * MIB
    region.close()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    "holder",
    [
        lambda region: region.view(0, 4),
        lambda region: region.view(0, 8)[2:4],
        lambda region: np.frombuffer(region.view(0, 8), "<f4"),
        lambda region: np.frombuffer(region.view(0, 8), "<f4")[1:],
        lambda region: np.frombuffer(region.view(0, 8), "<f4").reshape(2, 1).T,
        lambda region: memoryview(np.frombuffer(region.view(0, 8), "u1"))[3:],
        lambda region: np.ndarray((2,), "<f4", buffer=region.view(0, 8)),
    ],
)
def test_close_never_pulls_memory_from_under_a_reader(holder: object) -> None:
    region = Region(4096)
    write(region, 0, bytes(range(8)))
    held = holder(region)  # type: ignore[operator]
    seen = bytes(held)
    for _ in range(2):
        with pytest.raises(Conflict) as caught:
            region.close()
        assert caught.value.code == "views_alive"
        assert "drop" in caught.value.hint
    assert bytes(held) == seen
    assert region.view(0, 1) is not None  # still usable
    del held
    region.close()  # though the error, with its traceback, still lives
    assert caught.value.code
    assert not region.alive


def test_an_abandoned_region_goes_with_its_last_view() -> None:
    region = Region(64 * MIB)
    write(region, 0, b"secret")
    place = address(region)
    view = region.view(0, 6)
    region.abandon()
    assert region.alive
    assert bytes(view) == b"secret"
    with pytest.raises(Conflict, match="closed"):
        region.view(0, 1)
    with pytest.raises(Conflict) as caught:
        region.close()
    assert caught.value.code == "views_alive"
    del view
    assert not region.alive
    assert not mapped(place)
    region.close()


def test_an_abandoned_region_without_views_goes_at_once() -> None:
    region = Region(10)
    region.abandon()
    assert not region.alive


def test_a_region_that_is_forgotten_is_wiped_too() -> None:
    wiped = []

    class Watched(memory._Memory):
        def wipe(self) -> None:
            super().wipe()
            wiped.append(bytes(memoryview(self)[:4]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_Memory", Watched)
        region = Region(10)
    write(region, 0, b"keys")
    del region
    gc.collect()
    assert wiped == [bytes(4)]


def test_part_of_a_region_can_be_wiped() -> None:
    region = Region(3 * MIB)
    write(region, 0, b"\1" * (3 * MIB))
    region.wipe(10, 2 * MIB + 10)
    assert bytes(region.view(0, 11)) == b"\1" * 10 + b"\0"
    assert not any(region.view(10, 2 * MIB + 10))
    assert bytes(region.view(2 * MIB + 9, 2 * MIB + 11)) == b"\0\1"


def test_an_empty_region_has_empty_views() -> None:
    region = Region(0)
    with region.writable(0, 0) as view:
        assert len(view) == 0
    assert len(region.view(0, 0)) == 0
    region.close()


def child(region: Region, place: int) -> None:
    assert region._memory is not None
    region._memory.wipe = lambda: os._exit(3)  # type: ignore[method-assign]
    region.abandon()
    os._exit(1 if mapped(place) else 0)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_unmaps_without_wiping() -> None:
    region = Region(64 * MIB)
    write(region, 0, b"parent")
    process = multiprocessing.get_context("fork").Process(
        target=child, args=(region, address(region))
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert bytes(region.view(0, 6)) == b"parent"


def test_no_address_space_is_unavailable_not_a_crash() -> None:
    with pytest.raises(Unavailable) as caught:
        Region(1 << 60)
    assert caught.value.code == "insufficient_memory"
    assert "1048576.00 TiB" in caught.value.message


def test_kernels_without_the_advice_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, advice: int) -> None:
        raise OSError

    monkeypatch.setattr(memory._Memory, "madvise", refuse, raising=False)
    Region(10).close()
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE")
    monkeypatch.delattr(mmap, "MADV_DONTDUMP")
    Region(10).close()


def test_regions_are_left_out_of_core_dumps() -> None:
    region = Region(64 * MIB)
    place = address(region)
    flags = ""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if head:
            inside = int(head[1], 16) <= place < int(head[2], 16)
        elif inside and line.startswith("VmFlags:"):
            flags = line
    assert " dd" in flags  # don't dump
    region.close()
