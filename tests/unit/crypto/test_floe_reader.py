"""The bare reader: the specification's files, every range, and every failure vector."""

from __future__ import annotations

from collections import Counter

import pytest

from modelvault.crypto.floe import Geometry
from modelvault.crypto.floe_reader import Reader
from modelvault.crypto.secret import Secret
from modelvault.errors import IntegrityError, InvalidRequest, ModelVaultError
from oracle.second_reader import Refused, decrypt
from support.floe_vectors import OFFICIAL_AAD, failures, official
from vectors import make_floe


def reader(ciphertext: bytes, key: bytes, aad: bytes, geometry: Geometry) -> Reader:
    def source(offset: int, buffer: memoryview) -> None:
        buffer[:] = ciphertext[offset : offset + len(buffer)]

    return Reader(source, len(ciphertext), Secret.copy_of(key), aad, geometry)


def opened(vector: dict) -> Reader:
    geometry = Geometry(vector["segment_length"], vector["rotation_bits"])
    ciphertext, key, aad = (bytes.fromhex(vector[name]) for name in ("ciphertext", "key", "aad"))
    return reader(ciphertext, key, aad, geometry)


def read_whole(vector: dict) -> bytes:
    source = opened(vector)
    return read(source, 0, source.size)


def read(source: Reader, offset: int, length: int) -> bytes:
    out = bytearray(length)
    source.read_into(offset, memoryview(out))
    return bytes(out)


@pytest.mark.parametrize("vector", official(), ids=lambda vector: vector.name)
def test_the_specifications_files_in_every_range(vector) -> None:
    source = reader(vector.ciphertext, bytes(32), OFFICIAL_AAD, vector.geometry)
    size = len(vector.plaintext)
    assert source.size == size
    step = 1 if size <= 131 else 17
    for start in range(0, size + 1, step):
        for end in range(start, size + 1, step):
            assert read(source, start, end - start) == vector.plaintext[start:end]


@pytest.mark.parametrize("vector", failures(), ids=lambda vector: vector["name"])
def test_each_way_to_be_wrong_has_its_error(vector: dict) -> None:
    if vector["error"] is None:
        assert read_whole(vector).hex() == vector["plaintext"]
        return
    with pytest.raises(ModelVaultError) as error:
        read_whole(vector)
    assert error.value.code == vector["error"]
    wanted = InvalidRequest if vector["error"] == "bad_segment_length" else IntegrityError
    assert error.type is wanted


@pytest.mark.parametrize("vector", failures(), ids=lambda vector: vector["name"])
def test_the_second_reader_agrees(vector: dict) -> None:
    ciphertext, key, aad = (bytes.fromhex(vector[name]) for name in ("ciphertext", "key", "aad"))
    length, bits = vector["segment_length"], vector["rotation_bits"]
    if vector["error"] is None:
        assert decrypt(ciphertext, key, aad, length, bits).hex() == vector["plaintext"]
    elif vector["error"] != "bad_segment_length":
        with pytest.raises(Refused):
            decrypt(ciphertext, key, aad, length, bits)


def test_cut_anywhere_it_is_refused_before_its_length_is_believed() -> None:
    whole = b"".join(make_floe.GOOD)
    for size in range(len(whole)):
        with pytest.raises(IntegrityError):
            reader(whole[:size], make_floe.KEY, make_floe.AAD, Geometry(make_floe.LENGTH))


def test_no_bit_can_be_flipped() -> None:
    whole = b"".join(make_floe.GOOD)
    geometry = Geometry(make_floe.LENGTH)
    for bit in range(0, len(whole) * 8, 5):
        bad = bytearray(whole)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            read(reader(bytes(bad), make_floe.KEY, make_floe.AAD, geometry), 0, 80)


def test_the_buffer_holds_nothing_after_a_refusal() -> None:
    bad = b"".join([*make_floe.GOOD[:2], make_floe.GOOD[1], make_floe.FINAL])
    source = reader(bad, make_floe.KEY, make_floe.AAD, Geometry(make_floe.LENGTH))
    out = bytearray(b"\x55" * 80)
    with pytest.raises(IntegrityError):
        source.read_into(0, memoryview(out))
    assert out == bytes(80)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 81), (80, 1), (81, 0), (1 << 60, 1)])
def test_ranges_outside(offset: int, length: int) -> None:
    whole = b"".join(make_floe.GOOD)
    source = reader(whole, make_floe.KEY, make_floe.AAD, Geometry(make_floe.LENGTH))
    with pytest.raises(InvalidRequest) as error:
        read(source, offset, length)
    assert error.value.code == "bad_range"


def test_wiped() -> None:
    whole = b"".join(make_floe.GOOD)
    source = reader(whole, make_floe.KEY, make_floe.AAD, Geometry(make_floe.LENGTH))
    source.wipe()
    with pytest.raises(InvalidRequest) as error:
        read(source, 0, 1)
    assert error.value.code == "wiped"


def test_the_vectors_are_what_their_script_makes() -> None:
    on_disk = {path.name: path.read_text() for path in make_floe.FOLDER.glob("*.json")}
    assert on_disk == make_floe.contents()


def test_the_vectors_cover_every_class() -> None:
    classes = Counter(vector["class"] for vector in failures())
    wanted = "aad bit field flag good header key length order rotation size"
    assert sorted(classes) == wanted.split()
