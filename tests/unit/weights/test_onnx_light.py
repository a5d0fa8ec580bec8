from __future__ import annotations

import pytest

from modelvault.errors import IntegrityError
from modelvault.weights.onnx import External, externals
from modelvault.weights.onnx_light import LARGE, lighten, location
from modelvault.weights.protobuf import field
from support.onnx_files import external, graph_of, inline, model_of

RAW = bytes(range(256)) * (LARGE // 256)
CONSTANT = field(1, field(5, field(5, inline(RAW))))


def light(data: bytes) -> bytes:
    return lighten(lambda begin, end: data[begin:end], len(data), "sub/m.onnx")


def named(data: bytes) -> tuple[External, ...]:
    return externals(lambda begin, end: data[begin:end], len(data), "sub/m.onnx")


@pytest.mark.parametrize("graph", [graph_of(inline(RAW)), CONSTANT])
def test_a_large_tensor_is_described_by_its_place(graph: bytes) -> None:
    data = model_of(graph + field(2, b"name"))
    found = light(data)
    assert RAW not in found
    (one,) = named(found)
    begin = data.index(RAW)
    assert one == External("m.onnx", "sub/m.onnx", begin + LARGE, LARGE)
    assert location("sub/m.onnx") == "m.onnx"
    assert field(2, b"name") in found


LEFT = {
    "small": inline(RAW[:-1]),
    "elsewhere": external("w.data", offset=0, length=4),
    "elsewhere with data": external("w.data") + field(9, RAW),
    "texts": inline(RAW) + field(2, 8),
    "data twice": inline(RAW) + field(9, RAW),
    "without data": field(1, 4) + field(2, 1) + field(4, RAW),
}


@pytest.mark.parametrize("case", LEFT)
def test_whatever_else_stays_as_it_is(case: str) -> None:
    data = model_of(graph_of(LEFT[case]) + field(99, 7)) + field(8, b"opset")
    assert light(data) == data


def test_what_cant_be_a_model_is_refused() -> None:
    with pytest.raises(IntegrityError, match=r"sub/m\.onnx: not a sound ONNX model") as caught:
        light(model_of(graph_of(inline(RAW)))[:-1])
    assert caught.value.code == "bad_onnx"
