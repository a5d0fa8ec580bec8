"""Content tags: equal for equal files under one key, and for nothing else."""

from __future__ import annotations

import itertools

import pytest

from modelvault.artifact.content import Tagger
from modelvault.artifact.writer import Encrypted, encrypt_file
from modelvault.crypto import derive
from modelvault.crypto.floe import Geometry
from modelvault.crypto.secret import Secret
from modelvault.errors import InvalidRequest
from oracle import second_writer
from support.artifacts import CONTENT_KEY, file_key
from support.memory_store import MemoryStore

PLAIN = bytes(n * 7 % 256 for n in range(1000))
CONTENT = bytes(range(32))
ALGORITHMS = ["blake3", "sha256"]


def tag(plain: bytes, *, key: Secret = CONTENT_KEY, alg: str = "blake3", length: int = 64) -> bytes:
    geometry = Geometry(length)
    made = Tagger(alg, key, geometry, len(plain))
    for position in reversed(range(geometry.segments(len(plain)))):
        made.block(position, plain[position * geometry.payload : (position + 1) * geometry.payload])
    return made.tag()


@pytest.mark.parametrize("alg", ALGORITHMS)
@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 64, 1000])
def test_the_second_writer_makes_the_same(alg: str, size: int) -> None:
    key = second_writer.content_key(CONTENT, "größe/a")
    with derive.content_key(Secret.copy_of(CONTENT), "größe/a") as ours:
        assert bytes(ours.reveal()) == key
        made = tag(PLAIN[:size], key=ours, alg=alg)
    assert made == second_writer.content_tag(alg, key, PLAIN[:size], 64)
    assert len(made) == 32


@pytest.mark.parametrize("alg", ALGORITHMS)
@pytest.mark.parametrize("size", [0, 1, 33, 1000])
def test_encrypting_makes_it_in_the_same_read(alg: str, size: int) -> None:
    def read_into(offset: int, buffer: memoryview) -> None:
        buffer[:] = PLAIN[offset : offset + len(buffer)]

    made: Encrypted = encrypt_file(
        read_into, size, file_key("x"), CONTENT_KEY, b"", Geometry(64), alg, MemoryStore(8),
        ("a", "b"), print,
    )  # fmt: skip
    assert made.content == tag(PLAIN[:size], alg=alg)


def test_whatever_differs_makes_another() -> None:
    others = [
        *(PLAIN[:size] for size in (0, 1, 31, 32, 33, 999)),
        *(PLAIN[:at] + bytes([PLAIN[at] ^ 1]) + PLAIN[at + 1 :] for at in range(0, 1000, 37)),
        PLAIN[32:64] + PLAIN[:32] + PLAIN[64:],  # two blocks exchanged
        bytes(32),
        bytes(64),
    ]
    tags = [tag(plain) for plain in (PLAIN, *others)]
    tags += [tag(PLAIN, length=96), tag(PLAIN, alg="sha256"), tag(PLAIN, key=Secret.random(32))]
    assert len(set(tags)) == len(tags)


def test_a_fingerprint_is_of_one_file_of_one_artifact() -> None:
    content, other = Secret.copy_of(CONTENT), Secret.copy_of(CONTENT[::-1])
    values = (("0" * 32, "1" * 32), ("a", "b"), ("blake3:0", "blake3:1"), (b"x" * 32, b"y" * 32))
    made = [
        derive.fingerprint(key, *arguments)
        for key in (content, other)
        for arguments in itertools.product(*values)
    ]
    assert len(set(made)) == len(made) == 32
    assert {len(one) for one in made} == {32}


def test_the_id_of_a_content_key_is_of_one_model() -> None:
    vault = "f" * 32
    names = [(vault, "default", "m"), (vault, "default", "n"), (vault, "other", "m"),
             (vault[::-1].replace("f", "e"), "default", "m")]  # fmt: skip
    ids = [derive.content_artifact(*name) for name in names]
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 32 and set(one) <= set("0123456789abcdef") for one in ids)


def test_an_unknown_algorithm() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Tagger("md5", CONTENT_KEY, Geometry(64), 1)
    assert caught.value.code == "unknown_digest_alg"
