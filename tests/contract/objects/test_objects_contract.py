"""Contract of ObjectReader, ObjectWriter and ObjectStore."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelvault.clock import utc_ms
from modelvault.errors import (
    Conflict,
    IntegrityError,
    InvalidRequest,
    ModelVaultError,
    NotFound,
)
from modelvault.ports import ObjectStore


def name(number: int) -> str:
    return f"objects/{number:032x}"


def key(artifact: int, version: int) -> str:
    return f"keys/{artifact:032x}/{version}"


def content(part: int, size: int) -> bytes:
    return hashlib.shake_128(str(part).encode()).digest(size)


def fill(part: int, buffer: memoryview) -> None:
    buffer[:] = content(part, len(buffer))


def whole(sizes: Sequence[int]) -> bytes:
    return b"".join(content(part, size) for part, size in enumerate(sizes))


def put(store: ObjectStore, at: str, data: bytes) -> None:
    store.put(at, [len(data)], lambda _part, buffer: buffer.__setitem__(slice(None), data))


def read(store: ObjectStore, at: str, offset: int = 0, size: int | None = None) -> bytes:
    buffer = bytearray(store.size(at) - offset if size is None else size)
    store.read_into(at, offset, memoryview(buffer))
    return bytes(buffer)


def refused(family: type[ModelVaultError], code: str, call: Callable[[], object]) -> None:
    with pytest.raises(family) as caught:
        call()
    assert caught.value.code == code


def names(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.name for info in store.list(prefix)]


class Stop(Exception):
    """What no store knows."""


class TestPut:
    @pytest.mark.parametrize(
        "sizes",
        [[], [0], [1], [0, 0], [5, 0, 3], [1 << 20] * 3, [74 + 4096, 4096, 4096, 17], [1] * 300],
        ids=lambda sizes: f"{len(sizes)} parts of {sum(sizes)} bytes",
    )
    def test_parts_follow_one_another(self, store: ObjectStore, sizes: list[int]) -> None:
        store.put(name(1), sizes, fill)
        assert store.size(name(1)) == sum(sizes)
        assert read(store, name(1)) == whole(sizes)

    def test_fill_is_called_once_for_each_part_with_its_size(self, store: ObjectStore) -> None:
        sizes = [3, 1, 4, 1, 5, 9, 2, 6] * 10
        calls: list[tuple[int, int]] = []
        threads = set()

        def counting(part: int, buffer: memoryview) -> None:
            calls.append((part, len(buffer)))
            threads.add(threading.get_ident())
            fill(part, buffer)

        store.put(name(1), sizes, counting)
        assert Counter(calls) == Counter(enumerate(sizes))

    def test_parts_come_in_about_ascending_order(self, store: ObjectStore) -> None:
        calls: list[int] = []

        def counting(part: int, buffer: memoryview) -> None:
            calls.append(part)
            fill(part, buffer)

        store.put(name(1), [100] * 200, counting)
        assert all(abs(part - place) < 64 for place, part in enumerate(calls))

    def test_memory_is_bounded_by_the_threads(self, store: ObjectStore) -> None:
        """A few buffers serve many parts."""
        buffers = set()
        lock = threading.Lock()

        def watching(part: int, buffer: memoryview) -> None:
            with lock:
                buffers.add(id(buffer.obj))
            fill(part, buffer)

        store.put(name(1), [1000] * 100, watching)
        assert len(buffers) <= 32

    def test_nothing_is_overwritten(self, store: ObjectStore) -> None:
        put(store, name(1), b"first")
        refused(Conflict, "object_exists", lambda: put(store, name(1), b"other"))
        assert read(store, name(1)) == b"first"

    def test_one_of_sixteen_wins_and_the_object_is_the_winners(self, store: ObjectStore) -> None:
        barrier = threading.Barrier(16)

        def write(writer: int) -> str:
            def mine(_part: int, buffer: memoryview) -> None:
                buffer[:] = bytes([writer]) * len(buffer)

            barrier.wait()
            try:
                store.put(name(1), [1000] * 5, mine)
            except Conflict as error:
                return error.code
            return "won"

        with ThreadPoolExecutor(16) as pool:
            told = list(pool.map(write, range(16)))
        assert sorted(told) == ["object_exists"] * 15 + ["won"]
        assert read(store, name(1)) == bytes([told.index("won")]) * 5000
        assert names(store) == [name(1)]

    @pytest.mark.parametrize("error", [Stop, OSError, ValueError, KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("failing", [0, 7, 19])
    def test_what_fill_raises_comes_out_and_nothing_is_there(
        self, store: ObjectStore, error: type[BaseException], failing: int
    ) -> None:
        raised = error("stop")

        def broken(part: int, buffer: memoryview) -> None:
            if part == failing:
                raise raised
            fill(part, buffer)

        with pytest.raises(error) as caught:
            store.put(name(1), [1000] * 20, broken)
        assert caught.value is raised
        refused(NotFound, "no_object", lambda: store.size(name(1)))
        assert names(store) == []
        put(store, name(1), b"second try")

    def test_a_half_done_put_isnt_seen(self, store: ObjectStore) -> None:
        seen: list[object] = []

        def looking(part: int, buffer: memoryview) -> None:
            fill(part, buffer)
            seen.extend(names(store))
            with pytest.raises(NotFound):
                store.size(name(1))

        store.put(name(1), [10] * 5, looking)
        assert seen == []

    @settings(
        max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        sizes=st.lists(st.integers(0, 5000), max_size=12),
        cut=st.tuples(st.integers(0, 60_000), st.integers(0, 60_000)),
        number=st.integers(1000, 2**128 - 1),
    )
    def test_any_range_of_any_parts(
        self, store: ObjectStore, sizes: list[int], cut: tuple[int, int], number: int
    ) -> None:
        store.delete(name(number))
        store.put(name(number), sizes, fill)
        start, end = sorted(min(place, sum(sizes)) for place in cut)
        assert read(store, name(number), start, end - start) == whole(sizes)[start:end]


class TestRead:
    @pytest.mark.parametrize(("offset", "size"), [(0, 11), (10, 1), (5, 6), (11, 1), (1 << 40, 1)])
    def test_beyond_the_end(self, store: ObjectStore, offset: int, size: int) -> None:
        put(store, name(1), b"0123456789")
        refused(IntegrityError, "truncated", lambda: read(store, name(1), offset, size))

    def test_nothing_at_the_end(self, store: ObjectStore) -> None:
        put(store, name(1), b"0123456789")
        assert read(store, name(1), 10, 0) == b""

    @pytest.mark.parametrize("at", [name(1), key(1, 1)])
    def test_what_isnt_there(self, store: ObjectStore, at: str) -> None:
        refused(NotFound, "no_object", lambda: store.size(at))
        refused(NotFound, "no_object", lambda: read(store, at, 0, 1))

    def test_many_threads_and_many_objects(self, store: ObjectStore) -> None:
        for number in range(100):  # more than a store keeps open
            put(store, name(number), content(number, 500))

        def check(number: int) -> bool:
            return (
                read(store, name(number % 100), number % 400, 100)
                == (content(number % 100, 500)[number % 400 :][:100])
            )

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(check, range(1000)))


class TestNames:
    @pytest.mark.parametrize(
        "bad",
        [
            "",
            "objects",
            "objects/",
            "objects/..",
            "objects/../ledger.db",
            "../objects/" + "0" * 32,
            "/objects/" + "0" * 32,
            "objects/" + "0" * 31,
            "objects/" + "0" * 33,
            "objects/" + "A" * 32,
            "objects/" + "0" * 31 + "g",
            "objects/" + "0" * 32 + "\n",
            "objects/" + "0" * 32 + "/",
            "objects/" + "0" * 32 + "\0",
            "objects//" + "0" * 32,
            "objects/./" + "0" * 32,
            "objects/" + "\u0660" * 32,
            "keys/" + "0" * 32,
            "keys/" + "0" * 32 + "/",
            "keys/" + "0" * 32 + "/0",
            "keys/" + "0" * 32 + "/01",
            "keys/" + "0" * 32 + "/-1",
            "keys/" + "0" * 32 + "/1/2",
            "keys/" + "0" * 32 + "/..",
            "keys/../1",
            "vault.json",
            "~/x",
            "http://evil.example/x",
            "\ud800",
        ],
    )
    def test_no_other_name_is_taken(self, store: ObjectStore, bad: str) -> None:
        for call in (
            lambda: store.size(bad),
            lambda: read(store, bad, 0, 1),
            lambda: put(store, bad, b"x"),
            lambda: store.delete(bad),
        ):
            refused(InvalidRequest, "bad_object_name", call)


class TestHouse:
    def test_listing(self, store: ObjectStore) -> None:
        before = utc_ms()
        assert names(store) == []
        made = [name(2), key(7, 1), key(7, 10), key(7, 2), name(1), key(6, 1)]
        for number, at in enumerate(made):
            put(store, at, bytes(number))
        found = list(store.list(""))
        assert [info.name for info in found] == sorted(made)
        assert {info.name: info.size for info in found} == {at: n for n, at in enumerate(made)}
        assert all(before - 5000 <= info.modified <= utc_ms() + 5000 for info in found)

    @pytest.mark.parametrize(
        ("prefix", "wanted"),
        [
            ("objects/", [name(1), name(2)]),
            ("obj", [name(1), name(2)]),
            (name(1), [name(1)]),
            ("keys/", [key(7, 1), key(7, 2), key(8, 1)]),
            (f"keys/{7:032x}/", [key(7, 1), key(7, 2)]),
            (key(7, 2), [key(7, 2)]),
            ("keys/" + "0" * 31, [key(7, 1), key(7, 2), key(8, 1)]),
            ("k", [key(7, 1), key(7, 2), key(8, 1)]),
            ("x", []),
            ("objects/f", []),
            ("../", []),
            ("/", []),
        ],
    )
    def test_prefixes(self, store: ObjectStore, prefix: str, wanted: list[str]) -> None:
        for at in (name(1), name(2), key(7, 1), key(7, 2), key(8, 1)):
            put(store, at, b"x")
        assert names(store, prefix) == wanted

    def test_deleting(self, store: ObjectStore) -> None:
        put(store, name(1), b"one")
        put(store, name(2), b"two")
        assert read(store, name(1)) == b"one"
        store.delete(name(1))
        store.delete(name(1))
        refused(NotFound, "no_object", lambda: store.size(name(1)))
        refused(NotFound, "no_object", lambda: read(store, name(1), 0, 1))
        assert names(store) == [name(2)]
        put(store, name(1), b"again")
        assert read(store, name(1)) == b"again"

    def test_deleting_in_an_empty_store(self, store: ObjectStore) -> None:
        store.delete(name(1))
        store.delete(key(1, 1))

    def test_sweeping_takes_no_finished_object(self, store: ObjectStore) -> None:
        assert store.sweep(utc_ms() + 10_000) == 0
        put(store, name(1), b"x")
        assert store.sweep(utc_ms() + 10_000) == 0
        assert read(store, name(1)) == b"x"
