"""FLOE segments: geometry, round-trips, threads, and what is left behind on an error."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.crypto.floe import HEADER_BYTES, OVERHEAD, Decryptor, Encryptor, Geometry
from modelvault.crypto.secret import Secret
from modelvault.errors import IntegrityError, InvalidRequest
from oracle.second_reader import decrypt
from support.floe_vectors import OFFICIAL_AAD, need_official, official

KEY = bytes(range(32))


def key() -> Secret:
    return Secret.copy_of(KEY)


def encrypt(plain: bytes, geometry: Geometry, aad: bytes = b"aad", threads: int = 1) -> bytearray:
    """A whole ciphertext, its segments written by several threads into one buffer."""
    encryptor = Encryptor(key(), aad, geometry)
    out = bytearray(geometry.ciphertext_size(len(plain)))
    out[:HEADER_BYTES] = encryptor.header
    last = geometry.segments(len(plain)) - 1

    def one(position: int) -> None:
        piece = plain[position * geometry.payload :][: geometry.payload]
        place, length = geometry.segment_at(position, len(plain))
        view = memoryview(out)[place : place + length]
        encryptor.encrypt_into(position, piece, position == last, view)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(last + 1)))
    return out


def decrypt_all(
    ciphertext: bytes | bytearray, size: int, geometry: Geometry, aad: bytes, threads: int = 1
) -> bytearray:
    """All segments, decrypted by several threads into slices of one buffer."""
    decryptor = Decryptor(key(), aad, geometry, ciphertext[:HEADER_BYTES])
    out = bytearray(size)
    last = geometry.segments(size) - 1

    def one(position: int) -> None:
        place, length = geometry.segment_at(position, size)
        start = position * geometry.payload
        view = memoryview(out)[start : start + length - OVERHEAD]
        decryptor.decrypt_into(
            position, memoryview(ciphertext)[place : place + length], position == last, view
        )

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(last + 1)))
    return out


@given(plain=st.binary(max_size=300), length=st.integers(33, 80), bits=st.integers(0, 4))
def test_round_trip_with_tiny_segments(plain: bytes, length: int, bits: int) -> None:
    geometry = Geometry(length, bits)
    ciphertext = encrypt(plain, geometry)
    assert len(ciphertext) == geometry.ciphertext_size(len(plain))
    assert geometry.plaintext_size(len(ciphertext)) == len(plain)
    assert decrypt_all(ciphertext, len(plain), geometry, b"aad") == plain
    assert decrypt(bytes(ciphertext), KEY, b"aad", length, bits) == plain


def test_many_threads_write_and_read_one_buffer() -> None:
    geometry = Geometry(256, rotation_bits=3)
    plain = os.urandom(50_000)
    ciphertext = encrypt(plain, geometry, threads=8)
    assert decrypt_all(ciphertext, len(plain), geometry, b"aad", threads=8) == plain
    assert decrypt(bytes(ciphertext), KEY, b"aad", 256, 3) == plain


def test_every_header_and_nonce_is_fresh() -> None:
    geometry = Geometry(64)
    one, other = encrypt(bytes(64), geometry), encrypt(bytes(64), geometry)
    assert one[10:42] != other[10:42]
    places = [geometry.segment_at(n, 64)[0] for n in (0, 1)]
    nonces = {bytes(text[at + 4 : at + 16]) for text in (one, other) for at in places}
    assert len(nonces) == 4


@pytest.mark.parametrize("vector", official(), ids=lambda vector: vector.name)
def test_segments_of_the_specifications_files(vector) -> None:
    geometry, ciphertext = vector.geometry, vector.ciphertext
    decryptor = Decryptor(
        Secret.copy_of(bytes(32)), OFFICIAL_AAD, geometry, ciphertext[:HEADER_BYTES]
    )
    body = ciphertext[HEADER_BYTES:]
    step = geometry.segment_length
    segments = [body[at : at + step] for at in range(0, len(body), step)]
    plain = bytearray()
    for position, segment in enumerate(segments):
        out = bytearray(len(segment) - OVERHEAD)
        final = position == len(segments) - 1
        decryptor.decrypt_into(position, segment, final, memoryview(out))
        plain += out
    assert plain == vector.plaintext


def test_the_specifications_files_are_there() -> None:
    need_official()
    assert len(official()) == 8


@pytest.mark.parametrize("length", [0, -1, OVERHEAD, 1 << 32])
def test_impossible_segment_lengths(length: int) -> None:
    with pytest.raises(InvalidRequest) as error:
        Geometry(length)
    assert error.value.code == "bad_segment_length"


@pytest.mark.parametrize("bits", [-1, 41])
def test_impossible_rotations(bits: int) -> None:
    with pytest.raises(InvalidRequest) as error:
        Geometry(64, bits)
    assert error.value.code == "bad_rotation"


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES, HEADER_BYTES + 31, HEADER_BYTES + 64 + 31])
def test_lengths_that_no_ciphertext_has(size: int) -> None:
    with pytest.raises(IntegrityError) as error:
        Geometry(64).plaintext_size(size)
    assert error.value.code == "bad_length"


@pytest.mark.parametrize(
    ("size", "final", "out"),
    [(31, False, 63), (33, False, 65), (33, True, 65), (32, True, 63), (32, False, 65)],
)
def test_segments_that_dont_fit_arent_encrypted(size: int, final: bool, out: int) -> None:
    encryptor = Encryptor(key(), b"", Geometry(64))
    buffer = bytearray(out)
    with pytest.raises(InvalidRequest) as error:
        encryptor.encrypt_into(0, bytes(size), final, memoryview(buffer))
    assert error.value.code == "bad_segment"
    assert not any(buffer)


@pytest.mark.parametrize("position", [-1, 1 << 40])
def test_positions_outside_of_any_ciphertext(position: int) -> None:
    encryptor = Encryptor(key(), b"", Geometry(64))
    out = memoryview(bytearray(32))
    with pytest.raises(InvalidRequest) as error:
        encryptor.encrypt_into(position, b"", True, out)
    assert error.value.code == "bad_position"


def test_the_last_position_has_a_key() -> None:
    geometry = Geometry(64)
    encryptor = Encryptor(key(), b"", geometry)
    sealed, plain = bytearray(35), bytearray(3)
    last = (1 << 40) - 1
    encryptor.encrypt_into(last, b"abc", True, memoryview(sealed))
    decryptor = Decryptor(key(), b"", geometry, encryptor.header)
    decryptor.decrypt_into(last, sealed, True, memoryview(plain))
    assert plain == b"abc"


def test_nothing_of_a_refused_segment_is_left() -> None:
    geometry = Geometry(64)
    ciphertext = encrypt(b"\xaa" * 32, geometry)
    ciphertext[-1] ^= 1
    decryptor = Decryptor(key(), b"aad", geometry, ciphertext[:HEADER_BYTES])
    out = bytearray(b"\x55" * 32)
    with pytest.raises(IntegrityError) as error:
        decryptor.decrypt_into(0, ciphertext[HEADER_BYTES:], True, memoryview(out))
    assert error.value.code == "bad_tag"
    assert out == bytes(32)


def test_a_buffer_of_another_size_is_the_callers_mistake() -> None:
    geometry = Geometry(64)
    ciphertext = encrypt(b"x" * 32, geometry)
    decryptor = Decryptor(key(), b"aad", geometry, ciphertext[:HEADER_BYTES])
    with pytest.raises(InvalidRequest) as error:
        decryptor.decrypt_into(0, ciphertext[HEADER_BYTES:], True, memoryview(bytearray(31)))
    assert error.value.code == "bad_buffer"


def test_a_wiped_key_makes_nothing_more() -> None:
    geometry = Geometry(64, rotation_bits=0)
    encryptor = Encryptor(key(), b"", geometry)
    out = memoryview(bytearray(64))
    encryptor.encrypt_into(0, bytes(32), False, out)
    segment = bytes(out)
    encryptor.wipe()
    for position in (0, 1):
        with pytest.raises(InvalidRequest) as error:
            encryptor.encrypt_into(position, bytes(32), False, out)
        assert error.value.code == "wiped"
    decryptor = Decryptor(key(), b"", geometry, encryptor.header)
    decryptor.wipe()
    with pytest.raises(InvalidRequest) as error:
        decryptor.decrypt_into(0, segment, False, memoryview(bytearray(32)))
    assert error.value.code == "wiped"


def test_a_wipe_never_lets_a_key_of_zeros_encrypt() -> None:
    """Threads that race with the wipe either made a good segment or were refused."""
    geometry = Geometry(64, rotation_bits=0)
    for _ in range(20):
        encryptor = Encryptor(key(), b"", geometry)
        made: list[tuple[int, bytes]] = []

        def work(first: int, encryptor: Encryptor = encryptor, made: list = made) -> None:
            for position in range(first, 200, 2):
                out = bytearray(64)
                try:
                    encryptor.encrypt_into(position, bytes(32), False, memoryview(out))
                except InvalidRequest:
                    return
                made.append((position, bytes(out)))

        threads = [threading.Thread(target=work, args=(n,)) for n in (0, 1)]
        for thread in threads:
            thread.start()
        encryptor.wipe()
        for thread in threads:
            thread.join()
        decryptor = Decryptor(key(), b"", geometry, encryptor.header)
        for position, segment in made:
            decryptor.decrypt_into(position, segment, False, memoryview(bytearray(32)))
