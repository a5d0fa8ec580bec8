from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load, save

from modelvault.errors import IntegrityError
from modelvault.weights import safetensors
from modelvault.weights.safetensors import TensorInfo, header_size, parse


def file_of(header: object, body: int = 0, *, pad: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += pad
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(body)


def read(data: bytes) -> tuple[TensorInfo, ...]:
    return parse(data[: header_size(data[:8], len(data))], len(data))


def row(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


LIES = {
    "offsets outside": (file_of({"a": row(offsets=(8, 16))}, 8), "leaves a hole"),
    "end behind the file": (file_of({"a": row()}, 4), "behind the file's end"),
    "end before begin": (file_of({"a": row(offsets=(8, 0))}, 8), "its offsets 8 to 0 hold -8"),
    "overlap": (file_of({"a": row(), "b": row(offsets=(4, 12))}, 12), "overlaps the one before"),
    "same place": (file_of({"a": row(), "b": row()}, 8), "overlaps the one before"),
    "hole": (file_of({"a": row(), "b": row(offsets=(12, 20))}, 20), "leaves a hole"),
    "hole at the beginning": (file_of({"a": row(offsets=(4, 12))}, 12), "leaves a hole"),
    "trailing bytes": (file_of({"a": row()}, 9), "1 bytes behind the last"),
    "body without tensors": (file_of({}, 3), "3 bytes behind the last"),
    "negative offset": (file_of({"a": row(offsets=(-8, 0))}, 8), ">= 0"),
    "huge offset": (file_of({"a": row(offsets=(0, 2**60))}, 8), "2^53"),
    "huge end": (file_of({"a": row(offsets=(0, 2**53 - 1))}, 8), "takes 8 bytes"),
    "bool offset": (file_of({"a": row(offsets=(False, 8))}, 8), "got `bool`"),
    "float offset": (file_of({"a": row(offsets=(0.0, 8.0))}, 8), "whole number"),
    "text offset": (file_of({"a": row(offsets=("0", "8"))}, 8), "got `str`"),
    "one offset": (file_of({"a": row(offsets=(8,))}, 8), "length 2"),
    "three offsets": (file_of({"a": row(offsets=(0, 8, 8))}, 8), "length 2"),
    "negative shape": (file_of({"a": row(shape=(-2,))}, 8), ">= 0"),
    "bool in shape": (file_of({"a": row(shape=(True, 2))}, 8), "got `bool`"),
    "float in shape": (file_of({"a": row(shape=(2.0,))}, 8), "whole number"),
    "shape is a number": (file_of({"a": row(shape=2)}, 8), "got `int`"),
    "shape too large": (file_of({"a": row(shape=(3,))}, 8), "takes 12 bytes"),
    "shape too small": (file_of({"a": row(shape=())}, 8), "takes 4 bytes"),
    "shape that overflows": (file_of({"a": row(shape=(2**31, 2**31, 4))}, 8), "beyond any memory"),
    "zeros hide a shape": (
        file_of({"a": row(shape=(0, 2**52, 2**52), offsets=(0, 0))}),
        "beyond any memory",
    ),
    "too many dimensions": (file_of({"a": row(shape=[1] * 65)}, 4), "length <= 64"),
    "unknown dtype": (file_of({"a": row(dtype="F33")}, 8), "no dtype 'F33'"),
    "lower-case dtype": (file_of({"a": row(dtype="f32")}, 8), "no dtype"),
    "dtype a number": (file_of({"a": row(dtype=32)}, 8), "got `int`"),
    "dtype that doesn't fit": (file_of({"a": row(dtype="F64")}, 8), "takes 16 bytes"),
    "half a byte": (file_of({"a": row("F4", (3,), (0, 1))}, 1), "within a byte"),
    "missing field": (file_of({"a": {"dtype": "F32", "shape": [2]}}, 8), "data_offsets"),
    "unknown field": (file_of({"a": {**row(), "x": 1}}, 8), "unknown field"),
    "tensor a list": (file_of({"a": [1]}, 8), "got `array`"),
    "name twice": (
        file_of(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
                b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
        "twice",
    ),
    **{
        f"{where} twice": (file_of(b"{" + text + b"}", 4), "twice")
        for where, text in {
            "dtype": b'"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}',
            "shape": b'"a":{"dtype":"I32","shape":[],"shape":[1],"data_offsets":[0,4]}',
            "offsets": b'"a":{"dtype":"I32","shape":[1],"data_offsets":[4,8],"data_offsets":[0,4]}',
            "dtype of one that is named like metadata":
                b'"__metadata__x":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}',
            "dtype where a text says metadata":
                b'"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]},'
                b'"__metadata__":{"x":"__metadata__"}',
            "a key of metadata":
                b'"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]},'
                b'"__metadata__":{"x":"1","x":"2"}',
            "metadata":
                b'"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]},'
                b'"__metadata__":{},"__metadata__":{}',
        }.items()
    },
    "metadata a number": (file_of({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata a list": (file_of({"__metadata__": []}), "__metadata__"),
    "metadata null": (file_of({"__metadata__": None}), "__metadata__"),
    "not JSON": (file_of(b"{nope}"), "not strict JSON"),
    "NaN": (file_of(b'{"a":NaN}'), "whole number"),
    "a list": (file_of([]), "isn't a JSON object"),
    "leading space": (file_of(b" {}"), "isn't a JSON object"),
    "two objects": (file_of(b"{}{}"), "not strict JSON"),
    "not UTF-8": (file_of(b'{"\xff":1}'), "UTF-8"),
    "NUL padding": (file_of({}, pad=b"\0\0"), "not strict JSON"),
    "deep": (file_of(b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"), "deeper"),
    "surrogate": (file_of(b'{"\\ud800":1}'), "surrogate"),
    "JSON": (b'{"a": [1, 2, 3]}', "it is JSON"),
    "a little JSON": (b"[1]", "it is JSON"),
    "text": (b"<!DOCTYPE html>", "it is text"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "GGUF": (b"GGUF" + bytes([3, 0, 0, 0, 9]), "it is a GGUF file"),
    "torch's archive": (b"PK\x03\x04\x14\x00\x00\x00\x08", "it is a zip archive"),
    "a pickle": (b"\x80\x02}q\x00X\x01\x00\x00\x00a", "it is a pickle"),
    "no header": (b"", "too few"),
    "7 bytes": (bytes(7), "too few"),
    "empty header": (bytes(8), "isn't a JSON object"),
    "header longer than the file": (file_of({}, length=3), "in a file of 10"),
    "header shorter than it is": (file_of({"a": row()}, 8, length=4), "not strict JSON"),
    "header over the limit": (file_of({}, length=100_000_001), "the limit is 100,000,000"),
    "header of 2^64-1": (file_of({}, length=2**64 - 1), "the limit is"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_lying_headers_are_refused(case: str) -> None:
    data, why = LIES[case]
    with pytest.raises(IntegrityError) as caught:
        read(data)
    assert caught.value.code == "bad_safetensors"
    assert why in caught.value.message
    assert caught.value.hint


def test_the_tensor_is_named_but_not_at_any_length() -> None:
    with pytest.raises(IntegrityError, match=r"tensor 'wte\.weight'"):
        read(file_of({"wte.weight": row(dtype="?")}, 8))
    with pytest.raises(IntegrityError) as caught:
        read(file_of({"a": {**row(), "\n\u202e" + "x" * 10_000: 1}}, 8))
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500
    with pytest.raises(IntegrityError) as caught:
        read(file_of({"x" * 10_000: row(dtype="?")}, 8))
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (file_of({}), []),
        (file_of({"__metadata__": {"format": "pt"}}), []),
        (file_of({"a": row()}, 8, pad=b"     "), [("a", "F32", (2,), 8)]),
        (file_of({"a": row("F4", (4,), (0, 2))}, 2), [("a", "F4", (4,), 2)]),
        (file_of({"a": row("F6_E2M3", (4,), (0, 3))}, 3), [("a", "F6_E2M3", (4,), 3)]),
        (file_of({"": row("U8", (), (0, 1))}, 1), [("", "U8", (), 1)]),
        (
            file_of({"b": row("U8", (3,), (0, 3)), "e": row("I64", (0, 7), (3, 3)),
                     "a": row("C64", (1,), (3, 11))}, 11),
            [("b", "U8", (3,), 3), ("e", "I64", (0, 7), 0), ("a", "C64", (1,), 8)],
        ),
    ],
)  # fmt: skip
def test_sound_headers_are_read(data: bytes, found: list) -> None:
    tensors = read(data)
    assert [(t.name, t.dtype, t.shape, t.size) for t in tensors] == found
    assert not tensors or tensors[-1].end == len(data)


def test_a_header_given_short_or_long_is_refused() -> None:
    data = file_of({"a": row()}, 8)
    for header in (data, data[:-9]):
        with pytest.raises(IntegrityError, match="length field"):
            parse(header, len(data))


def test_the_dtypes_are_those_of_the_safetensors_package() -> None:
    from safetensors import TensorSpec, serialize

    code = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
            "F8_E8M0": "float8_e8m0fnu", "C64": "complex64", "BOOL": "bool"}  # fmt: skip
    block = np.zeros(1, "u8")
    for dtype, name in code.items():
        size = safetensors.BITS[dtype] // 8
        spec = TensorSpec(dtype=name, shape=(1,), data_ptr=block.ctypes.data, data_len=size)
        assert read(bytes(serialize({"a": spec})))[0].dtype == dtype


NUMPY = [np.bool_, "u1", "i1", "<u2", "<i2", "<f2", "<u4", "<i4", "<f4", "<u8", "<i8", "<f8", "<c8"]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
            lambda name: name != "__metadata__"
        ),
        st.sampled_from(NUMPY).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
        ),
        max_size=5,
    ),
    st.none() | st.dictionaries(st.text(max_size=4), st.text(max_size=4), min_size=1, max_size=2),
)
def test_agrees_with_the_safetensors_package(
    arrays: dict[str, np.ndarray], metadata: dict[str, str] | None
) -> None:
    data = save(arrays, metadata)
    theirs = load(data)
    ours = read(data)
    assert {tensor.name for tensor in ours} == set(theirs) == set(arrays)
    for tensor in ours:
        assert data[tensor.begin : tensor.end] == theirs[tensor.name].tobytes()
        assert tensor.shape == arrays[tensor.name].shape


PIECES = [
    b"{", b"}", b"[", b"]", b":", b",", b'"', b" ", b"\\", b"\\u0041", b"0", b"4", b"-", b"1.0",
    b'"a"', b'"b:"', b'"dtype"', b'"F32"', b'"shape"', b"[1]", b'"data_offsets"', b"[0,4]",
    b'"__metadata__"', b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}', b"\xff", b"\n",
]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_the_short_way_through_a_header_finds_what_the_long_one_does(data: st.DataObject) -> None:
    text = bytearray(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"__metadata__":{"b":"c"}}'
    )
    for _ in range(data.draw(st.integers(0, 4))):
        begin = data.draw(st.integers(0, len(text)))
        end = begin + data.draw(st.sampled_from([0, 0, 0, 1, 2, 9, 30]))
        text[begin:end] = b"".join(data.draw(st.lists(st.sampled_from(PIECES), max_size=3)))
    short = safetensors._plain_rows(bytes(text))
    if short is not None:
        assert short == safetensors._strict_rows(bytes(text))


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} ',
        b'{"__metadata__":{"b":"c"}}',
    ],
)
def test_most_headers_go_the_short_way(text: bytes) -> None:
    assert safetensors._plain_rows(text) == safetensors._strict_rows(text)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_an_altered_header_is_refused_or_still_covers_the_file(data: st.DataObject) -> None:
    sound = bytearray(file_of({"a": row(), "b": row("U8", (3,), (8, 11))}, 11))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(sound) - 12))
        sound[position] = data.draw(st.integers(0, 255))
    try:
        tensors = read(bytes(sound))
    except IntegrityError as refused:
        if refused.code != "bad_safetensors":
            raise
        return
    spans = sorted((tensor.begin, tensor.end) for tensor in tensors)
    assert all(here[1] == there[0] for here, there in pairwise(spans))
    assert spans[-1][1] == len(sound)
