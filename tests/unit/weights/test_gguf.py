from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelvault.errors import IntegrityError, InvalidRequest
from modelvault.weights import gguf, gguf_metadata
from modelvault.weights.gguf import Header, check, parse
from modelvault.weights.gguf_metadata import ArrayValue
from support.gguf_files import file_of, key, tensor, text


def read(data: bytes) -> Header:
    return parse(lambda begin, end: data[begin:end], len(data))


W = tensor("w", (2,), 0, 0)  # two float32

LIES = {
    "another magic": (b"GGML" + file_of()[4:], "begin with GGUF"),
    "JSON": (b'{"a": [1, 2, 3]}', "it is JSON"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "empty": (b"", "4 bytes at byte 0"),
    "cut in the counts": (file_of()[:20], "8 bytes at byte 16"),
    "version 0": (file_of(version=0), "no version 0"),
    "more tensors than there are": (file_of(tensors=[W], body=8, count=2), "bytes at byte"),
    "2^60 tensors": (file_of(count=1 << 60), "the limits are"),
    "2^60 keys": (file_of(keys=1 << 60), "the limits are"),
    "more keys than there are": (file_of(keys=1), "bytes at byte"),
    "key twice": (file_of([key("a", 4, b"1234"), key("a", 4, b"1234")]), "'a' stands twice"),
    "key of 2^40 bytes": (file_of([struct.pack("<Q", 1 << 40)], keys=1), "the limit is 65,535"),
    "key that isn't UTF-8": (file_of([text(b"\xff") + bytes(8)], keys=1), "isn't UTF-8"),
    "type of value": (file_of([key("a", 13, b"")]), "no type 13"),
    "truth value": (file_of([key("a", 7, b"\2")]), "truth value of 2"),
    "text beyond the file": (file_of([key("a", 8, struct.pack("<Q", 99) + b"x")]), "99 bytes"),
    "list of lists": (file_of([key("a", 9, struct.pack("<IQ", 9, 1))]), "no list of type 9"),
    "list of 2^61 numbers": (file_of([key("a", 9, struct.pack("<IQ", 4, 1 << 61))]), "bytes at"),
    "list of 2^61 texts": (file_of([key("a", 9, struct.pack("<IQ", 8, 1 << 61))]), "texts in a"),
    "text in a list": (file_of([key("a", 9, struct.pack("<IQQ", 8, 1, 1 << 63))]), "bytes at"),
    "alignment 0": (file_of([key("general.alignment", 4, bytes(4))]), "alignment of 0"),
    "alignment 24": (file_of([key("general.alignment", 4, b"\x18\0\0\0")]), "alignment of 24"),
    "alignment as text": (file_of([key("general.alignment", 8, text(b"8"))]), "isn't a number"),
    "alignment true": (file_of([key("general.alignment", 7, b"\1")]), "isn't a number"),
    "alignment 2^30": (file_of([key("general.alignment", 4, b"\0\0\0\x40")]), "alignment of 1073"),
    "five dimensions": (file_of(tensors=[tensor("w", (1,) * 5, 0, 0)], body=4), "5 dimensions"),
    "name twice": (file_of(tensors=[W, tensor("w", (2,), 0, 32)], body=40), "'w' stands twice"),
    "name of 2 KiB": (file_of(tensors=[tensor("w" * 2048, (2,), 0, 0)], body=8), "2,048 bytes"),
    "name that isn't UTF-8": (file_of(tensors=[W.replace(b"w", b"\xff")], body=8), "isn't UTF-8"),
    "offset unaligned": (file_of(tensors=[tensor("w", (2,), 0, 8)], body=16), "isn't aligned"),
    "hole before": (file_of(tensors=[tensor("w", (2,), 0, 32)], body=40), "leaves a hole"),
    "overlap": (file_of(tensors=[W, tensor("v", (2,), 0, 0)], body=40), "overlaps"),
    "end behind the file": (file_of(tensors=[tensor("w", (3,), 0, 0)], body=8), "behind the file"),
    "bytes behind": (file_of(tensors=[W], body=8 + 25), "1 bytes behind"),
    "row of half a block": (file_of(tensors=[tensor("w", (16, 2), 8, 0)], body=34), "of 32"),
    "scalar of blocks": (file_of(tensors=[tensor("w", (), 8, 0)], body=34), "of 32"),
    "2^63 elements": (file_of(tensors=[tensor("w", (1 << 63,), 0, 0)], body=8), "any memory"),
    "product that wraps": (
        file_of(tensors=[tensor("w", (1 << 32, 1 << 32), 0, 0)], body=8), "any memory"
    ),
    "zero that hides": (
        file_of(tensors=[tensor("w", (0, 1 << 62, 4), 0, 0)]), "any memory"
    ),
    "offset of 2^64-32": (file_of(tensors=[tensor("w", (2,), 0, 2**64 - 32)], body=8), "hole"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_lying_headers_are_refused(case: str) -> None:
    data, why = LIES[case]
    with pytest.raises(IntegrityError) as caught:
        read(data)
    assert caught.value.code == "bad_gguf"
    assert why in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.hint


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (file_of(version=1), "version 1"),
        (file_of(version=4), "version 4"),
        (file_of(version=3 << 24), "big-endian"),
        (file_of(version=2 << 24), "big-endian"),
        (file_of(tensors=[tensor("w", (2,), 99, 0)], body=8), "'w' is of type 99"),
        (file_of(tensors=[tensor("w", (32,), 4, 0)], body=8), "type 4"),  # dropped by ggml
    ],
)
def test_what_cant_be_read_here_is_no_lie(data: bytes, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as caught:
        read(data)
    assert caught.value.code == "unsupported_gguf"


NEWER = 99  # a type of tensors that isn't known

BEHIND_A_NEWER_TYPE = {
    "tensor of its own place": ([tensor("w", (2,), NEWER, 0), tensor("v", (2,), 0, 0)], 8, "own"),
    "tensor beyond the file": ([tensor("w", (2,), NEWER, 1 << 40)], 8, "no bytes of its own"),
    "hole before it": ([tensor("w", (2,), NEWER, 32)], 40, "leaves a hole before"),
    "hole behind it": ([tensor("w", (2,), NEWER, 0), tensor("v", (2,), 0, 64),
                        tensor("u", (2,), 0, 128)], 136, "leaves a hole before"),
    "a known one beyond": ([tensor("w", (2,), NEWER, 0), tensor("v", (99,), 0, 32)], 40, "end"),
    "the name twice": ([tensor("w", (2,), NEWER, 0), tensor("w", (2,), 0, 32)], 40, "twice"),
    "a shape beyond any memory": ([tensor("w", (1 << 32, 1 << 32), NEWER, 0)], 8, "any memory"),
    "an unaligned place": ([tensor("v", (2,), 0, 0), tensor("w", (2,), NEWER, 33)], 48, "aligned"),
    "five dimensions": ([tensor("v", (1,) * 5, NEWER, 0)], 8, "5 dimensions"),
}  # fmt: skip


@pytest.mark.parametrize("case", BEHIND_A_NEWER_TYPE)
def test_a_newer_type_hides_no_lie(case: str) -> None:
    tensors, body, why = BEHIND_A_NEWER_TYPE[case]
    data = file_of(tensors=tensors, body=body)
    with pytest.raises(IntegrityError, match=why) as caught:
        check(lambda begin, end: data[begin:end], len(data))
    assert caught.value.code == "bad_gguf"


@pytest.mark.parametrize(
    ("tensors", "body"),
    [
        ([tensor("w", (2,), NEWER, 0)], 8),
        ([tensor("w", (2,), NEWER, 0), tensor("v", (2,), 0, 64)], 72),
        ([tensor("v", (2,), 0, 0), tensor("w", (2,), NEWER, 32), tensor("u", (0,), 98, 32)], 99),
    ],
)
def test_a_newer_type_is_for_the_engine_to_know(tensors: list[bytes], body: int) -> None:
    data = file_of(tensors=tensors, body=body)
    check(lambda begin, end: data[begin:end], len(data))
    with pytest.raises(InvalidRequest, match="isn't known"):
        read(data)


def test_vocabularies_longer_than_a_block() -> None:
    words = [text(b"x" * (at % 50_000)) for at in range(0, 200_000, 700)] + [text(b"")] * 9000
    listed = key("a", 9, struct.pack("<IQ", 8, len(words)) + b"".join(words))
    found = read(file_of([listed, key("b", 0, b"\7")]))
    assert found.metadata == {"a": ArrayValue(len(words)), "b": 7}
    with pytest.raises(IntegrityError, match="bytes at byte"):
        read(file_of([listed])[:-40_000])


def test_sound_headers_are_read() -> None:
    data = file_of(
        [
            key("general.architecture", 8, text(b"llama")),
            key("general.file_type", 4, struct.pack("<I", 15)),
            key("a", 0, b"\7"), key("b", 7, b"\1"), key("c", 12, struct.pack("<d", 0.5)),
            key("d", 9, struct.pack("<IQ", 8, 2) + text(b"x") + text(b"")),
            key("e", 9, struct.pack("<IQ", 5, 3) + bytes(12)),
        ],
        [tensor("q", (64, 3), 8, 32), tensor("w", (2,), 0, 0)],
        32 + 6 * 34,
    )  # fmt: skip
    found = read(data)
    assert (found.version, found.architecture, found.quantisation) == (3, "llama", "Q4_K_M")
    assert found.metadata["a"] == 7
    assert found.metadata["b"] is True
    assert found.metadata["c"] == 0.5
    assert found.metadata["d"] == ArrayValue(2)
    assert found.metadata["e"] == ArrayValue(3)
    assert [(t.name, t.dtype, t.shape, t.size) for t in found.tensors] == [
        ("w", "F32", (2,), 8),
        ("q", "Q8_0", (3, 64), 6 * 34),
    ]
    assert found.tensors[-1].end == len(data)
    assert [gguf.is_quantised(t) for t in found.tensors] == [False, True]
    shown = gguf.in_bytes(found.tensors[1])
    assert (shown.dtype, shown.shape, shown.size) == ("U8", (3, 68), 6 * 34)
    assert gguf.in_bytes(found.tensors[0]) is found.tensors[0]


@pytest.mark.parametrize(
    ("data", "quantisation"),
    [
        (file_of(), ""),
        (file_of(version=2), ""),
        (file_of()[:24], ""),
        (file_of(tensors=[W], body=8), "F32"),
        (file_of(tensors=[W], body=32), "F32"),  # padded, as llama.cpp writes
        (file_of(tensors=[tensor("e", (0, 4), 30, 0), W], body=8), "F32"),
        (file_of(tensors=[tensor("s", (), 30, 0)], body=2), "BF16"),
        (file_of([key("general.file_type", 4, b"\xff\0\0\0")], [W], 8), "F32"),
        (
            file_of([key("general.alignment", 4, struct.pack("<I", 1))],
                    [tensor("a", (3,), 24, 0), tensor("b", (1,), 24, 3)], 4, alignment=1), "I8",
        ),
    ],
)  # fmt: skip
def test_of_what_type_a_file_is(data: bytes, quantisation: str) -> None:
    found = read(data)
    assert found.quantisation == quantisation
    assert found.architecture == ""


def test_of_long_lists_and_tensors_nothing_is_read() -> None:
    data = file_of(
        [key("a", 9, struct.pack("<IQ", 4, 1 << 18) + bytes(1 << 20))],
        [tensor("w", (1 << 18,), 0, 0)],
        1 << 20,
    )
    seen = []

    def reading(begin: int, end: int) -> bytes:
        seen.append(end - begin)
        return data[begin:end]

    assert parse(reading, len(data)).metadata["a"] == ArrayValue(1 << 18)
    assert sum(seen) <= 256 << 10


def test_what_a_header_makes_one_read_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_HEADER", 100)
    monkeypatch.setattr(gguf_metadata, "MAX_HEADER", 100)
    with pytest.raises(IntegrityError, match="more than 100 bytes"):
        read(file_of([key("a" * 90, 4, bytes(4)), key("b", 4, bytes(4))]))
    with pytest.raises(IntegrityError, match="the limit is 100"):
        read(file_of([key("a", 8, text(b"x" * 200))]))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_an_altered_header_is_refused_or_still_covers_the_file(data: st.DataObject) -> None:
    sound = bytearray(
        file_of(
            [key("general.alignment", 4, struct.pack("<I", 32)), key("k", 8, text(b"value"))],
            [tensor("a", (32, 2), 8, 0), tensor("b", (3,), 0, 96)],
            96 + 12,
        )
    )
    for _ in range(data.draw(st.integers(1, 3))):
        sound[data.draw(st.integers(0, len(sound) - 109))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(sound))
    except (IntegrityError, InvalidRequest) as refused:
        if refused.code not in {"bad_gguf", "unsupported_gguf"}:
            raise
        return
    for here, there in pairwise(found.tensors):
        assert here.end <= there.begin
    assert not found.tensors or found.tensors[-1].end <= len(sound)
