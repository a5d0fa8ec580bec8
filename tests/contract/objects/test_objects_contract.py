"""What every object store must do, whatever it keeps its bytes in."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelvault.errors import Conflict, IntegrityError, InvalidRequest, NotFound
from modelvault.ports import ObjectStore

NAME = "objects/" + "0a" * 16
OTHER = "objects/" + "0b" * 16
COPY = "keys/" + "0c" * 16 + "/7"
FAR = 1 << 60


def filler(data: bytes, sizes: Sequence[int]) -> Callable[[int, memoryview], None]:
    starts = [sum(sizes[:at]) for at in range(len(sizes))]

    def fill(part: int, buffer: memoryview) -> None:
        buffer[:] = data[starts[part] : starts[part] + sizes[part]]

    return fill


def put(store: ObjectStore, name: str, data: bytes, sizes: Sequence[int] | None = None) -> None:
    parts = [len(data)] if sizes is None else sizes
    store.put(name, parts, filler(data, parts))


def read(store: ObjectStore, name: str, offset: int = 0, size: int | None = None) -> bytes:
    buffer = bytearray(store.size(name) - offset if size is None else size)
    store.read_into(name, offset, memoryview(buffer))
    return bytes(buffer)


def names(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.name for info in store.list(prefix)]


class TestPut:
    @pytest.mark.parametrize("sizes", [[0], [1], [5, 5], [1, 70_000, 3], [4096] * 40, []], ids=str)
    def test_the_parts_stand_one_after_the_other(self, store, sizes: list[int]) -> None:
        data = os.urandom(sum(sizes))
        put(store, NAME, data, sizes)
        assert store.size(NAME) == len(data)
        assert read(store, NAME) == data

    def test_each_part_is_filled_once_in_a_buffer_of_its_size(self, store) -> None:
        sizes = [3, 1, 4, 1, 5, 9, 2, 6] * 10
        filled: list[tuple[int, int]] = []
        store.put(NAME, sizes, lambda part, buffer: filled.append((part, len(buffer))))
        assert sorted(filled) == list(enumerate(sizes))

    def test_nothing_is_seen_before_the_end(self, store) -> None:
        def fill(part: int, buffer: memoryview) -> None:
            with pytest.raises(NotFound) as caught:
                store.size(NAME)
            assert caught.value.code == "no_object"
            assert names(store) == []
            buffer[:] = bytes(len(buffer))

        store.put(NAME, [10, 10, 10], fill)
        assert names(store) == [NAME]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
    @pytest.mark.parametrize("part", [0, 3])
    def test_what_fill_raises_comes_out_and_leaves_nothing(self, store, error, part: int) -> None:
        def fill(at: int, buffer: memoryview) -> None:
            if at == part:
                raise error
            buffer[:] = bytes(len(buffer))

        with pytest.raises(error):
            store.put(NAME, [100] * 6, fill)
        assert names(store) == []
        assert store.sweep(FAR) == 0
        put(store, NAME, b"again")
        assert read(store, NAME) == b"again"

    def test_never_overwritten(self, store) -> None:
        put(store, NAME, b"first")
        with pytest.raises(Conflict) as caught:
            put(store, NAME, b"second")
        assert caught.value.code == "object_exists"
        assert read(store, NAME) == b"first"

    def test_one_of_sixteen_wins(self, store) -> None:
        together = threading.Barrier(16)

        def one(number: int) -> str:
            together.wait()
            try:
                put(store, NAME, b"%02d" % number * 500)
            except Conflict as lost:
                return lost.code
            return "won"

        with ThreadPoolExecutor(16) as pool:
            outcomes = list(pool.map(one, range(16)))
        assert sorted(outcomes) == ["object_exists"] * 15 + ["won"]
        assert read(store, NAME) == b"%02d" % outcomes.index("won") * 500
        assert store.sweep(FAR) == 0


class TestRead:
    def test_not_there(self, store) -> None:
        for call in (lambda: store.size(NAME), lambda: read(store, NAME, 0, 1)):
            with pytest.raises(NotFound) as caught:
                call()
            assert caught.value.code == "no_object"

    @pytest.mark.parametrize(("offset", "size"), [(0, 11), (10, 1), (11, 5), (400, 1)])
    def test_beyond_the_end(self, store, offset: int, size: int) -> None:
        put(store, NAME, b"0123456789")
        with pytest.raises(IntegrityError) as caught:
            read(store, NAME, offset, size)
        assert caught.value.code == "truncated"

    def test_nothing_is_read_of_nothing(self, store) -> None:
        put(store, NAME, b"0123456789")
        assert read(store, NAME, 4, 0) == b""

    def test_many_threads_read_one_object(self, store) -> None:
        data = os.urandom(200_000)
        put(store, NAME, data)
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda at: read(store, NAME, at * 1000, 1000), range(200))
        assert b"".join(found) == data

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_range(self, store, data: st.DataObject) -> None:
        if NAME not in names(store):
            put(store, NAME, bytes(range(256)) * 20)
        offset = data.draw(st.integers(0, 5120))
        size = data.draw(st.integers(0, 5120 - offset))
        assert read(store, NAME, offset, size) == (bytes(range(256)) * 20)[offset : offset + size]


class TestKeepingHouse:
    def test_listed_by_name_with_size_and_time(self, store) -> None:
        for name, data in ((OTHER, b"22"), (NAME, b"1"), (COPY, b"333")):
            put(store, name, data)
        assert names(store) == sorted([OTHER, NAME, COPY])
        assert names(store, "objects/") == [NAME, OTHER]
        assert names(store, NAME) == [NAME]
        assert names(store, "keys/") == [COPY]
        assert names(store, "objects/ff") == []
        (info,) = store.list(COPY)
        assert info.size == 3
        assert info.modified > 1_600_000_000_000

    def test_an_empty_store(self, store) -> None:
        assert names(store) == []
        assert store.sweep(FAR) == 0

    def test_deleted_twice(self, store) -> None:
        put(store, NAME, b"1")
        put(store, OTHER, b"2")
        store.delete(NAME)
        store.delete(NAME)
        assert names(store) == [OTHER]
        with pytest.raises(NotFound):
            read(store, NAME, 0, 1)
        put(store, NAME, b"anew")
        assert read(store, NAME) == b"anew"

    def test_a_put_at_work_is_not_swept(self, store) -> None:
        def fill(part: int, buffer: memoryview) -> None:
            assert store.sweep(FAR) == 0
            buffer[:] = b"x"

        store.put(NAME, [1, 1], fill)
        assert read(store, NAME) == b"xx"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "objects",
        "objects/",
        "objects/../../etc/passwd",
        "objects/" + "0A" * 16,
        "objects/" + "0a" * 15,
        "objects/" + "0a" * 16 + "/x",
        "objects/" + "0a" * 16 + "\n",
        "/objects/" + "0a" * 16,
        "keys/" + "0c" * 16 + "/0",
        "keys/" + "0c" * 16 + "/-1",
        "keys/" + "0c" * 16 + "/" + "9" * 30,
        "keys/" + "0c" * 16 + "/\u0663",
        "other/" + "0a" * 16,
    ],
)
def test_other_names_are_refused(store, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.size(name),
        lambda: store.read_into(name, 0, memoryview(bytearray(1))),
        lambda: put(store, name, b"1"),
        lambda: store.delete(name),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert caught.value.code == "bad_object_name"
