"""Encrypting files into objects."""

from __future__ import annotations

import gc
import threading

import pytest

from modelvault.artifact import writer
from modelvault.crypto import floe
from modelvault.errors import Conflict, IntegrityError, InvalidRequest
from oracle import second_reader
from support.artifacts import CONTENT_KEY, DEK, file_key, put_file
from support.documents import ARTIFACT
from support.memory_store import MemoryStore

KEYS = file_key("x"), CONTENT_KEY
PLAIN = bytes(n * 7 % 256 for n in range(1000))


class Recording(MemoryStore):
    """Keeps the parts that were asked for, and how often each was filled."""

    def put(self, name, sizes, fill):
        self.parts = getattr(self, "parts", {})
        self.parts[name] = list(sizes)
        super().put(name, sizes, fill)


@pytest.mark.parametrize("alg", ["blake3", "sha256"])
@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 64, 65, 1000])
def test_the_second_reader_reads_it(alg: str, size: int, tmp_path) -> None:
    store = Recording(threads=4)
    entry = put_file(store, PLAIN[:size], alg=alg)
    (tmp_path / "objects").mkdir()
    for name, data in store.objects.items():
        (tmp_path / name).write_bytes(data)
    document = {name: getattr(entry, name) for name in entry.__struct_fields__}
    key = second_reader.file_key(DEK, ARTIFACT, entry.path)
    assert second_reader.read_file(tmp_path, document, alg, key) == PLAIN[:size]


def test_part_0_is_header_and_first_segment() -> None:
    store = Recording()
    entry = put_file(store, PLAIN[:70])
    assert store.parts[entry.object] == [74 + 64, 64, 6 + 32]
    assert store.parts[entry.leaves] == [32 * 4]


def test_each_byte_is_read_once_and_reported_once() -> None:
    offsets, progress = [], []
    lock = threading.Lock()

    def read_into(offset: int, buffer: memoryview) -> None:
        with lock:
            offsets.extend(range(offset, offset + len(buffer)))

    arguments = (*KEYS, b"", floe.Geometry(64), "blake3", MemoryStore(8))
    writer.encrypt_file(read_into, 1000, *arguments, ("a", "b"), progress.append)
    assert sorted(offsets) == list(range(1000))
    assert sum(progress) == 1000


def test_an_empty_file_is_read_not_at_all_or_for_nothing() -> None:
    progress: list[int] = []
    put_file(MemoryStore(), b"", progress=progress)
    assert sum(progress) == 0


class SourceGone(Exception):
    pass


@pytest.mark.parametrize("failing", [0, 32 * 5, 32 * 30])
def test_a_source_that_fails_leaves_no_object(failing: int) -> None:
    def read_into(offset: int, _buffer: memoryview) -> None:
        if offset >= failing:
            raise SourceGone

    store = MemoryStore()
    arguments = (
        file_key("x"),
        CONTENT_KEY,
        b"",
        floe.Geometry(64),
        "blake3",
        store,
        ("a", "b"),
        print,
    )
    with pytest.raises(SourceGone):
        writer.encrypt_file(read_into, 1000, *arguments)
    assert not store.objects


def test_nothing_is_overwritten() -> None:
    store = MemoryStore()
    entry = put_file(store, b"one")
    before = dict(store.objects)
    with pytest.raises(Conflict):
        put_file(store, b"two")
    assert store.objects == before
    del store.objects[entry.object]
    with pytest.raises(Conflict):
        put_file(store, b"three")
    assert store.objects[entry.leaves] == before[entry.leaves]


def test_too_many_segments() -> None:
    size = 32 * (floe.MAX_SEGMENTS + 1)
    arguments = (
        file_key("x"),
        CONTENT_KEY,
        b"",
        floe.Geometry(64),
        "blake3",
        MemoryStore(),
        ("a", "b"),
        print,
    )
    with pytest.raises(InvalidRequest) as error:
        writer.encrypt_file(lambda _offset, _buffer: None, size, *arguments)
    assert error.value.code == "too_large"


@pytest.mark.parametrize("fails", [False, True])
def test_no_plaintext_buffer_outlives_the_call_unwiped(fails: bool) -> None:
    secret = b"the very secret weights of ours." * 2
    kept: list[memoryview] = []

    def read_into(offset: int, buffer: memoryview) -> None:
        buffer[:] = secret[: len(buffer)]
        kept.append(buffer)
        if fails and offset > 500:
            raise IntegrityError("changed", "the file changed while it was read")

    arguments = (
        file_key("x"),
        CONTENT_KEY,
        b"",
        floe.Geometry(96),
        "blake3",
        MemoryStore(),
        ("a", "b"),
        print,
    )
    try:
        writer.encrypt_file(read_into, 1000, *arguments)
    except IntegrityError:
        assert fails
    gc.collect()
    assert len(kept) > 3
    assert not any(any(buffer) for buffer in kept)
    assert len({id(buffer.obj) for buffer in kept}) <= 2
