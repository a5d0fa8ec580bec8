"""Indices of distributed checkpoints that contradict themselves are refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.weights.checkpoint import Chunk, Index, Stored, pad, read, write

INDEX = Index(
    1,
    {"w": Stored("F32", (4, 2), (Chunk((0, 0), (2, 2), "a", "w[0,0]"),
                                 Chunk((2, 0), (2, 2), "b", "w[2,0]")))},
    {"lr": {"float": "0x1p-3"}},
    {"w": {"tuple": ["w"]}},
)  # fmt: skip


def test_there_and_back_with_room_behind() -> None:
    text = write(INDEX)
    assert read(text) == read(pad(text, len(text) + 100)) == INDEX
    with pytest.raises(InvalidRequest) as refused:
        pad(text, len(text) - 1)
    assert refused.value.code == "values_too_large"


def changed(*path: str | int, to: object) -> Any:
    document: Any = msgspec.to_builtins(INDEX)
    place = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = to
    return document


CHUNKS = ("tensors", "w", "chunks")


@pytest.mark.parametrize(
    "document",
    [
        changed("schema", to=2),
        changed("schema", to="1"),
        changed("more", to=1),
        changed("values", to={"w": 1}),
        changed("tensors", "w", "dtype", to="F3"),
        changed("tensors", "w", "size", to=[4]),
        changed("tensors", "w", "size", to=[4, -2]),
        changed("tensors", "w", "size", to=[3, 2]),
        changed(*CHUNKS, 1, "offsets", to=[0, 0]),
        changed(*CHUNKS, 1, "offsets", to=[2]),
        changed(*CHUNKS, 1, "sizes", to=[3, 2]),
        changed(*CHUNKS, 1, "sizes", to=[1, 2]),
        changed(*CHUNKS, 0, "sizes", to=[3, 2]),
        changed(*CHUNKS, to=[]),
        changed(*CHUNKS, 1, "file", to=3),
        [],
        3,
    ],
)
def test_what_contradicts_itself(document: object) -> None:
    with pytest.raises(IntegrityError) as refused:
        read(msgspec.json.encode(document))
    assert refused.value.code == "bad_checkpoint"


@pytest.mark.parametrize("text", [b"", b"{", b"\x80\x04N.", b"\xff"])
def test_what_isnt_json(text: bytes) -> None:
    with pytest.raises(IntegrityError):
        read(text)
