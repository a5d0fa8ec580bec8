"""Values by what they were made of: bounded, shared by threads, never a failure."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from modelvault.crypto.remembered import Remembered

LIMIT = 80


class Maker:
    def __init__(self) -> None:
        self.made: list[bytes] = []

    def get(self, kept: Remembered[bytes], key: bytes) -> bytes:
        def make() -> bytes:
            self.made.append(key)
            return key.upper()

        return kept.get(key, len(key), make)


def test_made_once() -> None:
    kept, maker = Remembered[bytes](LIMIT), Maker()
    assert [maker.get(kept, b"abc") for _ in range(3)] == [b"ABC"] * 3
    assert maker.made == [b"abc"]


def test_one_bit_is_another_key() -> None:
    kept, maker = Remembered[bytes](LIMIT), Maker()
    assert maker.get(kept, b"abc") == b"ABC"
    assert maker.get(kept, b"abb") == b"ABB"


def test_who_was_not_asked_for_longest_goes_first() -> None:
    kept, maker = Remembered[bytes](LIMIT), Maker()
    keys = [bytes([65 + n]) * 10 for n in range(8)]  # 80 bytes: full
    for key in keys:
        maker.get(kept, key)
    maker.get(kept, keys[0])
    maker.get(kept, b"z" * 5)  # keys[1] has to go
    maker.made.clear()
    for key in (keys[0], *keys[2:], b"z" * 5):
        maker.get(kept, key)
    assert maker.made == []
    maker.get(kept, keys[1])
    assert maker.made == [keys[1]]


def test_what_would_drive_out_the_others_is_not_kept() -> None:
    kept, maker = Remembered[bytes](LIMIT), Maker()
    maker.get(kept, b"small")
    for _ in range(2):
        maker.get(kept, b"x" * 11)
    maker.get(kept, b"small")
    assert maker.made == [b"small", b"x" * 11, b"x" * 11]


def test_a_failure_is_not_kept() -> None:
    kept, maker = Remembered[bytes](LIMIT), Maker()

    def fails() -> bytes:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        kept.get(b"a", 1, fails)
    assert maker.get(kept, b"a") == b"A"


def test_many_threads() -> None:
    kept, maker = Remembered[bytes](LIMIT), Maker()
    keys = [b"%d" % (n % 40) for n in range(4000)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda key: maker.get(kept, key), keys)) == keys
    assert kept._size == sum(size for _, size in kept._kept.values()) <= LIMIT
