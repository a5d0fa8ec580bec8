from __future__ import annotations

import io
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.errors import InvalidRequest
from support.loading import SEGMENT, Sealed, Version

DATA = bytes(range(256)) * 40
STEP = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 12_000)),
    st.tuples(st.just("read1"), st.integers(0, 3000)),
    st.tuples(st.just("readinto"), st.integers(0, 12_000)),
    st.tuples(st.just("readline"), st.integers(-1, 500)),
    st.tuples(st.just("seek"), st.integers(0, 12_000)),
    st.tuples(st.just("forward"), st.integers(-50, 2000)),
    st.tuples(st.just("from_end"), st.integers(-12_000, 10)),
)


def step(file: io.BufferedIOBase, kind: str, number: int) -> object:
    if kind == "readinto":
        buffer = bytearray(number)
        return file.readinto(buffer), bytes(buffer)
    if kind == "seek":
        return file.seek(number)
    if kind == "forward":
        return file.seek(max(number, -file.tell()), os.SEEK_CUR)
    if kind == "from_end":
        return file.seek(max(number, -len(DATA)), os.SEEK_END)
    if kind == "read1":  # may give less: as much as comes by one read
        file.read1(0)
        return file.tell()
    return getattr(file, kind)(number)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=12))
def test_behaves_as_the_plain_bytes_do(steps: list[tuple[str, int]]) -> None:
    with Version({"f": DATA}).model() as model, model.open("f") as ours:
        theirs = io.BufferedReader(io.BytesIO(DATA))  # type: ignore[type-var]
        for kind, number in steps:
            assert step(ours, kind, number) == step(theirs, kind, number)
            assert ours.tell() == theirs.tell()


def test_only_what_is_read_is_decrypted() -> None:
    version = Version({"f": bytes(1000 * SEGMENT)})
    with version.model() as model:
        with model.open("f") as file:
            head = version.bytes_read
            file.seek(500 * SEGMENT)
            file.read(10)
        assert version.bytes_read - head <= 10 * SEGMENT
        assert head <= 8 * SEGMENT


def test_it_is_a_file_for_others() -> None:
    files = {"c.json": b'{"a": [1]}', "t.txt": "eins\nzwei \u00fc\n".encode()}
    with Sealed(files).model() as model:
        assert json.load(model.open("c.json")) == {"a": [1]}
        with io.TextIOWrapper(model.open("t.txt"), encoding="utf-8") as text:
            assert list(text) == ["eins\n", "zwei \u00fc\n"]
        with model.open("t.txt") as file:
            assert file.readable()
            assert file.seekable()
            assert not file.writable()
            assert file.name == "t.txt"
            with pytest.raises(OSError, match="fileno"):
                file.fileno()


@pytest.mark.parametrize(("offset", "whence"), [(-1, 0), (-1, 1), (-11, 2), (0, 7)])
def test_positions_before_the_beginning(offset: int, whence: int) -> None:
    with Version({"f": bytes(10)}).model() as model, pytest.raises(InvalidRequest) as caught:
        model.open("f").raw.seek(offset, whence)
    assert caught.value.code == "bad_seek"


def test_closing_the_file_does_not_close_the_model() -> None:
    with Version({"f": DATA}).model() as model:
        with model.open("f") as file:
            file.read(1)
        assert bytes(model.read_bytes("f")) == DATA
