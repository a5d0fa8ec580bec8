"""Leaf lists."""

from __future__ import annotations

import hashlib

import blake3
import pytest

from modelvault.artifact import leaves
from modelvault.crypto.floe import Geometry
from modelvault.errors import IntegrityError, InvalidRequest
from oracle import second_reader
from support.documents import entry

ALGORITHMS = ("blake3", "sha256")


@pytest.mark.parametrize("alg", ALGORITHMS)
@pytest.mark.parametrize("data", [b"", b"x", bytes(100_000)])
def test_hashes_are_what_the_format_says(alg: str, data: bytes) -> None:
    assert leaves.leaf(alg, data) == second_reader.leaf(alg, data)
    assert leaves.digest(alg, data) == second_reader.list_digest(alg, data)


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_a_list_is_never_a_segment(alg: str) -> None:
    data = bytes(96)
    assert leaves.digest(alg, data).removeprefix(alg + ":") != leaves.leaf(alg, data).hex()


def test_known_values() -> None:
    assert leaves.leaf("sha256", b"") == hashlib.sha256().digest()
    assert leaves.leaf("blake3", b"") == blake3.blake3().digest()


def test_unknown_algorithms() -> None:
    for use in (leaves.leaf, leaves.digest):
        with pytest.raises(InvalidRequest) as error:
            use("md5", b"")
        assert error.value.code == "unknown_digest_alg"


@pytest.mark.parametrize(("size", "segments"), [(0, 1), (1, 1), (32, 1), (33, 2), (64, 2)])
def test_list_size(size: int, segments: int) -> None:
    assert leaves.list_size(Geometry(64), size) == 32 * (1 + segments)


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_check(alg: str) -> None:
    good = bytes(range(160))
    named = entry(size=100, digest=leaves.digest(alg, good))
    leaves.check(alg, good, named)
    for bad in (good[:-1], good + b"\0", b"", good[:-32], good[:-1] + b"\0"):
        with pytest.raises(IntegrityError) as error:
            leaves.check(alg, bad, named)
        assert error.value.code == "bad_leaf_list"
        assert named.path in error.value.message


def test_check_leaf_names_the_part() -> None:
    good = bytes(32) + b"\1" * 32
    leaves.check_leaf(b"\1" * 32, good, 1, "a/b")
    for index, part in ((0, "header"), (1, "segment 0"), (2, "segment 1")):
        with pytest.raises(IntegrityError) as error:
            leaves.check_leaf(b"\2" * 32, good, index, "a/b")
        assert error.value.message == f"a/b: {part} was altered"
