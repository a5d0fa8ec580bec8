"""Plaintext buffers: as many as are in use, reused, wiped."""

from __future__ import annotations

import pytest

from modelvault.artifact.buffers import Buffers


def test_each_user_has_one_alone_and_they_are_reused() -> None:
    buffers = Buffers(8)
    with buffers.one(8) as first, buffers.one(3) as second:
        assert (len(first), len(second)) == (8, 3)
        first[:] = b"secret!!"
        assert bytes(second) == bytes(3)
    with buffers.one(8) as third:
        assert third.obj in (first.obj, second.obj)


def test_it_comes_back_after_an_error_and_all_are_wiped() -> None:
    buffers = Buffers(4)

    def failing() -> memoryview:
        with buffers.one(4) as one:
            one[:] = b"hush"
            kept.append(one)
            raise RuntimeError

    kept: list[memoryview] = []
    with pytest.raises(RuntimeError):
        failing()
    (one,) = kept
    with buffers.one(4) as again, buffers.one(4) as other:
        assert again.obj is one.obj
        other[:] = b"more"
    buffers.wipe()
    assert bytes(one) == bytes(other) == bytes(4)
