"""Reading ranges of encrypted files, and every way in which their objects can be wrong."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.artifact import reader as reader_module
from modelvault.artifact.reader import FileReader
from modelvault.crypto import derive
from modelvault.crypto.secret import Secret
from modelvault.errors import IntegrityError, InvalidRequest, Unavailable
from modelvault.manifest import FileEntry
from oracle.second_writer import leaf_list
from support.artifacts import put_file, read, reader
from support.documents import ARTIFACT
from support.floe_vectors import failures
from support.memory_store import MemoryStore

PLAIN = bytes(n * 7 % 251 + 1 for n in range(150))  # never zero; five segments of 32


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tiny files be read by several threads."""
    monkeypatch.setattr(reader_module, "_BLOCK_BYTES", 64)


@pytest.mark.parametrize("alg", ["blake3", "sha256"])
@pytest.mark.parametrize("size", [1, 32, 33, 64, 100])
def test_every_range(alg: str, size: int) -> None:
    store = MemoryStore()
    source = reader(store, put_file(store, PLAIN[:size], alg=alg), alg)
    assert source.size == size
    for start in range(size + 1):
        for end in range(start, size + 1):
            assert read(source, start, end - start) == PLAIN[start:end]


@given(
    plain=st.binary(max_size=400), length=st.integers(64, 100), data=st.data(),
    threads=st.integers(1, 4),
)  # fmt: skip
def test_ranges_by_chance(plain: bytes, length: int, data: st.DataObject, threads: int) -> None:
    store = MemoryStore()
    source = reader(store, put_file(store, plain, segment_length=length), threads=threads)
    start = data.draw(st.integers(0, len(plain)))
    end = data.draw(st.integers(start, len(plain)))
    assert read(source, start, end - start) == plain[start:end]


@pytest.mark.parametrize(
    ("segments", "threads", "blocks"),
    [
        (1, 4, [1]),
        (3, 4, [2, 1]),  # no less than two
        (10, 2, [5, 5]),
        (16, 4, [4, 4, 4, 4]),
        (20, 2, [8, 8, 4]),  # no more than eight
        (6, 1, [6]),
    ],
)
def test_all_threads_get_a_share(
    segments: int, threads: int, blocks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "_BLOCK_BYTES", 8 * 64)
    monkeypatch.setattr(reader_module, "_LEAST_BYTES", 2 * 64)
    store = MemoryStore()
    plain = bytes(32 * segments)
    asked: list[int] = []

    class Asked(MemoryStore):
        def stream(self, name: str, offset: int, size: int) -> AbstractContextManager:
            asked.append(size // 64)
            return store.stream(name, offset, size)

    entry = put_file(store, plain)
    watched = Asked()
    watched.objects = store.objects
    assert read(reader(watched, entry, threads=threads)) == plain
    assert sorted(asked, reverse=True) == blocks


@pytest.mark.usefixtures("small_blocks")
def test_several_threads_fill_one_buffer_at_once() -> None:
    store = MemoryStore()
    meeting = threading.Barrier(3, timeout=10)
    plain = PLAIN * 10
    entry = put_file(store, plain)
    seen: set[int] = set()

    class Meeting(MemoryStore):
        def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
            super().read_into(name, offset, buffer)
            if len(buffer) == 64 and threading.get_ident() not in seen:
                seen.add(threading.get_ident())
                meeting.wait()

    slow = Meeting()
    slow.objects = store.objects
    assert read(reader(slow, entry, threads=3)) == plain
    assert len(seen) == 3


def test_one_reader_serves_many_threads() -> None:
    store = MemoryStore()
    source = reader(store, put_file(store, PLAIN), threads=2)
    wrong: list[int] = []

    def work(first: int) -> None:
        for start in range(first, 140, 5):
            if read(source, start, 10) != PLAIN[start : start + 10]:
                wrong.append(start)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sum(offset == 0 and length == 74 for _, offset, length in store.reads) == 1


def test_a_range_reads_its_own_segments_header_and_list_and_no_more() -> None:
    store = MemoryStore()
    entry = put_file(store, PLAIN)
    source = reader(store, entry)
    assert store.reads == []
    read(source, 40, 30)
    assert store.reads == [
        (entry.leaves, 0, 32 * 6),
        (entry.object, 0, 74),
        (entry.object, 74 + 64, 64),
        (entry.object, 74 + 128, 64),
    ]
    store.reads.clear()
    read(source, 149, 1)
    assert store.reads == [(entry.object, 74 + 4 * 64, 22 + 32)]


def test_an_empty_file_is_checked_too() -> None:
    store = MemoryStore()
    entry = put_file(store, b"")
    assert read(reader(store, entry)) == b""
    store.objects[entry.object] = flip(store.objects[entry.object], -1)
    with pytest.raises(IntegrityError) as error:
        read(reader(store, entry))
    assert error.value.code == "altered"


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 1), (0, 151), (150, 1), (151, 0), (1 << 62, 1)]
)
def test_ranges_outside(offset: int, length: int) -> None:
    store = MemoryStore()
    source = reader(store, put_file(store, PLAIN))
    with pytest.raises(InvalidRequest) as error:
        read(source, offset, length)
    assert error.value.code == "bad_range"
    assert "model.bin" in error.value.message


def flip(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def spoil_object(change):
    def spoil(store: MemoryStore, entry: FileEntry, _other: FileEntry) -> None:
        store.objects[entry.object] = change(store.objects[entry.object])

    return spoil


def spoil_leaves(change):
    def spoil(store: MemoryStore, entry: FileEntry, _other: FileEntry) -> None:
        store.objects[entry.leaves] = change(store.objects[entry.leaves])

    return spoil


def swap(*fields: str):
    def spoil(store: MemoryStore, entry: FileEntry, other: FileEntry) -> None:
        for field in fields:
            store.objects[getattr(entry, field)] = store.objects[getattr(other, field)]

    return spoil


def lose(field: str):
    def spoil(store: MemoryStore, entry: FileEntry, _other: FileEntry) -> None:
        del store.objects[getattr(entry, field)]

    return spoil


SPOILT = {
    "params": (spoil_object(lambda data: flip(data, 2)), "altered"),
    "iv": (spoil_object(lambda data: flip(data, 20)), "altered"),
    "header_tag": (spoil_object(lambda data: flip(data, 73)), "altered"),
    "length_field": (spoil_object(lambda data: flip(data, 74)), "altered"),
    "nonce": (spoil_object(lambda data: flip(data, 80)), "altered"),
    "ciphertext": (spoil_object(lambda data: flip(data, 100)), "altered"),
    "tag": (spoil_object(lambda data: flip(data, -1)), "altered"),
    "cut": (spoil_object(lambda data: data[:-1]), "wrong_size"),
    "cut_segment": (spoil_object(lambda data: data[:-54]), "wrong_size"),
    "emptied": (spoil_object(lambda _data: b""), "wrong_size"),
    "extended": (spoil_object(lambda data: data + b"\0"), "wrong_size"),
    "extended_segment": (spoil_object(lambda data: data + data[-64:]), "wrong_size"),
    "plaintext": (spoil_object(lambda _data: PLAIN), "wrong_size"),
    "plaintext_padded": (spoil_object(lambda data: PLAIN.ljust(len(data), b"\0")), "altered"),
    "segments_swapped": (
        spoil_object(lambda data: data[:74] + data[138:202] + data[74:138] + data[202:]),
        "altered",
    ),
    "segment_repeated": (
        spoil_object(lambda data: data[:138] + data[74:138] + data[202:]),
        "altered",
    ),
    "list_flipped": (spoil_leaves(lambda data: flip(data, 0)), "bad_leaf_list"),
    "list_flipped_end": (spoil_leaves(lambda data: flip(data, -1)), "bad_leaf_list"),
    "list_cut": (spoil_leaves(lambda data: data[:-1]), "wrong_size"),
    "list_cut_leaf": (spoil_leaves(lambda data: data[:-32]), "wrong_size"),
    "list_extended": (spoil_leaves(lambda data: data + bytes(32)), "wrong_size"),
    "object_of_another_file": (swap("object"), "altered"),
    "list_of_another_file": (swap("leaves"), "bad_leaf_list"),
    "both_of_another_file": (swap("object", "leaves"), "bad_leaf_list"),
    "object_lost": (lose("object"), "missing_object"),
    "list_lost": (lose("leaves"), "missing_object"),
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.usefixtures("small_blocks")
def test_objects_that_were_tampered_with(name: str, threads: int) -> None:
    spoil, code = SPOILT[name]
    store = MemoryStore()
    entry = put_file(store, PLAIN, "shards/one.bin")
    other = put_file(store, PLAIN[::-1], "shards/two.bin", number=1)
    spoil(store, entry, other)
    out = bytearray(b"\x55" * len(PLAIN))
    with pytest.raises(IntegrityError) as error:
        reader(store, entry, threads=threads).read_into(0, memoryview(out))
    assert error.value.code == code
    assert error.value.message.startswith("shards/one.bin: ")
    assert error.value.message.count("shards/one.bin") == 1
    assert error.value.hint
    assert not any(byte not in (0, 0x55) for byte in out)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("threads", [1, 4])
def test_a_late_error_leaves_no_plaintext(threads: int) -> None:
    store = MemoryStore()
    plain = PLAIN * 40
    entry = put_file(store, plain)
    store.objects[entry.object] = flip(store.objects[entry.object], -1)
    out = bytearray(b"\x55" * len(plain))
    with pytest.raises(IntegrityError):
        reader(store, entry, threads=threads).read_into(0, memoryview(out))
    assert out == bytes(len(plain))


def test_segments_that_were_not_asked_for_arent_looked_at() -> None:
    store = MemoryStore()
    entry = put_file(store, PLAIN)
    store.objects[entry.object] = flip(store.objects[entry.object], -1)
    source = reader(store, entry)
    assert read(source, 0, 128) == PLAIN[:128]
    with pytest.raises(IntegrityError):
        read(source, 100, 50)
    assert read(source, 0, 128) == PLAIN[:128]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"size": 149}, "wrong_size"),
        ({"size": 151}, "wrong_size"),
        ({"size": 2**53 - 1}, "wrong_size"),
        ({"segment_length": 128}, "wrong_size"),
        ({"segment_length": 65}, "bad_header"),
        ({"path": "other.bin"}, "bad_header_tag"),
        ({"artifact": "b2" * 16}, "bad_header_tag"),
        ({"digest": "blake3:" + "00" * 32}, "bad_leaf_list"),
    ],
)
def test_an_entry_that_doesnt_fit(changes: dict, code: str) -> None:
    store = MemoryStore()
    entry = msgspec.structs.replace(put_file(store, PLAIN), **changes)
    with pytest.raises(IntegrityError) as error:
        read(reader(store, entry), 0, 10)
    assert error.value.code == code
    assert entry.path in error.value.message


def test_another_key_opens_nothing() -> None:
    store = MemoryStore()
    source = FileReader(store, put_file(store, PLAIN), Secret.random(32), "blake3", 1)
    with pytest.raises(IntegrityError) as error:
        read(source)
    assert error.value.code == "bad_header_tag"


def test_another_digest_algorithm_opens_nothing() -> None:
    store = MemoryStore()
    with pytest.raises(IntegrityError) as error:
        read(reader(store, put_file(store, PLAIN), alg="sha256"))
    assert error.value.code == "bad_leaf_list"


class Shrinking(MemoryStore):
    """Tells the right size, then ends early: an object exchanged between two calls."""

    def size(self, name: str) -> int:
        return super().size(name) + 1


def test_an_object_that_ends_while_it_is_read() -> None:
    store = Shrinking()
    entry = put_file(store, PLAIN)
    for name in (entry.object, entry.leaves):
        store.objects[name] = store.objects[name][:-1]
    with pytest.raises(IntegrityError) as error:
        read(reader(store, entry))
    assert error.value.code == "truncated"
    assert error.value.message.startswith("model.bin: ")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("threads", [1, 3])
def test_a_store_that_doesnt_answer_is_unavailable_and_leaves_nothing(threads: int) -> None:
    class Failing(MemoryStore):
        def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
            if offset > 500:
                raise Unavailable("store_unavailable", "the store doesn't answer")
            super().read_into(name, offset, buffer)

    store = Failing()
    entry = put_file(store, PLAIN * 10)
    out = bytearray(b"\x55" * 1500)
    with pytest.raises(Unavailable):
        reader(store, entry, threads=threads).read_into(0, memoryview(out))
    assert out == bytes(1500)


@pytest.mark.parametrize("opened", [False, True])
def test_wiped(opened: bool) -> None:
    store = MemoryStore()
    entry = put_file(store, PLAIN)
    key = derive.file_key(Secret.copy_of(bytes(range(32, 64))), ARTIFACT, "model.bin")
    source = FileReader(store, entry, key, "blake3", 1)
    if opened:
        read(source)
    source.wipe()
    source.wipe()
    assert key.wiped
    store.reads.clear()
    with pytest.raises(InvalidRequest) as error:
        read(source)
    assert error.value.code == "wiped"
    assert not store.reads


OF_THE_VAULT = [
    vector
    for vector in failures()
    if vector["rotation_bits"] == 20 and vector["segment_length"] >= 64
    and bytes.fromhex(vector["aad"]).startswith(derive.FILE_AAD)
]  # fmt: skip


@pytest.mark.parametrize("vector", OF_THE_VAULT, ids=lambda vector: vector["name"])
def test_floe_failures_under_a_manifest_that_vouches_for_them(vector: dict) -> None:
    """Whoever could sign a manifest over broken FLOE would still be refused by FLOE itself."""
    ciphertext, key, aad = (bytes.fromhex(vector[name]) for name in ("ciphertext", "key", "aad"))
    body = ciphertext[74:]
    parts = [ciphertext[:74], *(body[at : at + 64] for at in range(0, len(body), 64))]
    leaves, digest = leaf_list("blake3", parts)
    _label, artifact, path = aad.decode().split("\0", 2)
    size = len(bytes.fromhex(vector["plaintext"])) if vector["error"] is None else 80
    names = "objects/" + "0" * 32, "objects/" + "1" * 32
    store = MemoryStore()
    store.objects = dict(zip(names, (ciphertext, leaves), strict=True))
    entry = FileEntry(path, size, vector["segment_length"], artifact, *names, digest)
    source = FileReader(store, entry, Secret.copy_of(key), "blake3", 1)
    if vector["error"] is None:
        assert read(source).hex() == vector["plaintext"]
        return
    with pytest.raises(IntegrityError) as error:
        read(source)
    assert error.value.code in {vector["error"], "wrong_size"}


def test_most_vectors_are_files_of_the_vault() -> None:
    assert len(OF_THE_VAULT) > 45
